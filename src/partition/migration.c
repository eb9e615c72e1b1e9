// Migration between two processes of one host.
#include "partition/migration.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#include "os/share.h"
#include "partition/handover.h"
#include "partition/policy.h"
#include "partition/snapshot.h"

#define INVALID_STATE HRESULT_FROM_WIN32(ERROR_INVALID_STATE)
#define INVALID_DATA HRESULT_FROM_WIN32(ERROR_INVALID_DATA)
#define NOT_SUPPORTED HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED)

#define STREAM_SIZE_MAX (256ull << 20)      // of a stream that is read; the largest written is far below
#define FILES_MAX 65536u

enum decision { OFFERED, ACCEPTED, CANCELED, COMPLETED, INHERITED, ABANDONED };

struct migration {
    int channel;                        // -1: closed
    _Atomic uint32_t *word;             // enum decision, in memory of its own
    uint8_t *stream;                    // at the destination: what came, until set-up
    size_t stream_size;
    struct snapshot_map map;
};

// The message: a head, and then descriptors in as many parts as it takes, each with the head again.
struct head {
    uint64_t magic;
    uint32_t version, files;            // descriptors in all: the stream, the word, and those of the memory
    uint32_t first;                     // the number of this part's first one
    uint32_t zero;
};
#define MAGIC 0x4647494d4b4c5542ull     // "BULKMIGF" in memory order
#define VERSION 1u

static bool decide(const struct migration *m, enum decision from, enum decision to)
{
    uint32_t expected = from;

    return atomic_compare_exchange_strong(m->word, &expected, to);
}

static void release_migration(struct migration *m)
{
    if (m->channel >= 0)
        close(m->channel);
    if (m->word)
        munmap((void *)m->word, GPA_PAGE_SIZE);
    free(m->stream);
    snapshot_map_release(&m->map);
    free(m);
}

static struct migration *new_migration(void)
{
    struct migration *m = calloc(1, sizeof(*m));

    if (m)
        m->channel = -1;
    return m;
}

static HRESULT map_word(struct migration *m, int fd)
{
    void *word = mmap(NULL, GPA_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (word == MAP_FAILED)
        return E_OUTOFMEMORY;
    m->word = word;
    return S_OK;
}

static HRESULT of_error(int error)
{
    return error == -EACCES || error == -EPERM || error == -EFAULT ? E_ACCESSDENIED : E_OUTOFMEMORY;
}

// ---- The source --------------------------------------------------------------------------------------------------

static HRESULT write_file(const struct stream *s, int *fd)
{
    size_t done = 0;

    *fd = os_share_file("bulkhead-stream", s->used);
    if (*fd < 0)
        return of_error(*fd);
    while (done < s->used) {
        ssize_t n = pwrite(*fd, s->bytes + done, s->used - done, (off_t)done);

        if (n <= 0 && errno != EINTR) {
            close(*fd);
            return E_OUTOFMEMORY;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return S_OK;
}

static HRESULT send_message(int channel, const int *files, uint32_t count)
{
    struct head head = {.magic = MAGIC, .version = VERSION, .files = count};

    while (head.first < count) {
        unsigned part = count - head.first < OS_SHARE_MAX ? count - head.first : OS_SHARE_MAX;
        int error = os_share_send(channel, &head, sizeof(head), files + head.first, part);

        if (error < 0)
            return of_error(error);
        head.first += part;
    }
    return S_OK;
}

// The stream and the word go first, and then the files of the memory.
static HRESULT offer(struct partition *p, struct migration *m, int *handle)
{
    struct stream stream = {.bytes = NULL};
    struct handover out;
    int ends[2] = {-1, -1}, *files = NULL, word = -1, fd = -1;
    HRESULT hr = handover_take(p, &out);

    if (FAILED(hr))
        return hr;
    hr = snapshot_write(p, &out.map, &stream);
    if (SUCCEEDED(hr))
        hr = write_file(&stream, &fd);
    if (SUCCEEDED(hr) && (word = os_share_file("bulkhead-decision", GPA_PAGE_SIZE)) < 0)
        hr = of_error(word);
    if (SUCCEEDED(hr))
        hr = map_word(m, word);
    files = calloc(out.file_count + 2, sizeof(*files));
    if (SUCCEEDED(hr) && (!files || os_share_channel(ends) < 0))
        hr = E_OUTOFMEMORY;
    if (SUCCEEDED(hr)) {
        files[0] = fd;
        files[1] = word;
        for (size_t n = 0; n < out.file_count; n++)
            files[n + 2] = out.files[n];
        hr = send_message(ends[0], files, (uint32_t)out.file_count + 2);
    }
    if (fd >= 0)
        close(fd);
    if (word >= 0)
        close(word);
    free(files);
    stream_release(&stream);
    handover_release(&out);
    if (FAILED(hr) && ends[0] >= 0) {
        close(ends[0]);
        close(ends[1]);
    }
    if (FAILED(hr))
        return hr;
    m->channel = ends[0];
    *handle = ends[1];
    return S_OK;
}

HRESULT migration_start_locked(struct partition *p, int *handle)
{
    struct migration *m = new_migration();
    HRESULT hr;
    bool ran;

    if (!m)
        return E_OUTOFMEMORY;
    hr = partition_close_locked(p, PARTITION_MIGRATING_OUT);
    if (FAILED(hr)) {
        release_migration(m);
        return hr;
    }
    hr = partition_freeze_time_locked(p, &ran);
    if (SUCCEEDED(hr)) {
        hr = offer(p, m, handle);
        if (FAILED(hr) && ran) {
            HRESULT ignored = partition_start_time_locked(p);
            (void)ignored;              // else the next run starts it
        }
    }
    if (FAILED(hr)) {
        p->state = PARTITION_SET_UP;
        release_migration(m);
    } else {
        p->migration = m;
        handover_forget(p);             // the file has gone along
    }
    partition_let_run_locked(p);
    return hr;
}

HRESULT migration_cancel_locked(struct partition *p)
{
    struct migration *m = p->migration;

    if (!decide(m, OFFERED, CANCELED) && !decide(m, ACCEPTED, CANCELED) && !decide(m, ABANDONED, CANCELED))
        return INVALID_STATE;
    p->migration = NULL;
    release_migration(m);
    p->state = PARTITION_SET_UP;
    return S_OK;
}

HRESULT migration_complete_locked(struct partition *p)
{
    struct migration *m = p->migration;

    if (os_share_alone(m->channel) || !decide(m, ACCEPTED, COMPLETED))
        return INVALID_STATE;
    // The destination, if it asks, learns it from the word. Closing the channel says nothing more.
    p->state = PARTITION_GONE;
    schedule_release_locked(p);
    return S_OK;
}

// ---- The destination ---------------------------------------------------------------------------------------------

static void close_all(int *files, uint32_t count)
{
    for (uint32_t n = 0; n < count; n++)
        if (files[n] >= 0)
            close(files[n]);
    free(files);
}

// All parts of the message, or none.
static HRESULT receive_message(int channel, int **files, uint32_t *count)
{
    struct head head, first = {.files = 0};
    uint32_t have = 0;

    *files = NULL;
    do {
        unsigned more = 0, room = first.files ? first.files - have : OS_SHARE_MAX;
        int part[OS_SHARE_MAX];
        int size = os_share_receive(channel, &head, sizeof(head), part, room < OS_SHARE_MAX ? room : OS_SHARE_MAX, &more);
        bool fits = size == sizeof(head) && head.magic == MAGIC && head.first == have && more > 0;
        HRESULT hr = INVALID_DATA;

        if (fits && !first.files) {
            first = head;
            if (head.version > VERSION)
                hr = NOT_SUPPORTED;
            fits = head.version == VERSION && head.files >= 2 && head.files <= FILES_MAX && more <= head.files;
            *files = fits ? malloc(head.files * sizeof(**files)) : NULL;
            if (fits && !*files)
                hr = E_OUTOFMEMORY;
        }
        if (!fits || !*files || head.files != first.files) {
            for (unsigned n = 0; n < more; n++)
                close(part[n]);
            close_all(*files, have);
            *files = NULL;
            return hr;
        }
        memcpy(*files + have, part, more * sizeof(*part));
        have += more;
    } while (have < first.files);
    *count = have;
    return S_OK;
}

static HRESULT read_stream(struct migration *m, int fd)
{
    int64_t size = os_share_file_size(fd);
    size_t done = 0;

    if (size < STREAM_HEADER || (uint64_t)size > STREAM_SIZE_MAX)
        return INVALID_DATA;
    m->stream = malloc((size_t)size);
    if (!m->stream)
        return E_OUTOFMEMORY;
    m->stream_size = (size_t)size;
    // Into memory of our own: whoever sent the file may still write to it.
    while (done < m->stream_size) {
        ssize_t n = pread(fd, m->stream + done, m->stream_size - done, (off_t)done);

        if (n <= 0 && !(n < 0 && errno == EINTR))
            return INVALID_DATA;
        done += n > 0 ? (size_t)n : 0;
    }
    return S_OK;
}

static HRESULT take_message(struct partition *p, struct migration *m, int handle)
{
    int *files;
    uint32_t count;
    HRESULT hr = receive_message(handle, &files, &count);

    if (FAILED(hr))
        return hr;
    hr = read_stream(m, files[0]);
    if (SUCCEEDED(hr) && os_share_file_size(files[1]) != GPA_PAGE_SIZE)
        hr = INVALID_DATA;
    if (SUCCEEDED(hr))
        hr = map_word(m, files[1]);
    if (SUCCEEDED(hr))
        hr = snapshot_read(p, m->stream, m->stream_size, count - 2, &m->map);
    if (SUCCEEDED(hr))
        hr = handover_map(p, &m->map, files + 2, count - 2);
    close_all(files, count);
    return hr;
}

HRESULT migration_accept(int handle, struct partition **created)
{
    struct migration *m;
    struct partition *p;
    HRESULT hr = partition_create(&p);

    if (FAILED(hr))
        return hr;
    p->migration = m = new_migration();
    hr = m ? S_OK : E_OUTOFMEMORY;
    if (SUCCEEDED(hr) && (m->channel = fcntl(handle, F_DUPFD_CLOEXEC, 0)) < 0)
        hr = errno == EBADF ? INVALID_DATA : E_OUTOFMEMORY;
    if (SUCCEEDED(hr))
        hr = take_message(p, m, handle);
    if (SUCCEEDED(hr) && !decide(m, OFFERED, ACCEPTED))
        hr = INVALID_STATE;
    if (FAILED(hr)) {
        partition_free(p);
        return hr;
    }
    p->state = PARTITION_MIGRATING_IN;
    *created = p;
    return S_OK;
}

// Whether the partition is this side's by now.
static bool is_ours(const struct migration *m)
{
    uint32_t word = atomic_load(m->word);

    if (word == ACCEPTED && os_share_alone(m->channel) && decide(m, ACCEPTED, INHERITED))
        return true;
    word = atomic_load(m->word);
    return word == COMPLETED || word == INHERITED;
}

static HRESULT fill_map(struct partition *p, const struct snapshot_map *map)
{
    HRESULT hr = S_OK;

    for (size_t n = 0; n < map->range_count && SUCCEEDED(hr); n++) {
        const struct snapshot_range *r = &map->ranges[n];
        struct gpa_range range = {.gpa = r->gpa, .size = r->size, .host = map->areas[r->area].host + r->offset,
                                  .flags = (WHV_MAP_GPA_RANGE_FLAGS)r->flags};

        hr = gpa_range_valid(r->gpa, r->size, 1ull << p->properties.physical_address_width)
           ? partition_map_locked(p, &range) : E_INVALIDARG;
    }
    return hr;
}

HRESULT migration_setup_locked(struct partition *p)
{
    struct migration *m = p->migration;
    HRESULT hr = is_ours(m) ? S_OK : INVALID_STATE;

    if (SUCCEEDED(hr))
        hr = partition_bring_up_locked(p);
    if (FAILED(hr))
        return hr;
    hr = fill_map(p, &m->map);
    if (SUCCEEDED(hr))
        hr = snapshot_read_processors(p, m->stream, m->stream_size, p->show_downtime);
    if (FAILED(hr)) {
        partition_tear_down_locked(p);
        return hr;
    }
    p->state = PARTITION_SET_UP;
    p->migration = NULL;
    release_migration(m);
    return S_OK;
}

// ---- The end -----------------------------------------------------------------------------------------------------

void migration_leave(struct partition *p)
{
    struct migration *m = p->migration;

    if (!m || !m->word)
        return;
    if (p->state == PARTITION_MIGRATING_OUT && !decide(m, OFFERED, CANCELED))
        (void)decide(m, ACCEPTED, CANCELED);
    else if (p->state == PARTITION_MIGRATING_IN)
        (void)decide(m, ACCEPTED, ABANDONED);
}

void migration_release(struct partition *p)
{
    if (p->migration)
        release_migration(p->migration);
    p->migration = NULL;
    handover_forget(p);
    handover_unmap(p);
}
