// The kvm engine's memory slots on the kernel's: many of them, cut and replaced, with a guest that reads and
// writes.
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/slots.h"

#define PAGE GPA_PAGE_SIZE
#define R WHvMapGpaRangeFlagRead
#define RWX (R | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute)
#define T WHvMapGpaRangeFlagTrackDirtyPages
#define MEMORY_PAGES 64u

static struct machine {
    int kvm, vm, vcpu;
    unsigned int stops;
    uint8_t *memory;
    size_t run_size;
    struct kvm_run *run;
    struct gpa_map map;
    struct kvm_slots slots;
} m;

static int must(int answer)
{
    assert_true(answer >= 0);
    return answer;
}

static void stop(void *context)
{
    (void)context;
    m.stops++;
}

static void go(void *context)
{
    (void)context;
}

static const struct kvm_quiesce quiesce = {stop, go, NULL};

static int setup(void **state)
{
    uint32_t limit;

    (void)state;
    memset(&m, 0, sizeof(m));
    m.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (m.kvm < 0) {
        // Another error than these is a failure of the test.
        assert_true(errno == ENOENT || errno == EACCES || errno == EPERM || errno == ENXIO);
        print_message("skipped: /dev/kvm: %s\n", strerror(errno));
        return 0;
    }
    limit = (uint32_t)must(kvm_ioctl_value(m.kvm, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS));
    m.vm = must(kvm_ioctl_value(m.kvm, KVM_CREATE_VM, 0));
    m.vcpu = must(kvm_ioctl_value(m.vm, KVM_CREATE_VCPU, 0));
    m.run_size = (size_t)must(kvm_ioctl_value(m.kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
    m.run = mmap(NULL, m.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu, 0);
    m.memory = mmap(NULL, MEMORY_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(m.run != MAP_FAILED && m.memory != MAP_FAILED);
    assert_ok(gpa_map_init(&m.map));
    kvm_slots_init(&m.slots, m.vm, limit);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (m.kvm < 0)
        return 0;
    kvm_slots_destroy(&m.slots);
    gpa_map_destroy(&m.map);
    munmap(m.memory, MEMORY_PAGES * PAGE);
    munmap(m.run, m.run_size);
    close(m.vcpu);
    close(m.vm);
    close(m.kvm);
    return 0;
}

static void put(uint64_t page, uint64_t pages, uint64_t memory_page, uint32_t flags)
{
    struct gpa_range range = {page * PAGE, pages * PAGE, m.memory + memory_page * PAGE, flags};

    assert_ok(gpa_map_insert(&m.map, &range, NULL));
    assert_ok(kvm_slots_update(&m.slots, &m.map, range.gpa, range.size, &quiesce));
}

static void take(uint64_t page, uint64_t pages)
{
    assert_ok(gpa_map_remove(&m.map, page * PAGE, pages * PAGE, NULL));
    assert_ok(kvm_slots_update(&m.slots, &m.map, page * PAGE, pages * PAGE, &quiesce));
}

// Run code in real mode, at the beginning of page 0, until it exits.
static uint32_t run(const uint8_t *code, size_t size)
{
    struct kvm_regs regs = {.rflags = 2};
    struct kvm_sregs sregs;

    memcpy(m.memory, code, size);
    must(kvm_ioctl(m.vcpu, KVM_GET_SREGS, &sregs));
    sregs.cs.base = sregs.cs.selector = 0;
    must(kvm_ioctl(m.vcpu, KVM_SET_SREGS, &sregs));
    must(kvm_ioctl(m.vcpu, KVM_SET_REGS, &regs));
    must(kvm_ioctl_value(m.vcpu, KVM_RUN, 0));
    return m.run->exit_reason;
}

static void test_many(void **state)
{
    enum { RANGES = 20000 };

    (void)state;
    if (m.kvm < 0)
        skip();
    for (unsigned int i = 0; i < RANGES; i++)
        put(i * 4, 2, i % (MEMORY_PAGES - 1), i % 2 ? R : RWX);
    assert_int_equal(m.slots.count, RANGES);
    assert_int_equal(m.stops, 0);
    // Halves go, parts are replaced, gaps are filled.
    for (unsigned int i = 0; i < RANGES; i += 100)
        take(i * 4 + i / 100 % 2, 1);
    for (unsigned int i = 50; i < RANGES; i += 100)
        put(i * 4 + 1, 2, 7, RWX | T);
    assert_true(kvm_slots_sound(&m.slots, &m.map));
    // A quarter is enough of what takes the kernel long.
    take(0, RANGES);
    assert_true(kvm_slots_sound(&m.slots, &m.map));
    assert_false(m.slots.incomplete);
}

static void test_page_by_page(void **state)
{
    (void)state;
    if (m.kvm < 0)
        skip();
    m.slots.limit = 8;
    for (unsigned int i = 0; i < MEMORY_PAGES; i++)
        put(i, 1, i, RWX);
    assert_true(m.slots.count <= 8);
    assert_true(kvm_slots_sound(&m.slots, &m.map));
}

static void test_guest(void **state)
{
    // mov al, [0x1000]; mov [0x2000], al; mov [0x5000], al; hlt
    static const uint8_t writer[] = {0xA0, 0x00, 0x10, 0xA2, 0x00, 0x20, 0xA2, 0x00, 0x50, 0xF4};
    uint64_t bitmap[1] = {0};

    (void)state;
    if (m.kvm < 0)
        skip();
    put(0, 16, 0, RWX | T);
    m.memory[1 * PAGE] = 0x5A;
    assert_int_equal(run(writer, sizeof(writer)), KVM_EXIT_HLT);
    assert_int_equal(m.memory[2 * PAGE], 0x5A);

    // Read in part, cut, and read on.
    assert_ok(kvm_slots_dirty(&m.slots, 0, 4 * PAGE, bitmap));
    assert_int_equal(bitmap[0], 1 << 2);
    take(10, 1);
    put(5, 1, 40, RWX | T);
    assert_int_equal(run(writer, sizeof(writer)), KVM_EXIT_HLT);
    assert_int_equal(m.memory[40 * PAGE], 0x5A);
    take(1, 1);
    put(1, 1, 41, R | T);
    assert_true(kvm_slots_sound(&m.slots, &m.map));
    bitmap[0] = 0;
    assert_ok(kvm_slots_dirty(&m.slots, 0, 16 * PAGE, bitmap));
    assert_int_equal(bitmap[0], 1 << 2 | 1 << 5);

    // What was replaced is read from its new place, and what is read-only is not written.
    m.memory[41 * PAGE] = 0xA5;
    put(2, 1, 2, R | T);
    assert_int_equal(run(writer, sizeof(writer)), KVM_EXIT_MMIO);
    assert_int_equal(m.run->mmio.phys_addr, 2 * PAGE);
    assert_int_equal(m.run->mmio.data[0], 0xA5);
    assert_int_equal(m.memory[2 * PAGE], 0x5A);
    bitmap[0] = 0;
    assert_ok(kvm_slots_dirty(&m.slots, 0, 16 * PAGE, bitmap));
    assert_int_equal(bitmap[0], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_page_by_page, setup, teardown),
        cmocka_unit_test_setup_teardown(test_guest, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
