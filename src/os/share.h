// Memory and descriptors that go from one process to another: memory files, what lies behind a mapping, and a channel
// that carries descriptors.
//
// Functions that give a descriptor, or a count, answer minus an errno where they fail. Every descriptor is close-on-exec.
#ifndef BULKHEAD_OS_SHARE_H
#define BULKHEAD_OS_SHARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A new file of `size` zero bytes that lives in memory alone and cannot change its size.
int os_share_file(const char *name, uint64_t size);
// The size of such a file that somebody else has sent; -EINVAL when its size could still be changed, under a mapping.
int64_t os_share_file_size(int fd);
// The size of any file.
int64_t os_share_size(int fd);

// ---- What lies behind this process's memory -----------------------------------------------------------------------

struct os_mapping {
    uintptr_t start, end;
    bool shared, readable, writable;    // shared: stores go to the file
    uint64_t device, inode, offset;     // of the file; inode 0: none
};

// The mappings of this process inside [start, end), cut to it, in order: at most `room` of them. The answer says how
// many there are.
int os_share_mappings(uintptr_t start, uintptr_t end, struct os_mapping *mappings, size_t room);
// A descriptor of the file behind a shared mapping, that can be mapped with its rights: a copy of one that the process
// has open, or one made from the mapping where the system allows that. -ENOENT: there is none to be had.
int os_share_descriptor(const struct os_mapping *mapping);

// Copy a mapping's memory into a file, but for pages that were never touched. 0, or minus an errno: -EFAULT when it is not
// to be read.
int os_share_copy(const struct os_mapping *mapping, int fd, uint64_t offset);

// ---- A channel ---------------------------------------------------------------------------------------------------

#define OS_SHARE_MAX 250        // descriptors in a message

// Two ends of a channel that keeps messages apart.
int os_share_channel(int ends[2]);
// Never waits. 0, or minus an errno: -EPIPE when nobody has the other end.
int os_share_send(int channel, const void *bytes, size_t size, const int *fds, unsigned count);
// Never waits. The size of the message; 0 when nobody has the other end and nothing is left; -EAGAIN when nothing is
// there. A message with more bytes or descriptors than there is room for is -EMSGSIZE, and its descriptors are closed.
int os_share_receive(int channel, void *bytes, size_t size, int *fds, unsigned room, unsigned *count);
// Whether nobody has the other end any more.
bool os_share_alone(int channel);

#endif
