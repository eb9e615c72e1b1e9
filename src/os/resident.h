// How many pages of some of this process's memory are really there, by their size in the page tables.
//
// Source: /proc/thread-self/smaps for mappings that lie in a stretch as a whole, /proc/thread-self/pagemap for those
// that do so in part (Documentation/filesystems/proc.rst, Documentation/admin-guide/mm/pagemap.rst). It is not one
// moment's picture: what comes and goes meanwhile may be in it or not. Inexact otherwise, in mappings that lie in a
// stretch in part: the kernel's shared page of zeros counts where memory was only ever read; and the kernel tells how
// many 2 MiB pages a mapping has, not where, so as many count as there is room for in full and aligned 2 MiB.
#ifndef BULKHEAD_OS_RESIDENT_H
#define BULKHEAD_OS_RESIDENT_H

#include <stddef.h>
#include <stdint.h>

struct os_stretch { uintptr_t first; size_t size; };     // on pages

struct os_resident { uint64_t pages_4k, pages_2m, pages_1g; };

// Counts are added up over the stretches: memory in two of them counts twice. 0, or an errno and *resident is all zero:
// ENOENT or EACCES where /proc is missing or closed, ENOMEM, EMFILE, EIO for a form that is not understood.
int os_resident(const struct os_stretch *stretches, size_t count, struct os_resident *resident)
    __attribute__((warn_unused_result));

#endif
