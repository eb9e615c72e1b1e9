// Migration with one of the two processes killed: at each step, and at random instants; or stopped for a while, or the
// source taking it back. Afterwards one process at most can run the partition, the one that may does, and no tick of the
// guest is lost or counted twice.
//
//     BULKHEAD_KILLS=N    rounds at random instants (default below), BULKHEAD_SEED=N
#include "holdings.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SIZE (16 * PAGE)
#define KILLS 1000u
#define TICKS 0x2000u
#define NEXT (CODE + 6)
#define BEFORE 3u               // ticks at the source before it begins
#define AFTER 3u                // ticks of whoever has the partition in the end

// inc word [0x2000]; out 0x10, al; jmp back
static const uint8_t code[] = {0xFF, 0x06, 0x00, 0x20, 0xE6, 0x10, 0xEB, 0xF8};

enum side { SOURCE, TARGET };

// What the three processes share.
struct notes {
    atomic_uint outs;           // ticks that a process was told of
    atomic_uint went_on[2];     // ticks by each side after the migration
    atomic_bool offered;        // the descriptor is on its way to the target
    atomic_bool canceled, completed;
    atomic_int owner;           // who runs the guest: 1 + side, 0 nobody
    atomic_bool two;            // two ran it at once
};

static struct notes *notes;
static uint8_t *memory;
static int memory_fd;

// Where a process kills itself: after that many steps. -1: never.
static int last_step, steps;
static bool takes_back;

static void step(void)
{
    if (steps++ == last_step)
        raise(SIGKILL);
}

// Everything below runs in the two processes, which end with a code: no assertion of the test runner's.
#define MUST(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                  \
            _exit(3);                                                                                        \
        }                                                                                                    \
    } while (0)

static void tick(WHV_PARTITION_HANDLE p, enum side side)
{
    const WHV_REGISTER_NAME name = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    int owner = atomic_exchange(&notes->owner, 1 + (int)side);

    if (owner != 0 && owner != 1 + (int)side)
        atomic_store(&notes->two, true);
    MUST(WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit)) == S_OK);
    MUST(exit.ExitReason == WHvRunVpExitReasonX64IoPortAccess);
    atomic_fetch_add(&notes->outs, 1);
    memset(&value, 0, sizeof(value));
    value.Reg64 = NEXT;
    MUST(WHvSetVirtualProcessorRegisters(p, 0, &name, 1, &value) == S_OK);
}

static void go_on(WHV_PARTITION_HANDLE p, enum side side)
{
    for (unsigned int n = 0; n < AFTER; n++) {
        tick(p, side);
        atomic_fetch_add(&notes->went_on[side], 1);
    }
    MUST(WHvDeletePartition(p) == S_OK);
}

static void send_fd(int socket, int fd)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
    struct iovec part = {.iov_base = "F", .iov_len = 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof(control.room)};

    memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    (void)sendmsg(socket, &message, MSG_NOSIGNAL);      // the target may be gone
}

static int receive_fd(int socket)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    char byte;
    struct iovec part = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    int fd;

    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0 || message.msg_controllen == 0)
        return -1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
    return fd;
}

static void source(int socket)
{
    WHV_PARTITION_HANDLE p;
    HANDLE handle;
    HRESULT hr;
    char byte;
    int fd;

    p = guest(memory, code, sizeof(code));
    for (unsigned int n = 0; n < BEFORE; n++)
        tick(p, SOURCE);
    atomic_store(&notes->owner, 0);
    step();
    MUST(WHvStartPartitionMigration(p, &handle) == S_OK);
    step();
    MUST(BulkheadFdFromHandle(handle, &fd) == S_OK);
    send_fd(socket, fd);
    atomic_store(&notes->offered, true);
    step();
    close(fd);
    step();
    if (read(socket, &byte, 1) == 1 && !takes_back) {   // accepted
        step();
        hr = WHvCompletePartitionMigration(p);
        if (hr == S_OK) {
            atomic_store(&notes->completed, true);
            step();
            MUST(WHvCancelPartitionMigration(p) == INVALID_STATE);
            MUST(WHvDeletePartition(p) == S_OK);
            step();
            return;
        }
        MUST(hr == INVALID_STATE);
    }
    step();
    MUST(WHvCancelPartitionMigration(p) == S_OK);
    atomic_store(&notes->canceled, true);
    step();
    go_on(p, SOURCE);
}

static void target(int socket)
{
    WHV_PARTITION_HANDLE p;
    HANDLE handle;
    HRESULT hr;
    int fd, gone = 0;

    step();
    fd = receive_fd(socket);
    if (fd < 0)
        return;                                         // the source was killed before
    MUST(BulkheadHandleFromFd(fd, &handle) == S_OK);
    step();
    hr = WHvAcceptPartitionMigration(handle, &p);
    if (hr == INVALID_STATE)
        return;                                         // canceled
    MUST(hr == S_OK);
    step();
    (void)send(socket, "A", 1, MSG_NOSIGNAL);
    step();
    while ((hr = WHvSetupPartition(p)) == INVALID_STATE) {
        struct pollfd poll_fd = {.fd = socket, .events = POLLIN};

        if (atomic_load(&notes->canceled))
            return;
        // Its descriptors are closed one after the other when the source is killed: the channel's may be the last.
        gone += poll(&poll_fd, 1, 0) > 0;
        if (gone > 1000)
            return;
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    MUST(hr == S_OK);
    step();
    atomic_store(&notes->owner, 0);
    go_on(p, TARGET);
}

static uint16_t guest_ticks(void)
{
    uint16_t ticks;

    memcpy(&ticks, memory + TICKS, sizeof(ticks));
    return ticks;
}

struct plan {
    int last_step[2];           // where each kills itself
    int victim;                 // whom the test kills, after `delay_ns`; -1: nobody
    long delay_ns;
    long stop_ns;               // not killed but stopped for so long; 0: killed
    bool cancel;                // the source takes it back though the target has accepted
};

struct outcome {
    bool killed[2];
};

static struct outcome play(const struct plan *plan)
{
    struct outcome outcome;
    int sockets[2], status[2];
    pid_t pids[2];

    memset(notes, 0, sizeof(*notes));
    memset(memory, 0, SIZE);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    for (int side = 0; side < 2; side++) {
        pids[side] = fork();
        assert_true(pids[side] >= 0);
        if (pids[side] == 0) {
            close(sockets[!side]);
            last_step = plan->last_step[side];
            takes_back = plan->cancel;
            steps = 0;
            (side == SOURCE ? source : target)(sockets[side]);
            _exit(0);
        }
    }
    close(sockets[0]);
    close(sockets[1]);
    if (plan->victim >= 0) {
        nanosleep(&(struct timespec){.tv_nsec = plan->delay_ns}, NULL);
        kill(pids[plan->victim], plan->stop_ns ? SIGSTOP : SIGKILL);
        if (plan->stop_ns) {
            nanosleep(&(struct timespec){.tv_nsec = plan->stop_ns}, NULL);
            kill(pids[plan->victim], SIGCONT);
        }
    }
    for (int side = 0; side < 2; side++) {
        assert_int_equal(waitpid(pids[side], &status[side], 0), pids[side]);
        outcome.killed[side] = WIFSIGNALED(status[side]) && WTERMSIG(status[side]) == SIGKILL;
        assert_true(outcome.killed[side] || (WIFEXITED(status[side]) && WEXITSTATUS(status[side]) == 0));
    }
    return outcome;
}

static void check(const struct plan *plan, const struct outcome *outcome)
{
    const unsigned int outs = notes->outs, guest = guest_ticks();
    const bool source_ran = notes->went_on[SOURCE] > 0, target_ran = notes->went_on[TARGET] > 0;

    // A process may be killed between the guest's tick and its own note of it.
    const bool counted = guest == outs || (guest == outs + 1 && (outcome->killed[0] || outcome->killed[1]));
    // Who is alive and has a right to it runs it.
    const bool source_has_it = !outcome->killed[SOURCE] && !notes->completed;
    const bool target_has_it = !outcome->killed[TARGET] && notes->offered && !notes->canceled;
    const bool fair = !(source_ran && target_ran) && !notes->two && (!source_has_it || source_ran)
                   && (!target_has_it || target_ran) && (!source_ran || notes->canceled);

    if (!counted || !fair)
        print_message("victim %d after %ld ns, steps %d %d: killed %d %d, ticks %u, told %u, went on %u %u, offered %d, "
                      "canceled %d, completed %d\n",
                      plan->victim, plan->delay_ns, plan->last_step[0], plan->last_step[1], outcome->killed[0],
                      outcome->killed[1], guest, outs, notes->went_on[0], notes->went_on[1], notes->offered,
                      notes->canceled, notes->completed);
    assert_true(counted && fair);
}

static void test_at_each_step(void **state)
{
    struct plan plan = {.last_step = {-1, -1}, .victim = -1};
    struct outcome outcome = play(&plan);
    unsigned int killed = 0;

    (void)state;
    check(&plan, &outcome);
    assert_int_equal(notes->went_on[TARGET], AFTER);
    assert_int_equal(guest_ticks(), BEFORE + AFTER);
    for (int side = 0; side < 2; side++) {
        for (int n = 0; n < 12; n++) {
            plan = (struct plan){.last_step = {-1, -1}, .victim = -1};
            plan.last_step[side] = n;
            outcome = play(&plan);
            check(&plan, &outcome);
            killed += outcome.killed[side];
        }
    }
    assert_true(killed >= 10);
    // Both, each at each.
    for (int n = 0; n < 7; n++)
        for (int m = 0; m < 5; m++) {
            plan = (struct plan){.last_step = {n, m}, .victim = -1};
            outcome = play(&plan);
            check(&plan, &outcome);
        }
}

static void test_at_random(void **state)
{
    const char *wanted = getenv("BULKHEAD_KILLS"), *seed_text = getenv("BULKHEAD_SEED");
    const unsigned int rounds = wanted ? (unsigned int)strtoul(wanted, NULL, 10) : KILLS;
    unsigned int seed = seed_text ? (unsigned int)strtoul(seed_text, NULL, 10) : 1, killed[2] = {0, 0};
    unsigned int source_kept = 0, target_got = 0;
    struct plan undisturbed = {.last_step = {-1, -1}, .victim = -1};
    long longest = 0;

    (void)state;
    for (unsigned int n = 0; n < 5; n++) {
        struct timespec begin, end;

        clock_gettime(CLOCK_MONOTONIC, &begin);
        (void)play(&undisturbed);
        clock_gettime(CLOCK_MONOTONIC, &end);
        longest += ((end.tv_sec - begin.tv_sec) * 1000000000 + (end.tv_nsec - begin.tv_nsec)) / 5;
    }
    // The instants are spread over as long as it takes.
    for (unsigned int n = 0; n < rounds; n++) {
        struct plan plan = {.last_step = {-1, -1}, .victim = (int)(n & 1)};
        struct outcome outcome;

        plan.delay_ns = (long)((double)rand_r(&seed) / RAND_MAX * (double)longest);
        outcome = play(&plan);
        check(&plan, &outcome);
        killed[plan.victim] += outcome.killed[plan.victim];
        source_kept += notes->went_on[SOURCE] > 0;
        target_got += notes->went_on[TARGET] > 0;
    }
    print_message("%u rounds: source killed %u, target killed %u; the source went on %u times, the target %u\n", rounds,
                  killed[0], killed[1], source_kept, target_got);
    if (rounds >= 100) {
        assert_true(killed[0] > rounds / 50 && killed[1] > rounds / 50);
        assert_true(source_kept > 0 && target_got > 0);
    }
}

static void test_stops_and_cancels(void **state)
{
    unsigned int seed = 5, source_kept = 0, target_got = 0;

    (void)state;
    for (unsigned int n = 0; n < 200; n++) {
        struct plan plan = {.last_step = {-1, -1}, .victim = (int)(n & 1), .delay_ns = rand_r(&seed) % 2000000,
                            .stop_ns = 1 + rand_r(&seed) % 3000000, .cancel = n % 3 == 0};
        struct outcome outcome = play(&plan);

        check(&plan, &outcome);
        assert_false(outcome.killed[SOURCE] || outcome.killed[TARGET]);
        assert_int_equal(notes->went_on[plan.cancel ? SOURCE : TARGET], AFTER);
        assert_int_equal(guest_ticks(), BEFORE + AFTER);
        source_kept += notes->went_on[SOURCE] > 0;
        target_got += notes->went_on[TARGET] > 0;
    }
    assert_int_equal(source_kept + target_got, 200);
}

static int set_up_memory(void **state)
{
    (void)state;
    memory_fd = memfd_create("guest", MFD_CLOEXEC);
    if (memory_fd < 0 || ftruncate(memory_fd, SIZE) != 0)
        return -1;
    memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
    notes = mmap(NULL, sizeof(*notes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED || notes == MAP_FAILED ? -1 : 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_at_each_step),
        cmocka_unit_test(test_at_random),
        cmocka_unit_test(test_stops_and_cancels),
    };

    return engine_run_tests_with(tests, set_up_memory, NULL);
}
