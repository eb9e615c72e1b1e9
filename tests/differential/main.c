// The differential test: runs random cases on the host's processor and on the engine's, and reports what
// differs.
//
//   differential [--seed N] [--start N] [--count N] [--seconds N] [--only FAMILY]
//                [--mode 16|32|64] [--single] [--alignment] [--stop-after N]
//                [--host-host] [--coverage] [--list]
//
// --coverage prints for each mnemonic how many cases had it, and how many of these ran to their end without a
// fault.
// --alignment sets RFLAGS.AC in some cases, for engines that check alignment.
//
// The cases run in a child process: should one bring the process down, the parent says which it was. Exit
// status: 0 without a difference, 1 with differences, 2 when the test itself failed, 77 when the
// host cannot run it.
#include "differential.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <WinHvPlatformDefs.h>

bool guest_cpuid(uint32_t words[4]);

enum { MAKERS_OWN = 200 };
enum { SKIPPED = 77 };      // as Meson understands it

struct options {
    struct generate_options generate;
    uint64_t start, count;
    double seconds;             // 0: no limit
    unsigned stop_after;
    bool host_host, coverage;
};

// What the parent must know when the child is gone.
struct progress {
    volatile uint64_t number;
    volatile const struct machine *machine;
    uint32_t cpuid[4];
};

struct tally { uint32_t run, completed, different; };

static struct tally tallies[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static struct progress *progress;

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void print_reproduce(const struct options *o, uint64_t number)
{
    printf("    again: differential --seed %llu --start %llu --count 1", (unsigned long long)o->generate.seed,
           (unsigned long long)number);
    if (o->generate.family)
        printf(" --only %s", o->generate.family->name);
    if (o->generate.mode >= 0)
        printf(" --mode %d", case_modes[o->generate.mode].bits);
    if (o->generate.single)
        printf(" --single");
    if (o->generate.alignment)
        printf(" --alignment");
    printf("%s\n", o->host_host ? " --host-host" : "");
}

static bool run_on(const struct machine *m, const struct test_case *c, struct outcome *out)
{
    progress->machine = m;
    return m->run(c, out);
}

static void truncate_case(struct test_case *c, uint32_t instructions)
{
    c->instruction_count = instructions;
    c->size = c->instructions[instructions - 1].offset + c->instructions[instructions - 1].length;
    if (c->code_offset + c->size > CASE_CODE_SIZE)
        c->size = CASE_CODE_SIZE - c->code_offset;
}

// Shortens a case to the first instruction that shows the difference, which becomes its last. False: none does.
static bool shorten(const struct test_case *c, const struct machine *a, const struct machine *b, struct test_case *shorter,
                    struct outcome *oa, struct outcome *ob)
{
    for (uint32_t n = 1; n <= c->instruction_count; n++) {
        *shorter = *c;
        truncate_case(shorter, n);
        if (run_on(a, shorter, oa) && run_on(b, shorter, ob) && !compare_outcomes(shorter, oa, ob))
            return true;
    }
    return false;
}

static ZydisMnemonic last_mnemonic(const struct test_case *c)
{
    return (ZydisMnemonic)c->instructions[c->instruction_count - 1].mnemonic;
}

// An operand that goes on beyond 4 GiB: it does so at 0 (and here there is no page before that), or is past the segment's
// limit (SDM vol. 3A 5.3 leaves it open).
static bool goes_round(const struct test_case *c, const struct outcome *host, const struct outcome *guest)
{
    return c->mode == MODE_32 && host->vector == 14 && host->address >= 0xfffffff0 && host->address <= 0xffffffff
        && (guest->vector == 12 || guest->vector == 13);
}

// The difference is one between makers of processors: the soft engine's is AMD's, and this host's is not.
static bool is_makers_own(const struct test_case *c, const struct machine *a, const struct machine *b)
{
    struct test_case shorter;
    struct outcome oa, ob;
    return !host_is_amd() && shorten(c, a, b, &shorter, &oa, &ob)
        && (goes_round(&shorter, &oa, &ob)
            || accept_makers_own(last_mnemonic(&shorter), oa.vector != 3 || ob.vector != 3));
}

static void report(const struct options *o, const struct test_case *c, const struct machine *a, const struct machine *b)
{
    struct test_case shorter;
    struct outcome oa, ob;
    if (shorten(c, a, b, &shorter, &oa, &ob)) {
        ZydisMnemonic mnemonic = last_mnemonic(&shorter);
        tallies[mnemonic].different++;
        printf("DIFFERENT %s: case %llu, %s, %d bits\n", ZydisMnemonicGetString(mnemonic),
               (unsigned long long)c->number, c->family, case_modes[c->mode].bits);
        compare_disassemble(&shorter);
        compare_print(&shorter, a->name, &oa, b->name, &ob);
        print_reproduce(o, c->number);
        return;
    }
    printf("DIFFERENT now and then: case %llu, %s\n", (unsigned long long)c->number, c->family);
    compare_disassemble(c);
    print_reproduce(o, c->number);
}

static void print_summary(bool all)
{
    printf("%-16s %9s %9s %9s\n", "mnemonic", "run", "completed", "different");
    for (int i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
        const struct tally *t = &tallies[i];
        if (t->different || (all && t->run))
            printf("%-16s %9u %9u %9u\n", ZydisMnemonicGetString((ZydisMnemonic)i), t->run, t->completed,
                   t->different);
    }
}

static bool open_machines(const struct options *o, const struct machine *a, const struct machine *b)
{
    static uint8_t data[CASE_DATA_SIZE];
    struct random r = { o->generate.seed };
    for (uint32_t i = 0; i < CASE_DATA_SIZE; i += 16)
        random_vector(&r, data + i);
    // The host last: its signal handlers must be the ones that count.
    if (!b->open(data) || !a->open(data))
        return false;
    memset(progress->cpuid, 0xff, sizeof(progress->cpuid));
    if (!o->host_host && !guest_cpuid(progress->cpuid))
        return false;
    accept_configure(progress->cpuid);
    return true;
}

// A Linux kernel that returns to a 16-bit stack changes the upper half of ESP (Documentation/arch/x86/x86_64,
// "espfix"), so an interrupt of the host can change the outcome of a 16-bit case. It does not do so twice in
// the same place.
static bool only_this_once(const struct machine *a, const struct machine *b, const struct test_case *c)
{
    struct outcome oa, ob;
    for (int i = 0; c->mode == MODE_16 && i < 3; i++) {
        if (run_on(a, c, &oa) && run_on(b, c, &ob) && compare_outcomes(c, &oa, &ob))
            return true;
    }
    return false;
}

static int run_cases(const struct options *o)
{
    const struct machine *a = &host_machine, *b = o->host_host ? &host_again_machine : &guest_machine;
    struct test_case c;
    struct outcome oa, ob;
    uint64_t passed = 0, failed = 0, own = 0;
    if (host_lacks()) {
        printf("differential: skipped: %s\n", host_lacks());
        return SKIPPED;
    }
    if (!open_machines(o, a, b))
        return 2;
    double begin = seconds_now();
    for (uint64_t n = o->start; n - o->start < o->count && failed < o->stop_after; n++) {
        if (o->seconds > 0 && (n & 63) == 0 && seconds_now() - begin > o->seconds)
            break;
        progress->number = n;
        generate_case(&o->generate, n, &c);
        if (c.instruction_count == 0)
            continue;
        if (!run_on(a, &c, &oa) || !run_on(b, &c, &ob))
            return 2;
        for (uint32_t i = 0; i < c.instruction_count; i++) {
            tallies[c.instructions[i].mnemonic].run++;
            tallies[c.instructions[i].mnemonic].completed += oa.vector == 3;
        }
        if (compare_outcomes(&c, &oa, &ob) || only_this_once(a, b, &c)) {
            passed++;
            continue;
        }
        // Few cases come to such a place; many more would be something else.
        if (own < MAKERS_OWN + passed / MAKERS_OWN && is_makers_own(&c, a, b)) {
            own++;
            continue;
        }
        failed++;
        report(o, &c, a, b);
    }
    double took = seconds_now() - begin;
    unsigned mnemonics = 0;
    for (int i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
        mnemonics += tallies[i].run != 0;
    if (failed || o->coverage)
        print_summary(o->coverage);
    printf("differential: %llu passed, %llu failed (seed %llu, %u mnemonics, %.1f s, %.0f cases/s)\n",
           (unsigned long long)passed, (unsigned long long)failed, (unsigned long long)o->generate.seed,
           mnemonics, took, (double)(passed + failed) / took);
    if (own)
        printf("differential: %llu more where processors of this host's maker have a way of their own\n",
               (unsigned long long)own);
    a->close();
    b->close();
    return failed ? 1 : 0;
}

// Waits for the child, and ends it when no case finishes for a long time.
static int supervise(const struct options *o, pid_t child)
{
    enum { PATIENCE = 20 };
    uint64_t last = ~(uint64_t)0;
    double changed = seconds_now();
    for (;;) {
        int status;
        pid_t done = waitpid(child, &status, WNOHANG);
        if (done == child && WIFEXITED(status))
            return WEXITSTATUS(status);
        bool stuck = seconds_now() - changed > PATIENCE;
        if (done == child || stuck) {
            const struct machine *m = (const struct machine *)progress->machine;
            printf("differential: case %llu on the %s %s\n", (unsigned long long)progress->number,
                   m ? m->name : "test", stuck ? "does not end" : "ended the process");
            struct test_case c;
            accept_configure(progress->cpuid);
            generate_case(&o->generate, progress->number, &c);
            compare_disassemble(&c);
            print_reproduce(o, progress->number);
            if (stuck)
                kill(child, SIGKILL);
            return 2;
        }
        if (progress->number != last) {
            last = progress->number;
            changed = seconds_now();
        }
        nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    }
}

static const struct family *find_family(const char *name)
{
    for (size_t i = 0; i < family_count; i++) {
        if (strcmp(families[i].name, name) == 0)
            return &families[i];
    }
    return NULL;
}

static bool parse(int argc, char **argv, struct options *o)
{
    static const struct option known[] = { { "seed", 1, NULL, 's' },
                                           { "start", 1, NULL, 'b' },
                                           { "count", 1, NULL, 'n' },
                                           { "only", 1, NULL, 'o' },
                                           { "mode", 1, NULL, 'm' },
                                           { "single", 0, NULL, '1' },
                                           { "stop-after", 1, NULL, 'x' },
                                           { "host-host", 0, NULL, 'h' },
                                           { "list", 0, NULL, 'l' },
                                           { "seconds", 1, NULL, 't' },
                                           { "coverage", 0, NULL, 'c' },
                                           { "alignment", 0, NULL, 'a' },
                                           { 0 } };
    *o = (struct options){ .generate = { .seed = 1, .mode = -1 }, .count = ~(uint64_t)0, .stop_after = 20 };
    for (int k; (k = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (k) {
        case 's': o->generate.seed = strtoull(optarg, NULL, 0); break;
        case 'b': o->start = strtoull(optarg, NULL, 0); break;
        case 'n': o->count = strtoull(optarg, NULL, 0); break;
        case 'm':
            o->generate.mode = strcmp(optarg, "64") == 0   ? MODE_64
                               : strcmp(optarg, "32") == 0 ? MODE_32
                                                           : MODE_16;
            break;
        case '1': o->generate.single = true; break;
        case 'x': o->stop_after = (unsigned)strtoul(optarg, NULL, 0); break;
        case 'h': o->host_host = true; break;
        case 'a': o->generate.alignment = true; break;
        case 'c': o->coverage = true; break;
        case 't': o->seconds = strtod(optarg, NULL); break;
        case 'l':
            for (size_t i = 0; i < family_count; i++)
                printf("%s\n", families[i].name);
            exit(0);
        case 'o':
            o->generate.family = find_family(optarg);
            if (!o->generate.family) {
                fprintf(stderr, "no family \"%s\": --list shows them\n", optarg);
                return false;
            }
            break;
        default:
            return false;
        }
    }
    if (o->count == ~(uint64_t)0 && o->seconds <= 0)
        o->count = 100000;
    return optind == argc;
}

int main(int argc, char **argv)
{
    struct options o;
    if (!parse(argc, argv, &o))
        return 2;
    progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (progress == MAP_FAILED) {
        perror("mmap");
        return 2;
    }
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) {
        perror("fork");
        return 2;
    }
    if (child == 0) {
        setvbuf(stdout, NULL, _IOLBF, 0);
        exit(run_cases(&o));
    }
    return supervise(&o, child);
}
