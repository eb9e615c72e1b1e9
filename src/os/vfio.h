// Whether this host can give a device to a guest.
#ifndef BULKHEAD_OS_VFIO_H
#define BULKHEAD_OS_VFIO_H

#include <stdbool.h>

// VFIO's container can be opened by this process, and there is at least one IOMMU group
// (Documentation/driver-api/vfio.rst). `root` is put before both paths: "" for the host's own.
bool os_vfio_usable(const char *root);

#endif
