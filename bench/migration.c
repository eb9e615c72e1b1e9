/* migration.c: what a migration between two processes costs.
 *
 *   migration [ROUNDS]
 *
 * Prints a line "NAME VALUE" for each figure, medians over the rounds; bench/run gives them words. "Downtime" is from
 * the last exit that the guest made at the source to the first at the destination, by the host's monotonic clock.
 * Shared memory (memfd) is handed over; private memory is copied, which is compared with a memcpy of the same bytes.
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

static unsigned rounds = 11;

static const UINT8 out_loop[] = {0xE6, 0x10, 0xEB, 0xFC};   /* out 0x10, al; jmp there */

/* What the two processes share. */
static struct notes {
    double last, first, started, accepted;
} *notes;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void step_over(WHV_PARTITION_HANDLE partition)
{
    static const WHV_REGISTER_NAME name = WHvX64RegisterRip;
    WHV_REGISTER_VALUE value;

    memset(&value, 0, sizeof(value));
    value.Reg64 = CODE_AT + 2;
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

static void go(int socket, WHV_PARTITION_HANDLE partition)
{
    HANDLE handle;
    char byte;
    int fd;

    step_over(partition);
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
    step_over(partition);
    notes->first = now();
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
        close(sockets[0]);
        check("WHvDeletePartition", WHvDeletePartition(come(sockets[1])));
        _exit(0);
    }
    close(sockets[1]);
    {
        WHV_PARTITION_HANDLE partition = guest_create(memory, &guest);
        const WHV_MAP_GPA_RANGE_FLAGS all =
            WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute;

        check("WHvMapGpaRange", WHvMapGpaRange(partition, memory + GUEST_SIZE, GUEST_SIZE, size - GUEST_SIZE, all));
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
    return 0;
}
