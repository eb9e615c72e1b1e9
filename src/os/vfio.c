// Whether this host can give a device to a guest.
#include "os/vfio.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

static bool any_group(const char *path)
{
    DIR *directory = opendir(path);
    const struct dirent *entry;
    bool any = false;

    if (!directory)
        return false;
    while (!any && (entry = readdir(directory)))
        any = entry->d_name[0] != '.';
    closedir(directory);
    return any;
}

bool os_vfio_usable(const char *root)
{
    char container[PATH_MAX], groups[PATH_MAX];

    if (snprintf(container, sizeof container, "%s/dev/vfio/vfio", root) >= (int)sizeof container ||
        snprintf(groups, sizeof groups, "%s/sys/kernel/iommu_groups", root) >= (int)sizeof groups)
        return false;
    return access(container, R_OK | W_OK) == 0 && any_group(groups);
}
