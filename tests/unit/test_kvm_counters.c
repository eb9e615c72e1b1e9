// What a kvm processor's counters are made of: the kernel's statistics as a file of this form or that, and the engine's
// own counts.
#include "unit.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#include "engine/kvm/host.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/stats.h"
#include "engine/kvm/vcpu.h"

const struct engine *const engines[] = {NULL};

// ---- The kernel ------------------------------------------------------------------------------------------

#define NAME_SIZE 48u

static struct kvm_host host;
static struct {
    struct { const char *name; uint64_t value; uint16_t size; } list[16];
    unsigned count, cut;        // bytes that the file lacks at its end
    int error;
    int opens;
} stats;

const struct kvm_host *__wrap_kvm_host(void);
const struct kvm_host *__wrap_kvm_host(void)
{
    return &host;
}

int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument);
int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument)
{
    (void)fd, (void)argument;
    fail_msg("request %lx", request);
    return -ENOTTY;
}

int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    char bytes[sizeof(struct kvm_stats_desc) + NAME_SIZE] __attribute__((aligned(8)));
    struct kvm_stats_desc *descriptor = (struct kvm_stats_desc *)bytes;
    struct kvm_stats_header header = {
        .name_size = NAME_SIZE, .num_desc = stats.count, .id_offset = sizeof(header),
        .desc_offset = sizeof(header) + NAME_SIZE,
    };
    int file;

    (void)fd, (void)value;
    assert_int_equal(request, KVM_GET_STATS_FD);
    stats.opens++;
    if (stats.error)
        return -stats.error;
    header.data_offset = header.desc_offset + stats.count * (uint32_t)sizeof(bytes);
    file = memfd_create("stats", MFD_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(pwrite(file, &header, sizeof(header), 0), sizeof(header));
    for (unsigned n = 0; n < stats.count; n++) {
        memset(bytes, 0, sizeof(bytes));
        descriptor->size = stats.list[n].size ? stats.list[n].size : 1;
        descriptor->offset = 16 * n;
        memcpy(bytes + sizeof(*descriptor), stats.list[n].name, strlen(stats.list[n].name));
        assert_int_equal(pwrite(file, bytes, sizeof(bytes), header.desc_offset + n * (off_t)sizeof(bytes)),
                         sizeof(bytes));
        assert_int_equal(pwrite(file, &stats.list[n].value, 8, header.data_offset + 16 * (off_t)n), 8);
    }
    if (stats.cut)
        assert_int_equal(ftruncate(file, lseek(file, 0, SEEK_END) - stats.cut), 0);
    return file;
}

static void tell(const char *name, uint64_t value)
{
    for (unsigned n = 0; n < stats.count; n++)
        if (strcmp(stats.list[n].name, name) == 0) {
            stats.list[n].value = value;
            return;
        }
    stats.list[stats.count].name = name;
    stats.list[stats.count++].value = value;
}

// ---- A processor -----------------------------------------------------------------------------------------

static struct kvm_vcpu *v;
static struct vp vp;

static int setup(void **state)
{
    (void)state;
    memset(&stats, 0, sizeof(stats));
    host = (struct kvm_host){.tsc_khz = 1000000, .stats = true, .hardware = true};     // a tick is a nanosecond
    v = mmap(NULL, sizeof(*v), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(v, MAP_FAILED);
    vp.engine_data = v;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return munmap(v, sizeof(*v));
}

static struct processor_counters counters(void)
{
    struct processor_counters c;

    assert_ok(kvm_counters(&vp, &c));
    return c;
}

// ---- Tests -----------------------------------------------------------------------------------------------

static void test_file(void **state)
{
    struct kvm_stats s;

    (void)state;
    tell("something else", 5);
    tell("exits", 77);
    tell("exits_of_a_kind", 6);
    tell("pf_taken", 88);
    assert_ok(kvm_stats_read(3, &s));
    assert_int_equal(s.known, 1u << KVM_STAT_exits | 1u << KVM_STAT_pf_taken);
    assert_int_equal(s.value[KVM_STAT_exits], 77);
    assert_int_equal(s.value[KVM_STAT_pf_taken], 88);
    // A file that ends before what it promises; a figure that is not one; no descriptor to be had.
    stats.cut = 8;
    assert_hr(kvm_stats_read(3, &s), E_FAIL);
    stats.cut = 200;
    assert_hr(kvm_stats_read(3, &s), E_FAIL);
    stats.cut = 0;
    stats.list[1].size = 32;
    assert_hr(kvm_stats_read(3, &s), E_FAIL);
    stats.list[1].size = 1;
    stats.error = EMFILE;
    assert_hr(kvm_stats_read(3, &s), E_OUTOFMEMORY);
    assert_hr(kvm_counters(&vp, &(struct processor_counters){0}), E_OUTOFMEMORY);
    // An older kernel is not asked.
    host.stats = false;
    stats.opens = 0;
    assert_ok(kvm_stats_read(3, &s));
    assert_int_equal(s.known, 0);
    assert_int_equal(stats.opens, 0);
}

static void test_figures(void **state)
{
    struct processor_counters c;

    (void)state;
    v->p.exits.of_cpu[X86_EXIT_MEMORY].count = 3;
    v->p.exits.of_cpu[X86_EXIT_MSR].count = 4;
    v->p.exits.other.count = 9;
    v->p.cpu.counts.instruction[X86_COUNT_HALT].count = 2;
    v->told_halts = 1;
    c = counters();                     // the engine's own alone
    assert_int_equal(c.intercepts.PageFaultIntercepts.Count, 3);
    assert_int_equal(c.intercepts.OtherIntercepts.Count, 9);
    assert_int_equal(c.intercepts.HaltInstructions.Count, 2);
    tell("pf_taken", 20);
    tell("pf_guest", 1);
    tell("pf_mmio_spte_created", 2);    // of the exits for memory two began as page faults
    tell("halt_exits", 6);              // one of them came to the engine
    tell("irq_injections", 7);
    tell("nmi_injections", 8);
    c = counters();
    assert_int_equal(c.intercepts.PageFaultIntercepts.Count, 3 + 20 - 1 - 2);
    assert_int_equal(c.intercepts.HaltInstructions.Count, 2 + 6 - 1);
    assert_int_equal(c.events.PageFaultCount, 1);
    assert_int_equal(c.events.InterruptCount, 15);
    assert_int_equal(c.intercepts.OtherIntercepts.Count, 9);
    tell("exits", 100);
    tell("io_exits", 30);
    c = counters();                     // in place of the engine's own
    assert_int_equal(c.intercepts.OtherIntercepts.Count, 100 + 2 - 30 - 6 - 20 - 4);
    // What has been told does not go back, whatever the kernel says.
    tell("irq_injections", 0);
    tell("exits", 50);
    assert_int_equal(counters().events.InterruptCount, 15);
    assert_int_equal(counters().intercepts.OtherIntercepts.Count, 42);
}

// KVM's own processor may have served another before.
static void test_from_creation(void **state)
{
    (void)state;
    tell("hypercalls", 40);
    assert_ok(kvm_counters_start(v, true));
    assert_int_equal(counters().intercepts.Hypercalls.Count, 0);
    tell("hypercalls", 45);
    assert_int_equal(counters().intercepts.Hypercalls.Count, 5);
}

static void test_time(void **state)
{
    struct processor_counters c;

    (void)state;
    v->runtime.own = 1000;
    v->runtime.inside = 4000;
    c = counters();
    assert_int_equal(c.runtime.TotalRuntime100ns, 50);
    assert_int_equal(c.runtime.HypervisorRuntime100ns, 10);
    v->runtime.inside = 9000;
    tell("halt_wait_ns", 3000);
    assert_int_equal(counters().runtime.TotalRuntime100ns, 70);
}

// The first runs are measured and then few; what is measured stands for all of them, and nothing for more.
static void test_measured_runs(void **state)
{
    unsigned runs = 0, stand = 0, measured = 0;

    (void)state;
    while (runs < 16 + 17 * 100) {
        kvm_runtime_begin(v);
        stand += v->runtime.weight;
        measured += v->runtime.weight != 0;
        kvm_runtime_end(v, NULL);
        runs++;
        assert_true(stand <= runs && runs - stand < 17);
    }
    assert_int_equal(stand, runs);
    assert_int_equal(measured, 116);
    assert_true(v->runtime.own > 0);
    // Time in KVM_RUN is no time of the engine's.
    v->runtime = (struct kvm_runtime){0};
    kvm_runtime_begin(v);
    v->runtime.inside += 1ull << 62;
    kvm_runtime_end(v, NULL);
    assert_int_equal(v->runtime.own, 0);
}

// KVM's page tables on hardware; without them, the host's.
static void test_memory(void **state)
{
    struct kvm_partition kvm = {.vm = 3};
    struct partition p = {.engine_data = &kvm};
    WHV_PARTITION_MEMORY_COUNTERS c;

    (void)state;
    tell("pages_4k", 11);
    tell("pages_2m", 12);
    assert_ok(kvm_memory_counters(&p, &c));     // not all of them: nothing is mapped by the host
    assert_int_equal(c.Mapped4KPageCount, 0);
    tell("pages_1g", 13);
    assert_ok(kvm_memory_counters(&p, &c));
    assert_int_equal(c.Mapped4KPageCount, 11);
    assert_int_equal(c.Mapped2MPageCount, 12);
    assert_int_equal(c.Mapped1GPageCount, 13);
    host.hardware = false;
    assert_ok(kvm_memory_counters(&p, &c));
    assert_int_equal(c.Mapped4KPageCount, 0);
    host.hardware = true;
    stats.error = EACCES;
    assert_hr(kvm_memory_counters(&p, &c), E_ACCESSDENIED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_figures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_from_creation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_measured_runs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
