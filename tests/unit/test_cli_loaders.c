/* test_cli_loaders.c: what the loaders put into memory, and how they refuse what they cannot load. */
#include "loaders/loader.h"

#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct memory memory;
static struct error err;

static int set_up(void **state)
{
    (void)state;
    return memory_init(&memory, 64 * MEMORY_MIB, &err) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    memory_free(&memory);
    return 0;
}

/* A temporary file; the name is static and good until the next two calls. */
static const char *file_of(const void *data, size_t size)
{
    static char names[2][64];
    static unsigned next;
    char *name = names[next++ % 2];

    snprintf(name, sizeof(names[0]), "%s/cli-loader-XXXXXX", P_tmpdir);
    int fd = mkstemp(name);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), size);
    close(fd);
    return name;
}

static void assert_error(const char *name, const char *what)
{
    assert_int_equal(err.code, EXIT_FAILED);
    assert_non_null(strstr(err.text, name));
    assert_non_null(strstr(err.text, what));
    assert_null(strchr(err.text, '\n'));
}

static void put(uint8_t *data, unsigned offset, unsigned size, uint64_t value)
{
    memcpy(data + offset, &value, size);
}

static uint64_t get(uint64_t gpa, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, memory_at(&memory, gpa, size), size);
    return value;
}

#define KERNEL_SIZE 8192

/* One setup sector, and code that starts with 0xc0de. */
static void make_kernel(uint8_t *kernel)
{
    memset(kernel, 0, KERNEL_SIZE);
    kernel[0x1f1] = 1;
    put(kernel, 0x1fe, 2, 0xaa55);
    kernel[0x201] = 0x66;
    memcpy(kernel + 0x202, "HdrS", 4);
    put(kernel, 0x206, 2, 0x20f);
    put(kernel, 0x22c, 4, 0x7fffffff);
    put(kernel, 0x230, 4, 0x200000);
    kernel[0x234] = 1;
    put(kernel, 0x236, 2, 1);
    put(kernel, 0x238, 4, 2047);
    put(kernel, 0x258, 8, 0x1000000);
    put(kernel, 0x260, 4, 0x2000000);
    put(kernel, 1024, 2, 0xc0de);
}

static bool load_linux(const uint8_t *kernel, size_t size, const char *initrd, const char *append,
                       struct start *start)
{
    struct linux_options options = {
        .kernel = file_of(kernel, size), .initrd = initrd, .append = append, .cpus = 2};
    bool good;

    *start = (struct start){0};
    good = linux_load(&memory, &options, start, &err);
    unlink(options.kernel);
    return good;
}

static void test_linux(void **state)
{
    uint8_t kernel[KERNEL_SIZE];
    struct start start;
    const char *initrd = file_of("initrd", 6);

    (void)state;
    make_kernel(kernel);
    assert_true(load_linux(kernel, sizeof(kernel), initrd, "quiet", &start));
    unlink(initrd);
    assert_int_equal(get(0x1000000, 2), 0xc0de);
    assert_int_equal(start_find(&start, WHvX64RegisterRip)->Reg64, 0x1000200);
    uint64_t params = start_find(&start, WHvX64RegisterRsi)->Reg64;
    uint64_t cmdline = get(params + 0x228, 4), disk = get(params + 0x218, 4);

    assert_string_equal(memory_at(&memory, cmdline, 6), "quiet");
    assert_int_equal(get(params + 0x21c, 4), 6);
    assert_memory_equal(memory_at(&memory, disk, 6), "initrd", 6);
    assert_int_equal(disk, 64 * MEMORY_MIB - 4096);
    assert_int_equal(get(params + 0x1e8, 1), 4);
    assert_int_equal(get(params + 0x2d0 + 3 * 20, 8), MEMORY_MIB);
    assert_int_equal(get(params + 0x2d0 + 3 * 20 + 8, 8), 63 * MEMORY_MIB);
    assert_memory_equal(memory_at(&memory, get(params + 0x70, 8), 8), "RSD PTR ", 8);
    /* Long mode with the low 4 GiB mapped one to one. */
    uint64_t pml4 = start_find(&start, WHvX64RegisterCr3)->Reg64;
    uint64_t pdpt = get(pml4, 8) & ~UINT64_C(0xfff);
    uint64_t directory = get(pdpt + 3 * 8, 8) & ~UINT64_C(0xfff);

    assert_int_equal(get(directory + 511 * 8, 8), 0xffe00083);
    assert_int_equal(start_find(&start, WHvX64RegisterEfer)->Reg64, 0x500);
    assert_int_equal(start_find(&start, WHvX64RegisterCs)->Segment.Long, 1);
    assert_int_equal(start_find(&start, WHvX64RegisterCs)->Segment.Selector, 0x10);
}

static void test_linux_refusals(void **state)
{
    uint8_t kernel[KERNEL_SIZE];
    static const uint8_t text[] = "this is no kernel";
    static char line[4096];
    struct start start;
    struct linux_options missing = {.kernel = "/nonexistent/vmlinuz", .append = ""};

    (void)state;
    make_kernel(kernel);
    assert_false(linux_load(&memory, &missing, &start, &err));
    assert_error("/nonexistent/vmlinuz", "No such file");
    assert_false(load_linux(text, sizeof(text), NULL, "", &start));
    assert_error("cli-loader", "not a Linux bzImage");
    assert_false(load_linux(kernel, 1300, NULL, "", &start));
    assert_error("cli-loader", "cut off");
    memset(line, 'x', 3000);
    assert_false(load_linux(kernel, sizeof(kernel), NULL, line, &start));
    assert_error("--append", "3000");
    assert_false(load_linux(kernel, sizeof(kernel), "/nonexistent/initrd", "", &start));
    assert_error("/nonexistent/initrd", "No such file");
    kernel[0x236] = 0;
    assert_false(load_linux(kernel, sizeof(kernel), NULL, "", &start));
    assert_error("cli-loader", "not a 64-bit");
    make_kernel(kernel);
    put(kernel, 0x260, 4, 0x8000000);
    assert_false(load_linux(kernel, sizeof(kernel), NULL, "", &start));
    assert_error("64 MiB", "--memory");
    /* It would fit lower than where it prefers to be, but would unpack itself there all the same. */
    put(kernel, 0x260, 4, 0x3001000);
    assert_false(load_linux(kernel, sizeof(kernel), NULL, "", &start));
    assert_error("0x1000000", "--memory");
    const char *initrd = file_of(line, 4096);

    put(kernel, 0x260, 4, 0x3000000);
    assert_false(load_linux(kernel, sizeof(kernel), initrd, "", &start));
    assert_error("initrd", "--memory");
    unlink(initrd);
}

static void test_flat(void **state)
{
    struct start start = {0};
    const char *path = file_of("\xeb\xfe", 2);

    (void)state;
    assert_true(flat_load(&memory, path, 0x7c00, &start, &err));
    assert_int_equal(get(0x7c00, 2), 0xfeeb);
    assert_int_equal(start_find(&start, WHvX64RegisterCs)->Segment.Selector, 0x7c0);
    assert_int_equal(start_find(&start, WHvX64RegisterCs)->Segment.Base, 0x7c00);
    assert_int_equal(start_find(&start, WHvX64RegisterRip)->Reg64, 0);
    assert_false(flat_load(&memory, path, 0x100000, &start, &err));
    assert_int_equal(err.code, EXIT_USAGE);
    assert_false(flat_load(&memory, path, 0x7c01, &start, &err));
    unlink(path);
    assert_false(flat_load(&memory, path, 0x7c00, &start, &err));
    assert_error(path, "No such file");
}

static void test_firmware(void **state)
{
    size_t size = 256 * 1024;
    uint8_t *image = calloc(1, size);

    (void)state;
    assert_non_null(image);
    image[size - 16] = 0xea;
    image[size - 128 * 1024] = 0x11;
    image[0] = 0x22;
    const char *path = file_of(image, size);

    assert_true(firmware_load(&memory, path, &err));
    assert_int_equal(get(0xffff0, 1), 0xea);
    assert_int_equal(get(0xe0000, 1), 0x11);
    assert_int_equal(get(0xc0000, 1), 0x22);
    assert_int_equal(memory.rom_size, size);
    assert_int_equal(*(const uint8_t *)memory_peek(&memory, 0xfffffff0, 1), 0xea);
    assert_null(memory_at(&memory, 0xfffffff0, 1));
    assert_null(memory_peek(&memory, 0xfffffff0, 17));
    unlink(path);
    free(image);
}

static void make_elf(uint8_t *image, uint32_t address)
{
    const uint32_t header[3] = {0x1badb002, 3, (uint32_t) - (0x1badb002 + 3)};
    Elf32_Ehdr elf = {.e_type = ET_EXEC,
                      .e_machine = EM_386,
                      .e_entry = address + 0x40,
                      .e_phoff = sizeof(elf),
                      .e_phentsize = sizeof(Elf32_Phdr),
                      .e_phnum = 1};
    Elf32_Phdr segment = {
        .p_type = PT_LOAD, .p_offset = 0x100, .p_paddr = address, .p_filesz = 0x100, .p_memsz = 0x2000};

    memset(image, 0, 0x200);
    memcpy(elf.e_ident, ELFMAG, SELFMAG);
    elf.e_ident[EI_CLASS] = ELFCLASS32;
    elf.e_ident[EI_DATA] = ELFDATA2LSB;
    memcpy(image, &elf, sizeof(elf));
    memcpy(image + sizeof(elf), &segment, sizeof(segment));
    memcpy(image + 0x100, header, sizeof(header));
}

static bool load_multiboot(const uint8_t *image, const char *module, struct start *start)
{
    const char *modules[] = {module};
    struct multiboot_options options = {.kernel = file_of(image, 0x200),
                                        .append = "one two",
                                        .modules = modules,
                                        .module_count = module != NULL,
                                        .cpus = 1};
    bool good;

    *start = (struct start){0};
    good = multiboot_load(&memory, &options, start, &err);
    unlink(options.kernel);
    return good;
}

static void test_multiboot(void **state)
{
    uint8_t image[0x200];
    struct start start;
    const char *module = file_of("A=1\n", 4);

    (void)state;
    make_elf(image, 0x100000);
    assert_true(load_multiboot(image, module, &start));
    assert_int_equal(get(0x100000, 4), 0x1badb002);
    assert_int_equal(start_find(&start, WHvX64RegisterRax)->Reg64, 0x2badb002);
    assert_int_equal(start_find(&start, WHvX64RegisterRip)->Reg64, 0x100040);
    uint64_t info = start_find(&start, WHvX64RegisterRbx)->Reg64;

    assert_true(info >= 0x102000);
    assert_int_equal(get(info, 4), 0x24d);
    assert_int_equal(get(info + 4, 4), 639);
    assert_int_equal(get(info + 8, 4), 63 * 1024);
    assert_non_null(strstr(memory_at(&memory, get(info + 16, 4), 64), " one two"));
    assert_int_equal(get(info + 20, 4), 1);
    uint64_t list = get(info + 24, 4);

    assert_int_equal(get(list + 4, 4) - get(list, 4), 4);
    assert_int_equal(get(list, 4) % 4096, 0);
    assert_memory_equal(memory_at(&memory, get(list, 4), 4), "A=1\n", 4);
    assert_string_equal(memory_at(&memory, get(list + 8, 4), 32), module);
    assert_int_equal(get(info + 44, 4), 4 * 24);
    assert_int_equal(get(get(info + 48, 4), 4), 20);
    unlink(module);
}

static void test_multiboot_refusals(void **state)
{
    uint8_t image[0x200];
    struct start start;

    (void)state;
    make_elf(image, 0x100000);
    image[0x100] = 0;
    assert_false(load_multiboot(image, NULL, &start));
    assert_error("cli-loader", "not a Multiboot kernel");
    make_elf(image, 0x100000);
    image[4] = ELFCLASS64;
    assert_false(load_multiboot(image, NULL, &start));
    assert_error("cli-loader", "not a 32-bit");
    make_elf(image, 0x4000000);
    assert_false(load_multiboot(image, NULL, &start));
    assert_error("cli-loader", "--memory");
    make_elf(image, 0x100000);
    put(image, 28, 4, 0xfffffff0);
    assert_false(load_multiboot(image, NULL, &start));
    assert_error("cli-loader", "damaged");
    make_elf(image, 0x100000);
    put(image, sizeof(Elf32_Ehdr) + 4, 4, 0xffffff00);
    assert_false(load_multiboot(image, NULL, &start));
    assert_error("cli-loader", "damaged");
}

static void test_memory(void **state)
{
    struct memory big;

    (void)state;
    assert_null(memory_at(&memory, 64 * MEMORY_MIB, 1));
    assert_null(memory_at(&memory, 64 * MEMORY_MIB - 1, 2));
    assert_null(memory_at(&memory, 0, UINT64_MAX));
    assert_null(memory_at(&memory, UINT64_MAX, 2));
    assert_null(memory_peek(&memory, MEMORY_HIGH - 1, 1));
    assert_false(memory_init(&big, MEMORY_MIB, &err));
    assert_true(memory_init(&big, 4 * MEMORY_GIB, &err));
    assert_int_equal(big.low_size, 3 * MEMORY_GIB);
    assert_ptr_equal(memory_at(&big, 4 * MEMORY_GIB, MEMORY_GIB), big.ram + 3 * MEMORY_GIB);
    assert_null(memory_at(&big, 3 * MEMORY_GIB, 1));
    assert_null(memory_at(&big, 5 * MEMORY_GIB, 1));
    assert_int_equal(memory_resident(&big), 0);
    big.ram[5 * 4096] = 1;
    assert_int_equal(memory_resident(&big), 4096);
    memory_free(&big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_linux, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_linux_refusals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_flat, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_firmware, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_multiboot, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_multiboot_refusals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_memory, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
