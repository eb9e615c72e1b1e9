// Runs assembly guests: flat binaries that check themselves and say where a check failed.
//
//   guests DIRECTORY [NAME]
//
// A guest talks to the runner through three ports and a record in its memory (check.inc):
//   0xf0  a check failed: the record has the line, what was found and what was expected
//   0xf4  the end; AL is the status, 0 when the guest is content
//   0xf8  anything else: the row's on_exit answers
#include "guests.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <cmocka.h>

#include "../support/engine.h"

enum { PORT_FAILED = 0xf0, PORT_END = 0xf4, SECONDS = 30 };

struct record {                 // known to check.inc
    uint32_t line, unused;
    uint64_t got, expected;
    uint32_t count;
};
#define RECORD_ADDRESS 0x7000u

struct processor {
    struct run *run;
    UINT32 index;
    pthread_t thread;
};

// Ends a run that takes too long, or whose first processor is done.
struct watch {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct run *run;
    UINT32 processors;
    bool stop;                  // all processors are to leave
    bool done;                  // the watch's thread is to leave
    bool too_long;
};

static const char *guest_directory;
static struct watch watch;

static void require(HRESULT result, const char *call)
{
    if (FAILED(result))
        fail_msg("%s: 0x%08x", call, (unsigned)result);
}
#define REQUIRE(call) require(call, #call)

void run_fail(struct run *run, const char *what, uint64_t got, uint64_t expected)
{
    print_error("%s: %s: got 0x%llx, expected 0x%llx\n", run->guest->name, what, (unsigned long long)got,
                (unsigned long long)expected);
    __atomic_add_fetch(&run->failures, 1, __ATOMIC_RELAXED);
}

UINT64 run_get(struct run *run, UINT32 vp, WHV_REGISTER_NAME name)
{
    WHV_REGISTER_VALUE value = { 0 };
    HRESULT result = WHvGetVirtualProcessorRegisters(run->partition, vp, &name, 1, &value);
    if (FAILED(result))
        run_fail(run, "WHvGetVirtualProcessorRegisters", (UINT32)result, 0);
    return value.Reg64;
}

void run_set(struct run *run, UINT32 vp, WHV_REGISTER_NAME name, UINT64 value)
{
    WHV_REGISTER_VALUE v = { .Reg64 = value };
    HRESULT result = WHvSetVirtualProcessorRegisters(run->partition, vp, &name, 1, &v);
    if (FAILED(result))
        run_fail(run, "WHvSetVirtualProcessorRegisters", (UINT32)result, 0);
}

void run_skip(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    run_set(run, vp, WHvX64RegisterRip, exit->VpContext.Rip + exit->VpContext.InstructionLength);
}

static void print_exit(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const WHV_VP_EXIT_CONTEXT *c = &exit->VpContext;
    const struct record *record = (const struct record *)(run->memory + RECORD_ADDRESS);
    print_error("%s: processor %u: unexpected exit 0x%x at %04x:%llx (base %llx), rflags %llx, length %u, behind line %u\n",
                run->guest->name, vp, exit->ExitReason, c->Cs.Selector, (unsigned long long)c->Rip,
                (unsigned long long)c->Cs.Base, (unsigned long long)c->Rflags, c->InstructionLength, record->line);
    if (exit->ExitReason == WHvRunVpExitReasonMemoryAccess)
        print_error("    access %u, unmapped %u, gpa %llx, gva %llx\n",
                    exit->MemoryAccess.AccessInfo.AccessType, exit->MemoryAccess.AccessInfo.GpaUnmapped,
                    (unsigned long long)exit->MemoryAccess.Gpa, (unsigned long long)exit->MemoryAccess.Gva);
    if (exit->ExitReason == WHvRunVpExitReasonException)
        print_error("    vector %u, error code %x, parameter %llx\n", exit->VpException.ExceptionType,
                    exit->VpException.ErrorCode, (unsigned long long)exit->VpException.ExceptionParameter);
    if (exit->ExitReason == WHvRunVpExitReasonX64IoPortAccess)
        print_error("    port %x\n", exit->IoPortAccess.PortNumber);
    print_error("    rax %llx rcx %llx rdx %llx rsp %llx cr0 %llx cr2 %llx cr3 %llx cr4 %llx efer %llx\n",
                (unsigned long long)run_get(run, vp, WHvX64RegisterRax),
                (unsigned long long)run_get(run, vp, WHvX64RegisterRcx),
                (unsigned long long)run_get(run, vp, WHvX64RegisterRdx),
                (unsigned long long)run_get(run, vp, WHvX64RegisterRsp),
                (unsigned long long)run_get(run, vp, WHvX64RegisterCr0),
                (unsigned long long)run_get(run, vp, WHvX64RegisterCr2),
                (unsigned long long)run_get(run, vp, WHvX64RegisterCr3),
                (unsigned long long)run_get(run, vp, WHvX64RegisterCr4),
                (unsigned long long)run_get(run, vp, WHvX64RegisterEfer));
}

static bool stopping(void)
{
    pthread_mutex_lock(&watch.lock);
    bool stop = watch.stop;
    pthread_mutex_unlock(&watch.lock);
    return stop;
}

static enum answer answer_port(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    const struct record *record = (const struct record *)(run->memory + RECORD_ADDRESS);
    switch (exit->IoPortAccess.PortNumber) {
    case PORT_FAILED: {
        char line[32];
        snprintf(line, sizeof(line), "line %u", record->line);
        run_fail(run, line, record->got, record->expected);
        run_skip(run, vp, exit);
        return ANSWER_CONTINUE;
    }
    case PORT_END:
        if (exit->IoPortAccess.Rax & 0xff)
            run_fail(run, "status", exit->IoPortAccess.Rax & 0xff, 0);
        if (run->guest->end)
            run_fail(run, "the end came by the port, not by exit", 0, (uint64_t)run->guest->end);
        return ANSWER_END;
    default:
        return ANSWER_UNEXPECTED;
    }
}

static enum answer answer_exit(struct run *run, UINT32 vp, const WHV_RUN_VP_EXIT_CONTEXT *exit)
{
    enum answer answer = ANSWER_UNEXPECTED;
    if (exit->ExitReason == WHvRunVpExitReasonX64IoPortAccess)
        answer = answer_port(run, vp, exit);
    if (answer == ANSWER_UNEXPECTED && run->guest->on_exit)
        answer = run->guest->on_exit(run, vp, exit);
    if (answer == ANSWER_UNEXPECTED && run->guest->end && exit->ExitReason == run->guest->end)
        answer = ANSWER_END;
    if (answer == ANSWER_UNEXPECTED) {
        print_exit(run, vp, exit);
        __atomic_add_fetch(&run->failures, 1, __ATOMIC_RELAXED);
    }
    return answer;
}

static void *run_processor(void *argument)
{
    struct processor *p = argument;
    struct run *run = p->run;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    enum answer answer = ANSWER_CONTINUE;
    while (answer == ANSWER_CONTINUE && !stopping()) {
        HRESULT result = WHvRunVirtualProcessor(run->partition, p->index, &exit, sizeof(exit));
        if (FAILED(result)) {
            run_fail(run, "WHvRunVirtualProcessor", (UINT32)result, 0);
            break;
        }
        if (exit.ExitReason == WHvRunVpExitReasonCanceled && stopping())
            break;
        answer = answer_exit(run, p->index, &exit);
    }
    // The end of one is the end of all.
    pthread_mutex_lock(&watch.lock);
    watch.stop = true;
    pthread_cond_broadcast(&watch.changed);
    pthread_mutex_unlock(&watch.lock);
    return NULL;
}

static void *watch_run(void *unused)
{
    (void)unused;
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += engine_is_interpreted() ? 6 * SECONDS : SECONDS;
    pthread_mutex_lock(&watch.lock);
    while (!watch.stop && !watch.too_long)
        watch.too_long = pthread_cond_timedwait(&watch.changed, &watch.lock, &end) != 0;
    watch.stop = true;
    // A cancel is latched, so one for each processor is enough, whatever it does now.
    for (UINT32 i = 0; i < watch.processors; i++)
        WHvCancelRunVirtualProcessor(watch.run->partition, i, 0);
    pthread_mutex_unlock(&watch.lock);
    return NULL;
}

static void load(struct run *run)
{
    char path[1024];
    snprintf(path, sizeof(path), "%s/%s.bin", guest_directory, run->guest->name);
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s: cannot be opened", path);
    size_t size = fread(run->memory + GUEST_LOAD, 1, GUEST_MEMORY_SIZE - GUEST_LOAD, f);
    fclose(f);
    assert_true(size > 0);
}

static void set_property(struct run *run, WHV_PARTITION_PROPERTY_CODE code, UINT64 value)
{
    WHV_PARTITION_PROPERTY property;
    memset(&property, 0, sizeof(property));
    memcpy(&property, &value, sizeof(value));
    REQUIRE(WHvSetPartitionProperty(run->partition, code, &property, sizeof(property)));
}

static void create(struct run *run, UINT32 processors)
{
    const struct guest *guest = run->guest;
    REQUIRE(WHvCreatePartition(&run->partition));
    set_property(run, WHvPartitionPropertyCodeProcessorCount, processors);
    if (guest->apic)
        set_property(run, WHvPartitionPropertyCodeLocalApicEmulationMode, guest->apic);
    if (guest->exits.AsUINT64)
        set_property(run, WHvPartitionPropertyCodeExtendedVmExits, guest->exits.AsUINT64);
    if (guest->exception_bitmap)
        set_property(run, WHvPartitionPropertyCodeExceptionExitBitmap, guest->exception_bitmap);
    REQUIRE(WHvSetupPartition(run->partition));
    REQUIRE(WHvMapGpaRange(run->partition, run->memory, 0, GUEST_MEMORY_SIZE,
                           WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute));
    for (UINT32 i = 0; i < processors; i++)
        REQUIRE(WHvCreateVirtualProcessor(run->partition, i, 0));

    WHV_REGISTER_NAME names[2] = { WHvX64RegisterCs, WHvX64RegisterRip };
    WHV_REGISTER_VALUE values[2] = { 0 };
    values[0].Segment.Limit = 0xffff;
    values[0].Segment.Attributes = 0x9b;        // present, code, readable, accessed
    values[1].Reg64 = GUEST_LOAD;
    REQUIRE(WHvSetVirtualProcessorRegisters(run->partition, 0, names, 2, values));
}

// What a row asks for and the engine lacks is refused, as documented.
static bool engine_has_all(const struct guest *guest)
{
    if (guest->vector_code)
        needs_vector_code();
    for (unsigned bit = 0; bit < 64; bit++) {
        WHV_EXTENDED_VM_EXITS exit = { .AsUINT64 = guest->exits.AsUINT64 & 1ull << bit };
        if (exit.AsUINT64 && !engine_has_exits(exit))
            return false;
    }
    return engine_has_vectors(guest->exception_bitmap) && (!guest->apic || engine_has_apic());
}

static void run_guest(void **state)
{
    struct run run = { .guest = *state };
    struct processor processors[GUEST_MAX_PROCESSORS];
    UINT32 count = run.guest->processors ? run.guest->processors : 1;
    NEEDS(engine_has_all(run.guest));
    run.memory = mmap(NULL, GUEST_MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(run.memory, MAP_FAILED);
    load(&run);
    create(&run, count);
    if (run.guest->prepare)
        assert_true(run.guest->prepare(&run));

    watch = (struct watch){ .run = &run, .processors = count };
    pthread_mutex_init(&watch.lock, NULL);
    pthread_cond_init(&watch.changed, NULL);
    pthread_t watcher;
    assert_int_equal(pthread_create(&watcher, NULL, watch_run, NULL), 0);
    for (UINT32 i = 0; i < count; i++) {
        processors[i] = (struct processor){ .run = &run, .index = i };
        assert_int_equal(pthread_create(&processors[i].thread, NULL, run_processor, &processors[i]), 0);
    }
    for (UINT32 i = 0; i < count; i++)
        pthread_join(processors[i].thread, NULL);
    pthread_join(watcher, NULL);
    if (run.guest->finish)
        run.guest->finish(&run);

    const struct record *record = (const struct record *)(run.memory + RECORD_ADDRESS);
    uint32_t checks = record->count, line = record->line;
    if (watch.too_long)
        print_error("%s: does not end; the last check was line %u, rip 0x%llx\n", run.guest->name, line,
                    (unsigned long long)run_get(&run, 0, WHvX64RegisterRip));
    REQUIRE(WHvDeletePartition(run.partition));
    munmap(run.memory, GUEST_MEMORY_SIZE);
    if ((run.failures || watch.too_long) && run.guest->interpreted && engine_is_interpreted())
        SKIP_BECAUSE(run.guest->interpreted);
    assert_false(watch.too_long);
    assert_int_equal(run.failures, 0);
    assert_true(checks > 0);
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[64] = { 0 };
    size_t count = 0;
    if (argc < 2 || argc > 3 || guest_count > sizeof(tests) / sizeof(tests[0])) {
        fprintf(stderr, "usage: guests DIRECTORY [NAME]\n");
        return 2;
    }
    guest_directory = argv[1];
    for (unsigned i = 0; i < guest_count; i++) {
        if (argc == 3 && strcmp(argv[2], guests[i].name) != 0)
            continue;
        tests[count++] = (struct CMUnitTest){ .name = guests[i].name, .test_func = run_guest,
                                              .initial_state = (void *)&guests[i] };
    }
    if (!engine_usable())
        return ENGINE_NOT_USABLE;
    return _cmocka_run_group_tests("guests", tests, count, NULL, NULL);
}
