/* test_cli_options.c: the command line of `bulkhead run`, sizes, and what the terminal makes of keys. */
#include "memory.h"
#include "options.h"
#include "terminal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void test_sizes(void **state)
{
    static const struct {
        const char *text;
        uint64_t size;
    } good[] = {
        {"512", 512 * MEMORY_MIB},
        {"512M", 512 * MEMORY_MIB},
        {"2G", 2 * MEMORY_GIB},
        {"2g", 2 * MEMORY_GIB},
        {"64k", 65536},
        {"1T", 1024 * MEMORY_GIB},
        {"0", 0},
    };
    static const char *const bad[] = {
        "", "M", "-1", "+1", " 1", "1X", "1MB", "0x10", "1.5G", "99999999999999999999", "99999999999T"};
    uint64_t size;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(memory_parse_size(good[i].text, &size));
        assert_int_equal(size, good[i].size);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_false(memory_parse_size(bad[i], &size));
    }
}

static bool parse(struct options *options, struct error *err, const char *line)
{
    static char copy[512];
    char *argv[32] = {"run"};
    int argc = 1;

    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " ")) {
        argv[argc++] = word;
    }
    return options_parse(argc, argv, options, err);
}

static void test_good_lines(void **state)
{
    struct options options;
    struct error err;

    (void)state;
    assert_true(
        parse(&options, &err, "--kernel k --initrd i --append a --cpus 2 --memory 1G --engine soft --quiet"));
    assert_int_equal(options.boot, OPTIONS_KERNEL);
    assert_string_equal(options.file, "k");
    assert_string_equal(options.modules[0], "i");
    assert_string_equal(options.append, "a");
    assert_int_equal(options.machine.cpus, 2);
    assert_int_equal(options.machine.memory, MEMORY_GIB);
    assert_int_equal(options.machine.debug_exit, MACHINE_NO_PORT);
    options_free(&options);

    assert_true(
        parse(&options, &err, "--flat a@b@0x7c00 --debug-exit 0xf4 --debug-console 1026 --timeout 1.5"));
    assert_int_equal(options.boot, OPTIONS_FLAT);
    assert_string_equal(options.file, "a@b");
    assert_int_equal(options.flat_address, 0x7c00);
    assert_int_equal(options.machine.debug_exit, 0xf4);
    assert_int_equal(options.machine.debug_console, 0x402);
    assert_true(options.machine.timeout > 1.4 && options.machine.timeout < 1.6);
    options_free(&options);

    assert_true(parse(&options, &err, "--multiboot k --module b --module c --initrd a --json fd:3"));
    assert_int_equal(options.module_count, 3);
    assert_string_equal(options.modules[0], "a");
    assert_string_equal(options.modules[1], "b");
    assert_string_equal(options.modules[2], "c");
    options_free(&options);

    assert_true(parse(&options, &err, "--help"));
    assert_true(options.help);
    options_free(&options);
}

static void test_bad_lines(void **state)
{
    static const char *const lines[] = {
        "",
        "--kernel",
        "--kernel a --firmware b",
        "--nonsense",
        "word --kernel a",
        "--flat a",
        "--flat a@",
        "--flat @1",
        "--flat a@x",
        "--kernel a --cpus 0",
        "--kernel a --cpus 65",
        "--kernel a --cpus two",
        "--kernel a --memory lots",
        "--kernel a --engine fast",
        "--kernel a --debug-exit 0x10000",
        "--kernel a --timeout 0",
        "--kernel a --timeout -1",
        "--kernel a --timeout nan",
        "--kernel a --module b --initrd c",
        "--firmware a --append b",
        "--flat a@0 --initrd b",
    };
    struct options options;
    struct error err;

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        assert_false(parse(&options, &err, lines[i]));
        assert_int_equal(err.code, EXIT_USAGE);
        assert_null(strchr(err.text, '\n'));
        assert_non_null(strstr(err.text, "--help"));
        options_free(&options);
    }
}

static void test_terminal(void **state)
{
    static struct terminal terminal;
    struct error err;
    int in[2], out[2];
    char text[16];
    uint8_t byte;

    (void)state;
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    assert_true(terminal_open(&terminal, in[0], out[1], &err));
    assert_int_equal(terminal_filter(&terminal, 'x'), TERMINAL_BYTE);
    assert_int_equal(terminal_filter(&terminal, 1), TERMINAL_NOTHING);
    assert_int_equal(terminal_filter(&terminal, 1), TERMINAL_BYTE);
    assert_int_equal(terminal_filter(&terminal, 1), TERMINAL_NOTHING);
    assert_int_equal(terminal_filter(&terminal, 'q'), TERMINAL_NOTHING);
    assert_int_equal(terminal_filter(&terminal, 1), TERMINAL_NOTHING);
    assert_int_equal(terminal_filter(&terminal, 'x'), TERMINAL_END);

    assert_false(terminal_get(&terminal, &byte));
    assert_int_equal(write(in[1], "k", 1), 1);
    assert_true(terminal_get(&terminal, &byte));
    assert_int_equal(byte, 'k');
    /* The end of input is noticed once and for all. */
    close(in[1]);
    assert_false(terminal_get(&terminal, &byte));
    assert_int_equal(terminal.in, -1);

    terminal_put(&terminal, 'h');
    terminal_put(&terminal, 'i');
    terminal_flush(&terminal);
    assert_int_equal(read(out[0], text, sizeof(text)), 2);
    assert_memory_equal(text, "hi", 2);
    /* A reader who does not read stops the output, not the caller. */
    for (unsigned i = 0; i < 300000; i++) {
        if (terminal_room(&terminal) == 0) {
            break;
        }
        terminal_put(&terminal, 'x');
        if (i % 1000 == 0) {
            terminal_flush(&terminal);
        }
    }
    assert_int_equal(terminal_room(&terminal), 0);
    terminal_put(&terminal, 'y');
    close(out[0]);
    close(out[1]);
    close(in[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_good_lines),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_terminal),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
