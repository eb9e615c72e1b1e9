/* migration.c: what a migration between two processes costs.
 *
 *   migration [ROUNDS]
 *
 * Prints a line "NAME VALUE" for each figure, medians over the rounds; bench/run gives them words. "Downtime" is from
 * the last exit that the guest made at the source to the first at the destination, by the host's monotonic clock.
 * Shared memory (memfd) is handed over; private memory is copied, which is compared with a memcpy of the same bytes.
 *
 * "Gap" is the longest stretch of its own TSC that a guest sees between two readings, while it goes a hundred times to
 * another process and back, answering a port after every thousand readings: a hiccup is one above the downtime.
 */
#include <WinHvPlatform.h>
#include <bulkhead/bulkhead.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"
#include "timing.h"

#define MAX_ROUNDS 101
#define MIB (1ull << 20)
#define TIMES 100u

static unsigned rounds = 11;

static const UINT8 out_loop[] = {0xE6, 0x10, 0xEB, 0xFC};   /* out 0x10, al; jmp there */

/* Reads its TSC again and again: the longest step goes to [DATA_AT], how many to [DATA_AT + 8]. */
static const UINT8 gap_loop[] = {
    0xB9, 0xE8, 0x03, 0x00, 0x00,                   /* 00 again: mov ecx, 1000   */
    0x0F, 0x31,                                     /* 05 next:  rdtsc           */
    0x48, 0xC1, 0xE2, 0x20,                         /* 07        shl rdx, 32     */
    0x48, 0x09, 0xD0,                               /* 0b        or rax, rdx     */
    0x49, 0x89, 0xC0,                               /* 0e        mov r8, rax     */
    0x4C, 0x29, 0xC8,                               /* 11        sub rax, r9     */
    0x4D, 0x89, 0xC1,                               /* 14        mov r9, r8      */
    0x48, 0x3B, 0x06,                               /* 17        cmp rax, [rsi]  */
    0x76, 0x03,                                     /* 1a        jbe same        */
    0x48, 0x89, 0x06,                               /* 1c        mov [rsi], rax  */
    0x48, 0xFF, 0x46, 0x08,                         /* 1f same:  inc qword [rsi+8] */
    0xFF, 0xC9,                                     /* 23        dec ecx         */
    0x75, 0xDE,                                     /* 25        jnz next        */
    0xE6, 0x10,                                     /* 27        out 0x10, al    */
    0xEB, 0xD5,                                     /* 29        jmp again       */
};
#define GAP_NEXT (CODE_AT + 0x29)

/* What the two processes share. */
static struct notes {
    double last, first, started, accepted, longest;
} *notes;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void step_over(WHV_PARTITION_HANDLE partition, UINT64 next)
{
    static const WHV_REGISTER_NAME name = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Reg64 = next;
    guest_run_to(partition, WHvRunVpExitReasonX64IoPortAccess);
    guest_set(partition, &name, 1, &value);
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
    if (sendmsg(socket, &message, 0) != 1) {
        die("sendmsg");
    }
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

    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1) {
        die("recvmsg");
    }
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
    return fd;
}

/* To the other process, from after an exit. */
static void go(int socket, WHV_PARTITION_HANDLE partition)
{
    HANDLE handle;
    char byte;
    int fd;

    notes->last = now();
    check("WHvStartPartitionMigration", WHvStartPartitionMigration(partition, &handle));
    notes->started = now();
    check("BulkheadFdFromHandle", BulkheadFdFromHandle(handle, &fd));
    send_fd(socket, fd);
    close(fd);
    if (read(socket, &byte, 1) != 1) {
        die("read");
    }
    check("WHvCompletePartitionMigration", WHvCompletePartitionMigration(partition));
    if (write(socket, "C", 1) != 1) {
        die("write");
    }
    check("WHvDeletePartition", WHvDeletePartition(partition));
}

static WHV_PARTITION_HANDLE come(int socket)
{
    WHV_PARTITION_HANDLE partition;
    HANDLE handle;
    char byte;

    check("BulkheadHandleFromFd", BulkheadHandleFromFd(receive_fd(socket), &handle));
    check("WHvAcceptPartitionMigration", WHvAcceptPartitionMigration(handle, &partition));
    notes->accepted = now();
    if (write(socket, "A", 1) != 1 || read(socket, &byte, 1) != 1) {
        die("accept");
    }
    check("WHvSetupPartition", WHvSetupPartition(partition));
    return partition;
}

/* One migration to a new process. Seconds of downtime; `start` receives those of the first call. */
static double once(UINT8 *memory, UINT64 size, double *start)
{
    const struct guest_start guest = {.code = out_loop, .code_size = sizeof(out_loop)};
    int sockets[2], status;
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
        die("socketpair");
    }
    fflush(stdout);
    child = fork();
    if (child < 0) {
        die("fork");
    }
    if (child == 0) {
        WHV_PARTITION_HANDLE partition;

        close(sockets[0]);
        partition = come(sockets[1]);
        step_over(partition, CODE_AT + 2);
        notes->first = now();
        check("WHvDeletePartition", WHvDeletePartition(partition));
        _exit(0);
    }
    close(sockets[1]);
    {
        WHV_PARTITION_HANDLE partition = guest_create(memory, &guest);
        const WHV_MAP_GPA_RANGE_FLAGS all =
            WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute;

        check("WHvMapGpaRange", WHvMapGpaRange(partition, memory + GUEST_SIZE, GUEST_SIZE, size - GUEST_SIZE, all));
        step_over(partition, CODE_AT + 2);
        go(sockets[0], partition);
    }
    close(sockets[0]);
    if (waitpid(child, &status, 0) != child || status != 0) {
        die("the destination");
    }
    *start = notes->started - notes->last;
    return notes->first - notes->last;
}

/* Shared memory's descriptor is in `*fd`, and stays open while the memory is to be handed over. */
static void *map_memory(UINT64 size, bool shared, int *fd_out)
{
    int fd = -1;
    void *memory;

    if (shared) {
        fd = memfd_create("guest", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, (off_t)size) != 0) {
            die("memfd_create");
        }
    }
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    if (memory == MAP_FAILED) {
        die("mmap");
    }
    *fd_out = fd;
    return memory;
}

static void bench_shared(UINT64 size, UINT64 touched)
{
    double downtime[MAX_ROUNDS], ignored;
    int fd;
    UINT8 *memory = map_memory(size, true, &fd);

    memset(memory, 1, touched);
    for (unsigned n = 0; n < rounds; n++) {
        downtime[n] = once(memory, size, &ignored);
    }
    printf("shared_%llu_mib_downtime_ms %.3f\n", (unsigned long long)(size / MIB), median(downtime, rounds) * 1e3);
    munmap(memory, size);
    close(fd);
}

static void bench_private(UINT64 size)
{
    double downtime[MAX_ROUNDS], start[MAX_ROUNDS], copy[MAX_ROUNDS], ratio[MAX_ROUNDS];
    int fd;
    UINT8 *memory = map_memory(size, false, &fd);

    memset(memory, 1, size);
    for (unsigned n = 0; n < rounds; n++) {
        UINT8 *to = map_memory(size, true, &fd);
        double begin = now();

        memcpy(to, memory, size);
        copy[n] = now() - begin;
        munmap(to, size);
        close(fd);
        downtime[n] = once(memory, size, &start[n]);
        ratio[n] = copy[n] / start[n];
    }
    printf("private_%llu_mib_downtime_ms %.3f\n", (unsigned long long)(size / MIB), median(downtime, rounds) * 1e3);
    printf("private_%llu_mib_start_ms %.3f\n", (unsigned long long)(size / MIB), median(start, rounds) * 1e3);
    printf("private_%llu_mib_memcpy_ms %.3f\n", (unsigned long long)(size / MIB), median(copy, rounds) * 1e3);
    printf("private_%llu_mib_throughput_ratio %.3f\n", (unsigned long long)(size / MIB), median(ratio, rounds));
    munmap(memory, size);
}

static void ping_pong(int socket, WHV_PARTITION_HANDLE partition, unsigned times)
{
    for (unsigned n = 0; n < times; n++) {
        if (!partition) {
            partition = come(socket);
            step_over(partition, GAP_NEXT);
            notes->longest = now() - notes->last > notes->longest ? now() - notes->last : notes->longest;
        }
        for (unsigned exits = 0; exits < 5; exits++) {
            step_over(partition, GAP_NEXT);
        }
        go(socket, partition);
        partition = NULL;
    }
}

static void bench_there_and_back(void)
{
    const struct guest_start guest = {.code = gap_loop, .code_size = sizeof(gap_loop), .rsi = DATA_AT};
    WHV_CAPABILITY clock;
    WHV_PARTITION_HANDLE partition;
    UINT64 gap, readings;
    int sockets[2], fd, status;
    UINT8 *memory = map_memory(64 * MIB, true, &fd);
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
        die("socketpair");
    }
    fflush(stdout);
    child = fork();
    if (child == 0) {
        close(sockets[0]);
        ping_pong(sockets[1], NULL, TIMES);
        _exit(0);
    }
    close(sockets[1]);
    partition = guest_create(memory, &guest);
    step_over(partition, GAP_NEXT);
    memset(memory + DATA_AT, 0, 16);            /* the first reading has none before it */
    ping_pong(sockets[0], partition, TIMES);
    check("WHvDeletePartition", WHvDeletePartition(come(sockets[0])));
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
        die("the other process");
    }
    memcpy(&gap, memory + DATA_AT, sizeof(gap));
    memcpy(&readings, memory + DATA_AT + 8, sizeof(readings));
    check("WHvGetCapability",
          WHvGetCapability(WHvCapabilityCodeProcessorClockFrequency, &clock, sizeof(clock), NULL));
    printf("hundred_times_gap_ms %.3f\n", (double)gap * 1e3 / (double)clock.ProcessorClockFrequency);
    printf("hundred_times_downtime_ms %.3f\n", notes->longest * 1e3);
    printf("hundred_times_readings %llu\n", (unsigned long long)readings);
    munmap(memory, 64 * MIB);
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        rounds = (unsigned)strtoul(argv[1], NULL, 10);
    }
    if (argc > 2 || rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: migration [ROUNDS], 1 to %u\n", MAX_ROUNDS);
        return 2;
    }
    notes = mmap(NULL, sizeof(*notes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (notes == MAP_FAILED) {
        die("mmap");
    }
    bench_shared(64 * MIB, 64 * MIB);
    bench_shared(4096 * MIB, 4096 * MIB);
    bench_private(64 * MIB);
    bench_private(1024 * MIB);
    bench_there_and_back();
    return 0;
}
