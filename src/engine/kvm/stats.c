// KVM's binary statistics: a descriptor for each query, its table of names, its figures.
#include "engine/kvm/stats.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/host.h"
#include "engine/kvm/ioctl.h"

#define DESCRIPTORS_MAX 4096u           // more than any kernel has; its file is not trusted with our memory
#define NAME_MAX_SIZE 1024u

static const char *const names[KVM_STATS] = {
#define KVM_STAT_NAME(name) [KVM_STAT_##name] = #name,
    KVM_STAT_LIST(KVM_STAT_NAME)
#undef KVM_STAT_NAME
};

static bool read_all(int fd, void *to, size_t size, uint64_t offset)
{
    return pread(fd, to, size, (off_t)offset) == (ssize_t)size;
}

static HRESULT take(int fd, const struct kvm_stats_header *header, const struct kvm_stats_desc *d,
                    struct kvm_stats *stats)
{
    uint64_t at = (uint64_t)header->data_offset + d->offset;
    for (unsigned n = 0; n < KVM_STATS; n++) {
        if (strncmp(d->name, names[n], header->name_size) != 0)
            continue;
        if (d->size != 1 || !read_all(fd, &stats->value[n], sizeof stats->value[n], at))
            return E_FAIL;
        stats->known |= 1u << n;
    }
    return S_OK;
}

static HRESULT read_from(int fd, struct kvm_stats *stats)
{
    struct kvm_stats_header header;
    if (!read_all(fd, &header, sizeof header, 0) || header.num_desc > DESCRIPTORS_MAX
        || header.name_size > NAME_MAX_SIZE)
        return E_FAIL;
    size_t stride = sizeof(struct kvm_stats_desc) + header.name_size, size = stride * header.num_desc;
    char *descriptors = malloc(size + 1);
    if (!descriptors)
        return E_OUTOFMEMORY;
    HRESULT hr = read_all(fd, descriptors, size, header.desc_offset) ? S_OK : E_FAIL;
    for (unsigned n = 0; n < header.num_desc && SUCCEEDED(hr); n++)
        hr = take(fd, &header, (const struct kvm_stats_desc *)(descriptors + n * stride), stats);
    free(descriptors);
    return hr;
}

HRESULT kvm_stats_read(int fd, struct kvm_stats *stats)
{
    *stats = (struct kvm_stats){ 0 };
    if (!kvm_host()->stats)
        return S_OK;
    int file = kvm_ioctl_value(fd, KVM_GET_STATS_FD, 0);
    if (file < 0)
        return kvm_hresult(file);
    HRESULT hr = read_from(file, stats);
    close(file);
    return hr;
}
