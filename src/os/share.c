// Memory files, mappings and channels, by memfd_create, /proc/self and Unix sockets.
#include "os/share.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

// ---- Files -------------------------------------------------------------------------------------------------------

int os_share_file(const char *name, uint64_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)size) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

int64_t os_share_size(int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return -errno;
    return S_ISREG(st.st_mode) ? st.st_size : -EINVAL;
}

int64_t os_share_file_size(int fd)
{
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return -errno;
    return seals & F_SEAL_SHRINK ? os_share_size(fd) : -EINVAL;
}

// ---- Mappings ----------------------------------------------------------------------------------------------------

int os_share_mappings(uintptr_t start, uintptr_t end, struct os_mapping *mappings, size_t room)
{
    FILE *file = fopen("/proc/self/maps", "re");
    char *line = NULL;
    size_t length = 0;
    int count = 0;
    if (!file)
        return -errno;
    while (getline(&line, &length, file) > 0) {
        unsigned long first, last, offset, inode;
        unsigned major, minor;
        char rights[5];
        if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu", &first, &last, rights, &offset, &major, &minor, &inode) != 7)
            continue;
        if (last <= start || first >= end)
            continue;
        if ((size_t)count < room) {
            struct os_mapping *m = &mappings[count];
            *m = (struct os_mapping){ .start = first, .end = last, .shared = rights[3] == 's',
                                      .readable = rights[0] == 'r', .writable = rights[1] == 'w',
                                      .device = makedev(major, minor), .inode = inode, .offset = offset };
            if (m->start < start) {
                m->offset += start - m->start;
                m->start = start;
            }
            if (m->end > end)
                m->end = end;
        }
        count++;
    }
    free(line);
    fclose(file);
    return count;
}

static bool is_file(int fd, const struct os_mapping *mapping)
{
    struct stat st;
    int mode = fcntl(fd, F_GETFL);
    if (mode < 0 || (mode & O_PATH) || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return false;
    bool rights = (mode & O_ACCMODE) == O_RDWR || (!mapping->writable && (mode & O_ACCMODE) == O_RDONLY);
    return rights && st.st_ino == mapping->inode && st.st_dev == mapping->device;
}

// By the mapping itself: for those who may (the capability CAP_CHECKPOINT_RESTORE).
static int descriptor_of_mapping(const struct os_mapping *mapping)
{
    char path[96];
    // The link's name is the whole mapping, which `mapping` may be a part of: it is found by its beginning.
    DIR *directory = opendir("/proc/self/map_files");
    int fd = -ENOENT;
    if (!directory)
        return -ENOENT;
    for (struct dirent *entry; fd < 0 && (entry = readdir(directory));) {
        unsigned long first, last;
        if (sscanf(entry->d_name, "%lx-%lx", &first, &last) != 2 || first > mapping->start || last < mapping->end)
            continue;
        snprintf(path, sizeof path, "/proc/self/map_files/%.64s", entry->d_name);
        fd = open(path, (mapping->writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
        if (fd >= 0 && !is_file(fd, mapping)) {
            close(fd);
            fd = -ENOENT;
        }
        break;
    }
    closedir(directory);
    return fd < 0 ? -ENOENT : fd;
}

int os_share_descriptor(const struct os_mapping *mapping)
{
    DIR *directory = opendir("/proc/self/fd");
    int fd = -ENOENT;
    if (!mapping->inode || !mapping->shared) {
        if (directory)
            closedir(directory);
        return -ENOENT;
    }
    for (struct dirent *entry; directory && fd < 0 && (entry = readdir(directory));) {
        char *end;
        long number = strtol(entry->d_name, &end, 10);
        if (end == entry->d_name || *end || number == dirfd(directory) || !is_file((int)number, mapping))
            continue;
        fd = fcntl((int)number, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            fd = -errno;
        else if (!is_file(fd, mapping)) {       // another thread has closed that one, and opened something else
            close(fd);
            fd = -ENOENT;
        }
        if (fd < 0 && fd != -ENOENT)
            break;
    }
    if (directory)
        closedir(directory);
    return fd == -ENOENT ? descriptor_of_mapping(mapping) : fd;
}

#define COPY_PAGE 4096u
#define COPY_CHUNK 512u         // pages that are looked up at once

static int copy(uintptr_t from, size_t size, int fd, uint64_t offset)
{
    while (size) {
        ssize_t n = pwrite(fd, (const void *)from, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        from += (size_t)n;
        offset += (size_t)n;
        size -= (size_t)n;
    }
    return 0;
}

// A page that is present or swapped out (Documentation/admin-guide/mm/pagemap.rst).
static bool is_there(uint64_t entry) { return entry >> 62 != 0; }

int os_share_copy(const struct os_mapping *mapping, int fd, uint64_t offset)
{
    // Of a file's mapping a page that is not present still has the file's bytes.
    int pagemap = mapping->inode ? -1 : open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    int result = 0;
    for (uintptr_t at = mapping->start; at < mapping->end && result == 0;) {
        uint64_t entries[COPY_CHUNK];
        size_t pages = (mapping->end - at) / COPY_PAGE < COPY_CHUNK ? (mapping->end - at) / COPY_PAGE : COPY_CHUNK;
        ssize_t size = (ssize_t)(pages * sizeof *entries);
        bool known = pagemap >= 0 && pread(pagemap, entries, (size_t)size, (off_t)(at / COPY_PAGE * sizeof *entries)) == size;
        for (size_t n = 0; n < pages && result == 0;) {
            size_t run = 0;
            while (n + run < pages && (!known || is_there(entries[n + run])))
                run++;
            if (run)
                result = copy(at + n * COPY_PAGE, run * COPY_PAGE, fd, offset + (at - mapping->start) + n * COPY_PAGE);
            n += run ? run : 1;
        }
        at += pages * COPY_PAGE;
    }
    if (pagemap >= 0)
        close(pagemap);
    return result;
}

// ---- Channels ----------------------------------------------------------------------------------------------------

int os_share_channel(int ends[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0 ? 0 : -errno;
}

union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(OS_SHARE_MAX * sizeof(int))];
};

int os_share_send(int channel, const void *bytes, size_t size, const int *fds, unsigned count)
{
    union control control;
    struct iovec part = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = size };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    if (count) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(channel, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

int os_share_receive(int channel, void *bytes, size_t size, int *fds, unsigned room, unsigned *count)
{
    union control control;
    struct iovec part = { .iov_base = bytes, .iov_len = size };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    ssize_t received;
    *count = 0;
    do
        received = recvmsg(channel, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (received < 0 && errno == EINTR);
    if (received < 0)
        return -errno;
    bool whole = !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC));
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
            if (*count < room)
                fds[(*count)++] = fd;
            else {
                close(fd);
                whole = false;
            }
        }
    }
    if (whole)
        return (int)received;
    while (*count > 0)
        close(fds[--*count]);
    return -EMSGSIZE;
}

bool os_share_alone(int channel)
{
    struct pollfd p = { .fd = channel, .events = 0 };
    int ready;
    do
        ready = poll(&p, 1, 0);
    while (ready < 0 && errno == EINTR);
    return ready > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL));
}
