// Resident pages by the files of /proc: real ones, made-up ones with what this host may not have, and none.
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#include "os/resident.h"

#define PAGE 4096ul
#define MIB (1024ul * 1024ul)
#define GIB (1024ul * MIB)

// ---- The files -------------------------------------------------------------------------------------------

static struct {
    const char *smaps;          // made-up contents; NULL: the real file
    size_t present_from, present_to;    // pages that the made-up pagemap has
    bool made_up;               // that file too
    int smaps_error, pagemap_error;
    unsigned pagemap_opens;
} files;

FILE *__real_fopen64(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode)
{
    if (files.smaps_error) {
        errno = files.smaps_error;
        return NULL;
    }
    // fmemopen refuses a size of 0.
    return files.smaps ? fmemopen((void *)(uintptr_t)files.smaps, strlen(files.smaps) + 1, "r") : __real_fopen64(path, mode);
}

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...)
{
    files.pagemap_opens++;
    if (files.pagemap_error) {
        errno = files.pagemap_error;
        return -1;
    }
    return __real_open64(path, flags);
}

ssize_t __real_pread64(int fd, void *buffer, size_t size, off_t offset);
ssize_t __wrap_pread64(int fd, void *buffer, size_t size, off_t offset);
ssize_t __wrap_pread64(int fd, void *buffer, size_t size, off_t offset)
{
    if (!files.made_up)
        return __real_pread64(fd, buffer, size, offset);
    for (size_t n = 0; n < size / 8; n++) {
        size_t page = (size_t)offset / 8 + n;
        ((uint64_t *)buffer)[n] = page >= files.present_from && page < files.present_to ? 1ull << 63 : 0;
    }
    return (ssize_t)size;
}

static int reset(void **state)
{
    (void)state;
    memset(&files, 0, sizeof(files));
    return 0;
}

static struct os_resident count(uintptr_t first, size_t size)
{
    struct os_stretch stretch = {first, size};
    struct os_resident r;

    assert_int_equal(os_resident(&stretch, 1, &r), 0);
    return r;
}

#define ASSERT_PAGES(first, size, small, large, huge)                                                        \
    do {                                                                                                     \
        struct os_resident r_ = count(first, size);                                                          \
        assert_int_equal(r_.pages_4k, small);                                                                \
        assert_int_equal(r_.pages_2m, large);                                                                \
        assert_int_equal(r_.pages_1g, huge);                                                                 \
    } while (0)

// ---- Real ------------------------------------------------------------------------------------------------

static void test_real(void **state)
{
    uint8_t *m = mmap(NULL, 16 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct os_stretch two[2];
    struct os_resident r;

    (void)state;
    assert_ptr_not_equal(m, MAP_FAILED);
    assert_int_equal(madvise(m, 16 * MIB, MADV_NOHUGEPAGE), 0);
    ASSERT_PAGES((uintptr_t)m, 16 * MIB, 0, 0, 0);
    m[0] = m[5 * PAGE] = m[16 * MIB - 1] = 1;
    ASSERT_PAGES((uintptr_t)m, 16 * MIB, 3, 0, 0);
    // A part of the mapping; around it; nothing at all.
    ASSERT_PAGES((uintptr_t)m + PAGE, 5 * PAGE, 1, 0, 0);
    ASSERT_PAGES((uintptr_t)m + 8 * MIB, 8 * MIB, 1, 0, 0);
    ASSERT_PAGES((uintptr_t)m + 6 * PAGE, 8 * MIB, 0, 0, 0);
    assert_int_equal(os_resident(NULL, 0, &r), 0);
    assert_int_equal(r.pages_4k, 0);
    // Over a hole.
    assert_int_equal(munmap(m + MIB, MIB), 0);
    ASSERT_PAGES((uintptr_t)m, 16 * MIB, 3, 0, 0);
    // Twice.
    two[0] = (struct os_stretch){(uintptr_t)m, 16 * MIB};
    two[1] = (struct os_stretch){(uintptr_t)m, MIB};
    assert_int_equal(os_resident(two, 2, &r), 0);
    assert_int_equal(r.pages_4k, 5);
    munmap(m, 16 * MIB);
}

// ---- Made up ---------------------------------------------------------------------------------------------

#define MAPPING(range, page_size, rss, more)                                                                 \
    range " rw-p 00000000 00:00 0 \nSize: 1 kB\nKernelPageSize: " page_size " kB\nRss: " rss " kB\n" more    \
          "VmFlags: rd wr mr mw me ac \n"

static void test_large_pages(void **state)
{
    (void)state;
    files.smaps = MAPPING("40000000-40a00000", "4", "6152", "AnonHugePages: 4096 kB\nShmemPmdMapped: 0 kB\n")
                  MAPPING("41000000-42000000", "4", "0", "")
                  MAPPING("42000000-42800000", "4", "2048", "ShmemPmdMapped: 2048 kB\n")
                  MAPPING("42800000-43000000", "4", "2052", "FilePmdMapped: 2048 kB\n")
                  MAPPING("50000000-50800000", "2048", "0", "Shared_Hugetlb: 2048 kB\nPrivate_Hugetlb: 4096 kB\n")
                  MAPPING("80000000-140000000", "1048576", "0", "Private_Hugetlb: 2097152 kB\n");
    ASSERT_PAGES(0x40000000, 0x10000000, 514 + 1, 2 + 1 + 1, 0);
    ASSERT_PAGES(0x40000000, 0x00a00000, 514, 2, 0);
    ASSERT_PAGES(0x50000000, 0x00800000, 0, 3, 0);
    ASSERT_PAGES(0x80000000, 0xc0000000, 0, 0, 2);
    ASSERT_PAGES(0x60000000, 0x10000000, 0, 0, 0);
    assert_int_equal(files.pagemap_opens, 0);
}

// Of a mapping that is in it in part, pagemap has to tell.
static void test_parts(void **state)
{
    (void)state;
    files.smaps = MAPPING("40000000-40a00000", "4", "6152", "AnonHugePages: 4096 kB\n")
                  MAPPING("50000000-50800000", "2048", "0", "Private_Hugetlb: 4096 kB\n")
                  MAPPING("80000000-140000000", "1048576", "0", "Private_Hugetlb: 2097152 kB\n");
    files.made_up = true;
    files.present_from = 0x40200;       // three times 2 MiB, and two pages: two are large
    files.present_to = 0x40802;
    ASSERT_PAGES(0x40200000, 0x600000, 512, 2, 0);
    ASSERT_PAGES(0x40200000, 0x200000, 0, 1, 0);
    ASSERT_PAGES(0x40100000, 0x200000, 256, 0, 0);      // a half, which cannot be a large page
    ASSERT_PAGES(0x40800000, 0x200000, 2, 0, 0);
    files.present_from = 0x50000;
    files.present_to = 0x50400;
    ASSERT_PAGES(0x50000000, 0x200000, 0, 1, 0);
    ASSERT_PAGES(0x50200000, 0x600000, 0, 1, 0);
    files.present_from = 0x80000;
    files.present_to = 0x100000;
    ASSERT_PAGES(0x80000000, GIB, 0, 0, 1);
    ASSERT_PAGES(0xc0000000, 2 * GIB, 0, 0, 1);
}

// ---- Errors ----------------------------------------------------------------------------------------------

static void test_errors(void **state)
{
    static uint8_t memory[4 * PAGE] __attribute__((aligned(4096)));
    struct os_stretch part = {(uintptr_t)memory + PAGE, PAGE};
    static const char *const broken[] = {
        "", "Rss: 4 kB\n", "4000-3000 rw-p\nRss: 4 kB\n", "3000-4000 rw-p\nRss: many\n", "3000-4000\nRss: 4 kB\n",
    };
    static const int errors[] = {ENOENT, EACCES, EMFILE, ENOMEM};
    struct os_resident r;
    unsigned open;

    (void)state;
    memory[PAGE] = 1;
    open = open_descriptors();
    for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        files.smaps_error = errors[i];
        memset(&r, 0xFF, sizeof(r));
        assert_int_equal(os_resident(&part, 1, &r), errors[i]);
        assert_int_equal(r.pages_4k | r.pages_2m | r.pages_1g, 0);
        files.smaps_error = 0;
        files.pagemap_error = errors[i];
        memset(&r, 0xFF, sizeof(r));
        assert_int_equal(os_resident(&part, 1, &r), errors[i]);
        assert_int_equal(r.pages_4k | r.pages_2m | r.pages_1g, 0);
        files.pagemap_error = 0;
    }
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        files.smaps = broken[i];
        assert_int_equal(os_resident(&part, 1, &r), EIO);
    }
    files.smaps = NULL;
    assert_int_equal(os_resident(&part, 1, &r), 0);
    assert_int_equal(r.pages_4k, 1);
    assert_int_equal(open_descriptors(), open);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_real, reset),
        cmocka_unit_test_setup(test_large_pages, reset),
        cmocka_unit_test_setup(test_parts, reset),
        cmocka_unit_test_setup(test_errors, reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
