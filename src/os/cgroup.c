// Files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst of the kernel).
#include "os/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

#define TEXT 4096

static _Thread_local __attribute__((tls_model("initial-exec"))) uint64_t joined;    // the group's number

static int file_of(const char *folder, const char *name, char *path, size_t size)
{
    return (size_t)snprintf(path, size, "%s/%s", folder, name) < size ? 0 : -ENAMETOOLONG;
}

static int read_file(const char *folder, const char *name, char *text, size_t size)
{
    char path[OS_CGROUP_PATH + 128];
    int answer = file_of(folder, name, path, sizeof path);
    if (answer < 0)
        return answer;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t length = read(fd, text, size - 1);
    answer = length < 0 ? -errno : 0;
    close(fd);
    text[length < 0 ? 0 : length] = '\0';
    return answer;
}

// The kernel takes each write as a whole.
static int write_file(const char *folder, const char *name, const char *text)
{
    char path[OS_CGROUP_PATH + 128];
    int answer = file_of(folder, name, path, sizeof path);
    if (answer < 0)
        return answer;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, text, strlen(text)) < 0)
        answer = -errno;
    close(fd);
    return answer;
}

static bool has_word(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = text; (at = strstr(at, word)); at += length)
        if ((at == text || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\n' || !at[length]))
            return true;
    return false;
}

// ---- The process's own group -----------------------------------------------------------------------------------------

// proc(5), /proc/PID/mountinfo: id, parent, device, root, mount point, options, tags, "-", type.
static int mount_point(char *root, char *point)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char line[TEXT];
    int answer = -ENOENT;
    if (!file)
        return -errno;
    while (answer < 0 && fgets(line, sizeof line, file))
        if (strstr(line, " - cgroup2 ") && sscanf(line, "%*s %*s %*s %511s %511s", root, point) == 2)
            answer = 0;
    fclose(file);
    return answer;
}

int os_cgroup_own(char *path, size_t size)
{
    char root[OS_CGROUP_PATH], point[OS_CGROUP_PATH], line[TEXT];
    int answer = mount_point(root, point);
    if (answer < 0)
        return answer;
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return -errno;
    answer = -ENOENT;
    while (answer < 0 && fgets(line, sizeof line, file)) {
        // A mount may show a part of the hierarchy, from `root` on.
        size_t shown = strcmp(root, "/") ? strlen(root) : 0;
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "0::", 3) || strncmp(line + 3, root, shown) || strstr(line, "/.."))
            continue;
        answer = (size_t)snprintf(path, size, "%s%s", point, line + 3 + shown) < size ? 0 : -ENAMETOOLONG;
    }
    fclose(file);
    return answer;
}

// ---- A group of ours ---------------------------------------------------------------------------------------------------

static int prepare(struct os_cgroup *g)
{
    char text[TEXT];
    // A threaded group first: a group that has processes of its own can then hand the controller down.
    int answer = write_file(g->path, "cgroup.type", "threaded");
    if (answer == 0)
        answer = write_file(g->parent, "cgroup.subtree_control", "+cpu");
    if (answer == 0)
        answer = read_file(g->path, "cpu.max", text, sizeof text);
    if (answer == 0)
        answer = os_cgroup_join(g);
    if (answer == 0)
        answer = write_file(g->parent, "cgroup.threads", "0");
    joined = 0;
    return answer;
}

int os_cgroup_make(struct os_cgroup *g, const char *parent, const char *name)
{
    static _Atomic uint64_t last;
    char text[TEXT];
    g->path[0] = '\0';
    int answer = read_file(parent, "cgroup.controllers", text, sizeof text);
    if (answer < 0)
        return answer;
    if (!has_word(text, "cpu"))
        return -ENOTSUP;
    if ((size_t)snprintf(g->parent, sizeof g->parent, "%s", parent) >= sizeof g->parent)
        return -ENAMETOOLONG;
    answer = file_of(parent, name, g->path, sizeof g->path);
    // What a process of the same number has left when it died is empty.
    if (answer == 0 && mkdir(g->path, 0755) != 0 &&
        (errno != EEXIST || rmdir(g->path) != 0 || mkdir(g->path, 0755) != 0))
        answer = -errno;
    g->number = atomic_fetch_add(&last, 1) + 1;
    if (answer < 0) {
        g->path[0] = '\0';
        return answer;
    }
    answer = prepare(g);
    if (answer < 0)
        os_cgroup_remove(g);
    return answer;
}

int os_cgroup_limit(const struct os_cgroup *g, uint64_t quota, uint64_t period, uint32_t weight)
{
    char text[64];
    if (quota)
        snprintf(text, sizeof text, "%" PRIu64 " %" PRIu64, quota, period);
    else
        snprintf(text, sizeof text, "max");
    int answer = write_file(g->path, "cpu.max", text);
    if (answer < 0)
        return answer;
    snprintf(text, sizeof text, "%u", weight);
    return write_file(g->path, "cpu.weight", text);
}

int os_cgroup_join(const struct os_cgroup *g)
{
    if (joined == g->number)
        return 0;
    int answer = write_file(g->path, "cgroup.threads", "0");
    if (answer == 0)
        joined = g->number;
    return answer;
}

void os_cgroup_remove(struct os_cgroup *g)
{
    char text[TEXT], *at = text, *line;
    if (!g->path[0])
        return;
    // A list that is longer than the text is read again, as those who have left are not in it any more.
    while (rmdir(g->path) != 0 && errno == EBUSY && read_file(g->path, "cgroup.threads", text, sizeof text) == 0) {
        bool moved = false;
        for (at = text; (line = strsep(&at, "\n")) && at;)
            moved |= write_file(g->parent, "cgroup.threads", line) == 0;
        if (!moved)
            break;
    }
    g->path[0] = '\0';
}
