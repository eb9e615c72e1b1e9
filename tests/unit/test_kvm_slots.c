// The kvm engine's memory slots against a kernel of our own, which keeps the slots it is given, refuses what
// KVM refuses, counts, and fails when it is told to.
#include "unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/slots.h"

#define PAGE GPA_PAGE_SIZE
#define KERNEL_PAGES (1u << 18)
#define KERNEL_SLOTS 32764u
#define VM 77

#define R WHvMapGpaRangeFlagRead
#define W WHvMapGpaRangeFlagWrite
#define X WHvMapGpaRangeFlagExecute
#define T WHvMapGpaRangeFlagTrackDirtyPages
#define RWX (R | W | X)

// ---- The kernel -------------------------------------------------------------------------------------------

static struct {
    struct kvm_userspace_memory_region slots[KERNEL_SLOTS];     // memory_size 0: there is none
    uint16_t owner[KERNEL_PAGES];       // slot number + 1
    bool dirty[KERNEL_PAGES];
    uint32_t limit;
    unsigned int calls;
    unsigned int fail_from, fail_to;    // the calls, counted from 1, that fail
    unsigned int refusals;
    int error;
    int still;                          // how often the processors were stopped, less how often they went on
    unsigned int stops;
} kernel;

static struct gpa_map map;
static struct kvm_slots slots;

static bool map_serves(gpa_t gpa)
{
    struct gpa_range range;

    return gpa_map_find(&map, gpa, &range) && range.flags & R;
}

static int kernel_delete(struct kvm_userspace_memory_region *slot)
{
    if (slot->memory_size == 0)
        return -EINVAL;
    for (uint64_t page = slot->guest_phys_addr / PAGE, n = slot->memory_size / PAGE; n-- > 0; page++) {
        if (page >= KERNEL_PAGES)
            break;
        // Running processors must not miss memory that the map still has.
        assert_true(kernel.still || kernel.refusals || !map_serves(page * PAGE));
        kernel.owner[page] = 0;
    }
    slot->memory_size = 0;
    return 0;
}

static int kernel_turn(struct kvm_userspace_memory_region *slot, const struct kvm_userspace_memory_region *to)
{
    uint64_t first = slot->guest_phys_addr / PAGE;

    if (to->memory_size != slot->memory_size || to->userspace_addr != slot->userspace_addr ||
        to->guest_phys_addr != slot->guest_phys_addr || ((to->flags ^ slot->flags) & KVM_MEM_READONLY))
        return -EINVAL;
    if ((to->flags ^ slot->flags) & KVM_MEM_LOG_DIRTY_PAGES)
        memset(kernel.dirty + first, 0, slot->memory_size / PAGE);
    slot->flags = to->flags;
    return 0;
}

static bool kernel_overlaps(const struct kvm_userspace_memory_region *region)
{
    gpa_t end = region->guest_phys_addr + region->memory_size;

    if (end <= (gpa_t)KERNEL_PAGES * PAGE) {
        for (gpa_t gpa = region->guest_phys_addr; gpa < end; gpa += PAGE)
            if (kernel.owner[gpa / PAGE])
                return true;
        return false;
    }
    for (uint32_t i = 0; i < KERNEL_SLOTS; i++)
        if (kernel.slots[i].memory_size && kernel.slots[i].guest_phys_addr < end &&
            kernel.slots[i].guest_phys_addr + kernel.slots[i].memory_size > region->guest_phys_addr)
            return true;
    return false;
}

static int kernel_set(const struct kvm_userspace_memory_region *region)
{
    struct kvm_userspace_memory_region *slot = &kernel.slots[region->slot];
    uint64_t first = region->guest_phys_addr / PAGE;

    if (region->slot >= kernel.limit || region->flags & ~(KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES) ||
        (region->guest_phys_addr | region->memory_size | region->userspace_addr) % PAGE ||
        region->memory_size / PAGE >= 1u << 31)
        return -EINVAL;
    if (region->memory_size == 0)
        return kernel_delete(slot);
    if (slot->memory_size)
        return kernel_turn(slot, region);
    if (kernel_overlaps(region))
        return -EEXIST;
    *slot = *region;
    for (uint64_t page = first; page < first + region->memory_size / PAGE && page < KERNEL_PAGES; page++) {
        kernel.owner[page] = region->slot + 1;
        kernel.dirty[page] = false;
    }
    return 0;
}

static int kernel_log(const struct kvm_dirty_log *log)
{
    const struct kvm_userspace_memory_region *slot = &kernel.slots[log->slot];
    uint64_t *bits = log->dirty_bitmap;

    if (log->slot >= kernel.limit || !slot->memory_size || !(slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
        return -ENOENT;
    memset(bits, 0, (slot->memory_size / PAGE + 63) / 64 * 8);
    for (uint64_t n = 0; n < slot->memory_size / PAGE; n++) {
        uint64_t page = slot->guest_phys_addr / PAGE + n;

        bits[n / 64] |= (uint64_t)kernel.dirty[page] << (n % 64);
        kernel.dirty[page] = false;
    }
    return 0;
}

int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument);
int __wrap_kvm_ioctl(int fd, unsigned long request, void *argument)
{
    assert_int_equal(fd, VM);
    kernel.calls++;
    if (kernel.calls >= kernel.fail_from && kernel.calls <= kernel.fail_to) {
        kernel.refusals++;
        return kernel.error;
    }
    assert_true(request == KVM_SET_USER_MEMORY_REGION || request == KVM_GET_DIRTY_LOG);
    return request == KVM_GET_DIRTY_LOG ? kernel_log(argument) : kernel_set(argument);
}

int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value);
int __wrap_kvm_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    (void)fd, (void)request, (void)value;
    fail();
    return -ENOTTY;
}

static void stop(void *context)
{
    assert_ptr_equal(context, &kernel);
    kernel.still++;
    kernel.stops++;
}

static void go(void *context)
{
    assert_ptr_equal(context, &kernel);
    kernel.still--;
}

static const struct kvm_quiesce quiesce = {stop, go, &kernel};

// Memory of our own, which runs out for one allocation where it is told to.
static struct {
    bool counts;
    unsigned int calls, fail_at;
} heap;

static bool heap_fails(void)
{
    return heap.counts && ++heap.calls == heap.fail_at;
}

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_malloc(size_t size)
{
    return heap_fails() ? NULL : __real_malloc(size);
}

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size)
{
    return heap_fails() ? NULL : __real_calloc(count, size);
}

void *__real_realloc(void *memory, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_realloc(void *memory, size_t size)
{
    return heap_fails() ? NULL : __real_realloc(memory, size);
}

// ---- The partition's part ---------------------------------------------------------------------------------

static void begin(uint32_t limit)
{
    memset(&kernel, 0, sizeof(kernel));
    kernel.limit = limit;
    kernel.error = -ENOMEM;
    assert_ok(gpa_map_init(&map));
    kvm_slots_init(&slots, VM, limit);
}

static void end(void)
{
    kvm_slots_destroy(&slots);
    gpa_map_destroy(&map);
}

static uint8_t *host(uint64_t page)
{
    return (uint8_t *)(uintptr_t)(0x100000000ull + page * PAGE);
}

// The map has changed. On failure it is put back, and the slots are told once more, as partition.c does.
static HRESULT follow(uint64_t page, uint64_t pages, struct gpa_map_undo *undo)
{
    HRESULT hr, again;

    heap.counts = true;
    hr = kvm_slots_update(&slots, &map, page * PAGE, pages * PAGE, &quiesce);
    heap.counts = false;
    assert_int_equal(kernel.still, 0);
    if (SUCCEEDED(hr)) {
        gpa_map_keep(undo);
        return hr;
    }
    gpa_map_restore(&map, undo);
    again = kvm_slots_update(&slots, &map, page * PAGE, pages * PAGE, &quiesce);
    assert_int_equal(kernel.still, 0);
    assert_true(SUCCEEDED(again) || kernel.refusals > 1);
    return hr;
}

static HRESULT put(uint64_t page, uint64_t pages, uint64_t host_page, uint32_t flags)
{
    struct gpa_range range = {page * PAGE, pages * PAGE, host(host_page), flags};
    struct gpa_map_undo undo;

    assert_ok(gpa_map_insert(&map, &range, &undo));
    return follow(page, pages, &undo);
}

static HRESULT take(uint64_t page, uint64_t pages)
{
    struct gpa_map_undo undo;
    HRESULT hr = gpa_map_remove(&map, page * PAGE, pages * PAGE, &undo);

    return SUCCEEDED(hr) ? follow(page, pages, &undo) : hr;
}

// What KVM has is what the map says, page by page, in [0, pages).
static void assert_mirror(uint64_t pages)
{
    assert_true(kvm_slots_sound(&slots, &map));
    for (uint64_t page = 0; page < pages; page++) {
        const struct kvm_userspace_memory_region *slot;
        struct gpa_range range;

        if (!gpa_map_find(&map, page * PAGE, &range) || !(range.flags & R)) {
            assert_int_equal(kernel.owner[page], 0);
            continue;
        }
        assert_int_not_equal(kernel.owner[page], 0);
        slot = &kernel.slots[kernel.owner[page] - 1];
        assert_int_equal(slot->userspace_addr - slot->guest_phys_addr, (uintptr_t)range.host - range.gpa);
        assert_int_equal(!(slot->flags & KVM_MEM_READONLY), !!(range.flags & W));
        assert_int_equal(!!(slot->flags & KVM_MEM_LOG_DIRTY_PAGES), !!(range.flags & T));
    }
}

// What KVM has is what our list says, whatever the map does.
static void assert_list(void)
{
    size_t count = 0;

    assert_true(kvm_slots_sound(&slots, &map));
    for (uint32_t i = 0; i < KERNEL_SLOTS; i++)
        count += kernel.slots[i].memory_size != 0;
    assert_int_equal(count, slots.count);
    for (size_t i = 0; i < slots.count; i++) {
        const struct kvm_userspace_memory_region *slot = &kernel.slots[slots.slots[i].id];

        assert_int_equal(slot->guest_phys_addr, slots.slots[i].gpa);
        assert_int_equal(slot->memory_size, slots.slots[i].size);
        assert_int_equal(slot->userspace_addr, (uintptr_t)slots.slots[i].host);
        assert_int_equal(slot->flags, slots.slots[i].flags);
    }
}

// A change that works, with just so many calls of the kernel and stops of the processors.
static void assert_cost(HRESULT hr, unsigned int calls, unsigned int stops)
{
    assert_ok(hr);
    assert_int_equal(kernel.calls, calls);
    assert_int_equal(kernel.stops, stops);
    kernel.calls = kernel.stops = 0;
    assert_mirror(256);
}

// ---- Single changes ---------------------------------------------------------------------------------------

static void test_costs(void **state)
{
    (void)state;
    begin(100);
    assert_cost(put(10, 10, 10, RWX), 1, 0);
    assert_cost(put(30, 10, 90, R | X), 1, 0);
    // What is there already, in whole or in part, with or without the Execute that KVM does not know.
    assert_cost(put(10, 10, 10, RWX), 0, 0);
    assert_cost(put(12, 3, 12, RWX), 0, 0);
    assert_cost(put(12, 3, 12, R | W), 0, 0);
    // A map over a hole and what stands on both sides of it fills the hole.
    assert_cost(put(20, 5, 20, RWX), 1, 0);
    assert_cost(put(10, 18, 10, RWX), 1, 0);
    assert_int_equal(slots.count, 4);
    assert_cost(take(0, 256), 4, 0);
    assert_int_equal(slots.count, 0);

    // Cut, replaced, protected.
    assert_cost(put(10, 10, 10, RWX), 1, 0);
    assert_cost(take(14, 2), 3, 1);
    assert_cost(put(14, 2, 14, RWX), 1, 0);
    assert_cost(put(10, 4, 50, RWX), 2, 1);
    assert_cost(put(10, 4, 50, R), 2, 1);
    assert_cost(take(16, 1), 2, 1);
    assert_cost(take(12, 256), 4, 1);
    assert_cost(take(0, 12), 1, 0);

    // What KVM cannot express has no slot.
    assert_cost(put(10, 10, 10, X), 0, 0);
    assert_cost(put(13, 2, 13, RWX), 1, 0);
    assert_cost(put(10, 10, 10, X), 1, 0);
    assert_cost(take(10, 10), 0, 0);

    // A slot can begin and cease to track while the guest runs.
    assert_cost(put(10, 10, 10, RWX), 1, 0);
    assert_cost(put(10, 10, 10, RWX | T), 1, 0);
    assert_cost(put(10, 10, 10, RWX), 1, 0);
    assert_cost(take(0, 256), 1, 0);
    end();
}

static void test_large(void **state)
{
    const uint64_t tib = (1ull << 40) / PAGE;

    (void)state;
    begin(100);
    assert_ok(put(tib, 20 * tib, 0, RWX));
    assert_int_equal(slots.count, 3);
    assert_true(kvm_slots_sound(&slots, &map));
    // Joining stops where a slot would get too large.
    slots.limit = 3;
    assert_hr(put(50 * tib, 1, 0, RWX), E_OUTOFMEMORY);
    assert_ok(take(tib, 20 * tib));
    assert_int_equal(slots.count, 0);
    end();
}

static void test_limit(void **state)
{
    (void)state;
    begin(4);
    for (unsigned int i = 0; i < 4; i++)
        assert_ok(put(i * 2, 1, i * 2, RWX));
    kernel.calls = 0;
    // No fifth, neither mapped nor cut out, and nothing is touched in the attempt.
    assert_hr(put(20, 1, 20, RWX), E_OUTOFMEMORY);
    assert_int_equal(kernel.calls, 0);
    assert_mirror(256);
    assert_ok(take(6, 1));
    assert_ok(put(6, 3, 6, RWX));
    assert_hr(take(7, 1), E_OUTOFMEMORY);
    assert_mirror(256);
    // What closes a gap needs none, even if nothing else can be joined.
    assert_ok(put(1, 1, 1, RWX));
    assert_mirror(256);
    assert_int_equal(slots.count, 3);
    assert_ok(take(7, 1));
    assert_mirror(256);
    end();
}

static void test_page_by_page(void **state)
{
    enum { PAGES = 100000 };
    const uint32_t limits[] = {KERNEL_SLOTS, 64, 1};

    (void)state;
    for (unsigned int n = 0; n < 3; n++) {
        begin(limits[n]);
        for (unsigned int i = 0; i < PAGES; i++)
            assert_ok(put(i, 1, i, RWX));
        assert_true(kvm_slots_sound(&slots, &map));
        assert_true(kernel.calls <= 3 * PAGES);
        assert_mirror(PAGES + 1);
        assert_ok(take(0, PAGES));
        assert_int_equal(slots.count, 0);
        end();
        // With a single slot, each page makes a new one of all: no need to see that to the end.
        if (n == 1)
            break;
    }
    begin(1);
    for (unsigned int i = 0; i < 100; i++)
        assert_ok(put(i, 1, i, RWX));
    assert_mirror(200);
    end();
}

static void test_many(void **state)
{
    enum { RANGES = 20000 };

    (void)state;
    begin(KERNEL_SLOTS);
    for (unsigned int i = 0; i < RANGES; i++)
        assert_ok(put(i * 2, 1, i, RWX));
    assert_int_equal(kernel.calls, RANGES);
    // Aliases of one page never continue each other: every one needs a slot. Downwards, for a change.
    for (unsigned int i = KERNEL_SLOTS - RANGES; i-- > 0;)
        assert_ok(put(2 * RANGES + i, 1, 5, R));
    assert_int_equal(slots.count, KERNEL_SLOTS);
    assert_int_equal(kernel.calls, KERNEL_SLOTS);
    assert_hr(put(KERNEL_PAGES - 1, 1, 5, R), E_OUTOFMEMORY);
    assert_int_equal(kernel.stops, 0);
    assert_mirror(2 * RANGES + KERNEL_SLOTS);
    end();
}

// ---- Dirty pages ------------------------------------------------------------------------------------------

static bool reported(const uint64_t *bitmap, uint64_t n)
{
    return bitmap[n / 64] >> (n % 64) & 1;
}

static void test_dirty(void **state)
{
    uint64_t bitmap[4] = {0};

    (void)state;
    begin(100);
    assert_ok(put(10, 100, 10, RWX | T));
    assert_ok(put(110, 10, 500, RWX));
    kernel.dirty[10] = kernel.dirty[15] = kernel.dirty[80] = kernel.dirty[109] = true;

    // A part of a slot: the rest waits.
    kernel.calls = 0;
    assert_ok(kvm_slots_dirty(&slots, 12 * PAGE, 10 * PAGE, bitmap));
    assert_int_equal(kernel.calls, 1);
    assert_int_equal(bitmap[0], 1 << 3);
    assert_non_null(slots.slots[0].pending);
    assert_ok(kvm_slots_dirty(&slots, 12 * PAGE, 10 * PAGE, bitmap));
    assert_int_equal(bitmap[0], 1 << 3);

    // It survives a cut, with what KVM has recorded since; not so the page that was cut out and comes back.
    kernel.dirty[11] = kernel.dirty[60] = true;
    assert_ok(take(60, 1));
    assert_ok(put(60, 1, 60, RWX | T));
    memset(bitmap, 0, sizeof(bitmap));
    kernel.error = -EIO;
    kernel.fail_from = kernel.calls + 3;
    kernel.fail_to = kernel.fail_from;
    assert_hr(kvm_slots_dirty(&slots, 10 * PAGE, 100 * PAGE, bitmap), E_FAIL);
    assert_int_equal(bitmap[0] | bitmap[1], 0);
    assert_ok(kvm_slots_dirty(&slots, 10 * PAGE, 100 * PAGE, bitmap));
    assert_int_equal(bitmap[0], 1 << 0 | 1 << 1);
    assert_int_equal(bitmap[1], 1ull << (70 - 64) | 1ull << (99 - 64));
    for (size_t i = 0; i < slots.count; i++)
        assert_null(slots.slots[i].pending);

    // Another place in the process has its own record; clearing alone needs no bitmap.
    kernel.dirty[20] = kernel.dirty[21] = true;
    assert_ok(put(21, 1, 700, RWX | T));
    kernel.dirty[100] = true;
    assert_ok(kvm_slots_dirty(&slots, 80 * PAGE, 30 * PAGE, NULL));
    memset(bitmap, 0, sizeof(bitmap));
    assert_ok(kvm_slots_dirty(&slots, 10 * PAGE, 100 * PAGE, bitmap));
    assert_int_equal(bitmap[0], 1 << 10);
    assert_int_equal(bitmap[1], 0);
    end();
}

// A join keeps what its slots have recorded and what waits in them.
static void test_dirty_join(void **state)
{
    enum { PAGES = 200 };
    uint64_t bitmap[PAGES / 64 + 1] = {0};

    (void)state;
    begin(16);
    for (unsigned int i = 0; i < PAGES; i++) {
        assert_ok(put(i, 1, i, RWX | T));
        kernel.dirty[i] = i % 3 == 0;
        if (i % 7 == 0)
            assert_ok(kvm_slots_dirty(&slots, (i + 1) * PAGE, PAGE, bitmap));
    }
    assert_true(slots.count <= 16);
    assert_ok(kvm_slots_dirty(&slots, 0, PAGES * PAGE, bitmap));
    for (unsigned int i = 0; i < PAGES; i++)
        assert_int_equal(reported(bitmap, i), i % 3 == 0);
    end();
}

// ---- Random walks -----------------------------------------------------------------------------------------

#define WALK_PAGES 64

static struct {
    bool dirty[WALK_PAGES];
    struct gpa_range before[WALK_PAGES];    // the range that holds the page; size 0: none
} walk;

static void look(struct gpa_range *ranges)
{
    for (unsigned int page = 0; page < WALK_PAGES; page++)
        if (!gpa_map_find(&map, page * PAGE, &ranges[page]))
            ranges[page].size = 0;
}

static bool tracks(const struct gpa_range *range)
{
    return range->size && range->flags & R && range->flags & T;
}

// The pages that are still the same have kept their bits.
static void model_change(void)
{
    struct gpa_range now[WALK_PAGES];

    look(now);
    for (unsigned int page = 0; page < WALK_PAGES; page++)
        walk.dirty[page] = walk.dirty[page] && tracks(&now[page]) && tracks(&walk.before[page]) &&
                           now[page].host - now[page].gpa == walk.before[page].host - walk.before[page].gpa;
}

static void random_writes(unsigned int *seed)
{
    for (unsigned int n = 0; n < 4; n++) {
        unsigned int page = rand_r(seed) % WALK_PAGES;
        uint16_t owner = kernel.owner[page];

        if (owner && kernel.slots[owner - 1].flags & KVM_MEM_LOG_DIRTY_PAGES &&
            !(kernel.slots[owner - 1].flags & KVM_MEM_READONLY))
            walk.dirty[page] = kernel.dirty[page] = true;
    }
}

// Ask for some pages. `exact`: there is no page too many, either.
static void ask(unsigned int first, unsigned int count, bool exact)
{
    uint64_t bitmap[WALK_PAGES / 64 + 1] = {0};

    assert_ok(kvm_slots_dirty(&slots, first * PAGE, count * PAGE, bitmap));
    for (unsigned int i = 0; i < count; i++) {
        assert_true(reported(bitmap, i) || !walk.dirty[first + i]);
        assert_true(!exact || !reported(bitmap, i) || walk.dirty[first + i]);
        walk.dirty[first + i] = false;
    }
}

static HRESULT random_change(unsigned int *seed)
{
    static const uint32_t flags[] = {R, R | X, R | W, RWX, RWX, X, RWX | T, RWX | T, R | W | T, R | T};
    unsigned int first = rand_r(seed) % WALK_PAGES, count = 1 + rand_r(seed) % (WALK_PAGES - first);

    if (rand_r(seed) % 4)
        count = 1 + count % 6;
    if (first + count > WALK_PAGES)
        count = WALK_PAGES - first;
    look(walk.before);
    if (rand_r(seed) % 3 == 0)
        return take(first, count);
    return put(first, count, first + rand_r(seed) % 8 / 7 * 1000, flags[rand_r(seed) % 10]);
}

// How many slots the map needs at least.
static unsigned int slots_needed(void)
{
    struct gpa_range now[WALK_PAGES];
    unsigned int needed = 0;

    look(now);
    for (unsigned int page = 0; page < WALK_PAGES; page++)
        needed += now[page].size && now[page].flags & R &&
                  (page == 0 || !now[page - 1].size ||
                   ((now[page].flags ^ now[page - 1].flags) & (R | W | T)) ||
                   now[page].host - now[page].gpa != now[page - 1].host - now[page - 1].gpa);
    return needed;
}

static void test_walk(void **state)
{
    const uint32_t limits[] = {1000, 12, 5};

    (void)state;
    for (unsigned int n = 0; n < 3; n++) {
        unsigned int seed = n, refused = 0;

        begin(limits[n]);
        memset(&walk, 0, sizeof(walk));
        for (unsigned int step = 0; step < 20000; step++) {
            HRESULT hr = random_change(&seed);
            unsigned int first = rand_r(&seed) % WALK_PAGES;

            assert_true(SUCCEEDED(hr) || hr == WHV_E_GPA_RANGE_NOT_FOUND || hr == E_OUTOFMEMORY);
            refused += hr == E_OUTOFMEMORY;
            model_change();
            assert_mirror(WALK_PAGES);
            assert_true(slots_needed() <= slots.count && slots.count <= limits[n]);
            random_writes(&seed);
            if (step % 3 == 0)
                ask(first, 1 + rand_r(&seed) % (WALK_PAGES - first), true);
        }
        // Only where there are too few.
        assert_true(n == 0 ? refused == 0 : refused > 0);
        assert_list();
        end();
    }
}

// The limit is only met when the map needs more slots than there are, however they were cut before.
static void test_limit_is_real(void **state)
{
    unsigned int seed = 5, refused = 0;

    (void)state;
    begin(8);
    for (unsigned int step = 0; step < 20000; step++) {
        unsigned int page = rand_r(&seed) % WALK_PAGES, end_page = page + 1 + rand_r(&seed) % 8;
        uint32_t flags = rand_r(&seed) % 2 ? R : RWX;
        struct gpa_range range = {.gpa = page * PAGE, .host = host(page), .flags = flags};
        struct gpa_map_undo undo;
        HRESULT hr;

        range.size = ((end_page < WALK_PAGES ? end_page : WALK_PAGES) - page) * PAGE;

        if (rand_r(&seed) % 2)
            hr = gpa_map_insert(&map, &range, &undo);
        else
            hr = gpa_map_remove(&map, range.gpa, range.size, &undo);
        if (FAILED(hr))
            continue;
        hr = kvm_slots_update(&slots, &map, range.gpa, range.size, &quiesce);
        if (FAILED(hr)) {
            assert_hr(hr, E_OUTOFMEMORY);
            assert_true(slots_needed() > 8);
            gpa_map_restore(&map, &undo);
            refused++;
        } else {
            gpa_map_keep(&undo);
        }
        assert_mirror(WALK_PAGES);
    }
    assert_true(refused > 100);
    end();
}

// Each call of each change fails once: everything is as before, and no bit is lost.
static void test_walk_failing(void **state)
{
    static const int errors[] = {-ENOMEM, -EINVAL, -ENOSPC, -EIO};
    unsigned int seed = 3, failed = 0;

    (void)state;
    for (unsigned int round = 0; round < 2; round++) {
        begin(round ? 10 : 1000);
        memset(&walk, 0, sizeof(walk));
        for (unsigned int step = 0; step < 30000; step++) {
            unsigned int first = rand_r(&seed) % WALK_PAGES;
            HRESULT hr;

            kernel.calls = kernel.refusals = 0;
            kernel.fail_from = kernel.fail_to = 1 + step % 9;
            kernel.error = errors[step % 4];
            hr = random_change(&seed);
            if (kernel.refusals) {
                failed++;
                assert_hr(hr, kvm_hresult(kernel.error));
            }
            kernel.fail_from = kernel.fail_to = 0;
            assert_false(slots.incomplete);
            model_change();
            assert_mirror(WALK_PAGES);
            random_writes(&seed);
            if (step % 5 == 0)
                ask(first, 1 + rand_r(&seed) % (WALK_PAGES - first), true);
        }
        assert_list();
        end();
    }
    assert_true(failed > 1000);
}

// The same for our own memory.
static void test_walk_without_memory(void **state)
{
    unsigned int seed = 6, failed = 0;

    (void)state;
    begin(12);
    memset(&walk, 0, sizeof(walk));
    for (unsigned int step = 0; step < 30000; step++) {
        size_t count = slots.count;
        HRESULT hr;

        // So that arrays have to grow now and then.
        if (step % 100 == 0) {
            kvm_slots_destroy(&slots);
            gpa_map_destroy(&map);
            begin(step % 200 ? 12 : 1000);
            memset(&walk, 0, sizeof(walk));
            count = 0;
        }
        heap.calls = 0;
        heap.fail_at = 1 + step % 4;
        hr = random_change(&seed);
        if (heap.calls >= heap.fail_at) {
            failed++;
            assert_hr(hr, E_OUTOFMEMORY);
            assert_true(slots.count <= count);
        }
        assert_false(slots.incomplete);
        model_change();
        assert_mirror(WALK_PAGES);
        random_writes(&seed);
        if (step % 5 == 0)
            ask(0, WALK_PAGES, true);
    }
    heap.fail_at = 0;
    assert_true(failed > 1000);
    end();
}

// A kernel that fails so often that the change cannot be undone either: the list says what KVM has, and when
// the kernel is well again, the next change puts everything right. Pages count as written rather than not.
static void test_walk_failing_twice(void **state)
{
    unsigned int seed = 4, incomplete = 0;

    (void)state;
    begin(1000);
    memset(&walk, 0, sizeof(walk));
    for (unsigned int step = 0; step < 30000; step++) {
        kernel.calls = kernel.refusals = 0;
        kernel.fail_from = 1 + step % 7;
        kernel.fail_to = kernel.fail_from + 1 + rand_r(&seed) % 6;
        (void)random_change(&seed);
        model_change();
        kernel.fail_from = kernel.fail_to = 0;
        assert_list();
        if (slots.incomplete) {
            incomplete++;
            if (rand_r(&seed) % 2)
                ask(0, WALK_PAGES, false);
            assert_ok(kvm_slots_update(&slots, &map, 0, PAGE, &quiesce));
            assert_false(slots.incomplete);
        }
        assert_mirror(WALK_PAGES);
        if (kernel.refusals > 1)
            ask(0, WALK_PAGES, false);
        random_writes(&seed);
        if (step % 5 == 0)
            ask(0, WALK_PAGES, true);
    }
    assert_true(incomplete > 1000);
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_costs),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_page_by_page),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_dirty),
        cmocka_unit_test(test_dirty_join),
        cmocka_unit_test(test_walk),
        cmocka_unit_test(test_limit_is_real),
        cmocka_unit_test(test_walk_failing),
        cmocka_unit_test(test_walk_without_memory),
        cmocka_unit_test(test_walk_failing_twice),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
