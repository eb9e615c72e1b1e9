// What comes out of a migration's channel is hostile: whatever is in it, the call answers with one of its errors, and
// the process is unharmed.
//
//     BULKHEAD_ROUNDS=N, BULKHEAD_SEED=N
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/mman.h>

#include "unit.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "bulkhead/bulkhead.h"
#include "engine/soft/soft.h"
#include "os/share.h"
#include "partition/stream.h"

const struct engine *const engines[] = {&engine_soft, NULL};

#define PAGE 4096u
#define SIZE (16 * PAGE)
#define FILES 3u                // the stream, the word, the copied memory
#define ROUNDS 3000u
#define COMPLETED 3u

static uint8_t memory[SIZE] __attribute__((aligned(PAGE)));

struct head {
    uint64_t magic;
    uint32_t version, files, first, zero;
};

struct message {
    struct head head;
    int files[FILES];
    uint8_t *stream;
    size_t size;
};

static uint64_t seed = 1;

static uint64_t random64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

// A partition with two processors, an APIC, a list and a tracked range, as it leaves.
static void take_message(struct message *m)
{
    static const WHV_X64_CPUID_RESULT cpuid[] = {{.Function = 0x80000005, .Eax = 1}};
    WHV_X64_LOCAL_APIC_EMULATION_MODE mode = WHvX64LocalApicEmulationModeX2Apic;
    WHV_PARTITION_HANDLE p;
    UINT32 count = 2;
    unsigned int came;
    HANDLE handle;
    int fd;

    assert_ok(WHvCreatePartition(&p));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeProcessorCount, &count, sizeof(count)));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeLocalApicEmulationMode, &mode, sizeof(mode)));
    assert_ok(WHvSetPartitionProperty(p, WHvPartitionPropertyCodeCpuidResultList, cpuid, sizeof(cpuid)));
    assert_ok(WHvSetupPartition(p));
    assert_ok(WHvMapGpaRange(p, memory, 0, SIZE,
                             WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagTrackDirtyPages));
    assert_ok(WHvCreateVirtualProcessor(p, 0, 0));
    assert_ok(WHvCreateVirtualProcessor(p, 1, 0));
    assert_ok(WHvStartPartitionMigration(p, &handle));
    assert_ok(BulkheadFdFromHandle(handle, &fd));
    assert_int_equal(os_share_receive(fd, &m->head, sizeof(m->head), m->files, FILES, &came), sizeof(m->head));
    assert_int_equal(came, FILES);
    m->size = (size_t)os_share_size(m->files[0]);
    m->stream = malloc(m->size);
    assert_int_equal(pread(m->files[0], m->stream, m->size, 0), m->size);
    close(fd);
    assert_ok(WHvDeletePartition(p));
}

static void release_message(struct message *m)
{
    for (unsigned int n = 0; n < FILES; n++)
        close(m->files[n]);
    free(m->stream);
}

static int stream_file(const uint8_t *bytes, size_t size)
{
    int fd = os_share_file("stream", size);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, 0), size);
    return fd;
}

static void store64(uint8_t *at, uint64_t value) { memcpy(at, &value, 8); }

// Make length and checksum right again, so that what is behind them is looked at.
static void seal(uint8_t *bytes, size_t size)
{
    store64(bytes + 16, size);
    store64(bytes + 24, XXH3_64bits(bytes + STREAM_HEADER, size - STREAM_HEADER));
}

static int word_file(uint32_t word)
{
    int fd = os_share_file("word", PAGE);

    assert_int_equal(pwrite(fd, &word, sizeof(word), 0), sizeof(word));
    return fd;
}

// Send, accept, and, where that succeeds, complete and set up.
static HRESULT play(const struct head *head, const int *files, unsigned int count, int word, bool *up)
{
    WHV_PARTITION_HANDLE p;
    WHV_RUN_VP_EXIT_CONTEXT exit;
    HANDLE handle;
    uint32_t completed = COMPLETED;
    int ends[2];
    HRESULT hr, setup;

    *up = false;
    assert_int_equal(os_share_channel(ends), 0);
    assert_int_equal(os_share_send(ends[0], head, sizeof(*head), files, count), 0);
    assert_ok(BulkheadHandleFromFd(ends[1], &handle));
    hr = WHvAcceptPartitionMigration(handle, &p);
    if (FAILED(hr)) {
        assert_ok(BulkheadCloseHandle(handle));
        close(ends[0]);
        assert_true(hr == E_INVALIDARG || hr == HRESULT_FROM_WIN32(ERROR_INVALID_DATA)
                    || hr == HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED) || hr == HRESULT_FROM_WIN32(ERROR_INVALID_STATE)
                    || hr == E_OUTOFMEMORY);
        return hr;
    }
    assert_int_equal(pwrite(word, &completed, sizeof(completed), 0), sizeof(completed));
    setup = WHvSetupPartition(p);
    *up = setup == S_OK;
    if (*up) {
        (void)WHvCancelRunVirtualProcessor(p, 0, 0);
        (void)WHvRunVirtualProcessor(p, 0, &exit, sizeof(exit));
    } else {
        assert_true(FAILED(setup));
        assert_hr(WHvSetupPartition(p), setup);     // it can be repeated, and answers the same
    }
    assert_ok(WHvDeletePartition(p));
    close(ends[0]);
    return hr;
}

static HRESULT play_stream(const struct message *m, const uint8_t *bytes, size_t size, bool *up)
{
    const int word = word_file(0), files[FILES] = {stream_file(bytes, size), word, m->files[2]};
    HRESULT hr = play(&m->head, files, FILES, word, up);

    close(files[0]);
    close(word);
    return hr;
}

static void test_as_it_was_sent(void **state)
{
    struct message m;
    bool up;

    (void)state;
    take_message(&m);
    assert_ok(play_stream(&m, m.stream, m.size, &up));
    assert_true(up);
    release_message(&m);
}

// Cut at each length, and any byte another: the checksum says so.
static void test_damaged(void **state)
{
    struct message m;
    uint8_t *bytes;
    bool up;

    (void)state;
    take_message(&m);
    bytes = malloc(m.size + 1);
    for (size_t size = 0; size < m.size; size += 1 + random64() % 37)
        assert_true(FAILED(play_stream(&m, m.stream, size ? size : 1, &up)));
    memcpy(bytes, m.stream, m.size);
    bytes[m.size] = 0;
    assert_hr(play_stream(&m, bytes, m.size + 1, &up), E_INVALIDARG);
    for (unsigned int n = 0; n < 300; n++) {
        size_t at = n < STREAM_HEADER ? n : random64() % m.size;

        memcpy(bytes, m.stream, m.size);
        bytes[at] ^= (uint8_t)(1u << random64() % 8);
        assert_true(FAILED(play_stream(&m, bytes, m.size, &up)));
    }
    memcpy(bytes, m.stream, m.size);
    bytes[8] = STREAM_VERSION + 1;
    assert_hr(play_stream(&m, bytes, m.size, &up), HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED));
    free(bytes);
    release_message(&m);
}

// Malformed on purpose: fields with other values, records that are missing, twice, longer or shorter; sealed again.
static void mutate(uint8_t *bytes, size_t *size, size_t room)
{
    for (unsigned int n = (unsigned int)(random64() % 3); n < 3; n++) {
        size_t at = STREAM_HEADER + random64() % (*size - STREAM_HEADER), count = 1 + random64() % 64;
        static const uint64_t edges[] = {0, 1, ~0ull, 1ull << 63, 0x7FFFFFFF, 0xFFFFFFFF, 4096, 1ull << 52, 63, 64};

        switch (random64() % 6) {
        case 0: bytes[at] ^= (uint8_t)(1u << random64() % 8); break;
        case 1: bytes[at] = (uint8_t)random64(); break;
        case 2:
            if (at + 8 <= *size)
                store64(bytes + at, edges[random64() % (sizeof(edges) / sizeof(edges[0]))]);
            break;
        case 3:                                 // cut a piece out
            if (at + count < *size) {
                memmove(bytes + at, bytes + at + count, *size - at - count);
                *size -= count;
            }
            break;
        case 4:                                 // or repeat it
            if (at + count < *size && *size + count < room) {
                memmove(bytes + at + count, bytes + at, *size - at);
                *size += count;
            }
            break;
        case 5: {                               // a whole record
            size_t record = STREAM_HEADER;
            uint64_t length;

            for (unsigned int skip = (unsigned int)(random64() % 60); record + 12 < *size; skip--) {
                memcpy(&length, bytes + record + 4, 8);
                if (length > *size - record - 12)
                    break;
                if (skip == 0 && random64() % 2) {
                    memmove(bytes + record, bytes + record + 12 + length, *size - record - 12 - (size_t)length);
                    *size -= 12 + (size_t)length;
                    break;
                }
                if (skip == 0) {
                    size_t whole = 12 + (size_t)length;

                    if (*size + whole < room) {
                        memmove(bytes + record + whole, bytes + record, *size - record);
                        *size += whole;
                    }
                    break;
                }
                record += 12 + (size_t)length;
            }
            break;
        }
        }
    }
}

static void test_malformed(void **state)
{
    const char *rounds_text = getenv("BULKHEAD_ROUNDS"), *seed_text = getenv("BULKHEAD_SEED");
    const unsigned int rounds = rounds_text ? (unsigned int)strtoul(rounds_text, NULL, 10) : ROUNDS;
    unsigned int accepted = 0, came_up = 0, open = 0;
    struct message m;
    size_t room;
    uint8_t *bytes;

    (void)state;
    if (seed_text)
        seed = strtoull(seed_text, NULL, 10) | 1;
    take_message(&m);
    room = m.size + 65536;
    bytes = malloc(room);
    for (unsigned int n = 0; n < rounds; n++) {
        size_t size = m.size;
        bool up;

        if (n == 20)
            open = open_descriptors();
        memcpy(bytes, m.stream, m.size);
        mutate(bytes, &size, room);
        seal(bytes, size);
        accepted += SUCCEEDED(play_stream(&m, bytes, size, &up));
        came_up += up;
    }
    assert_int_equal(open_descriptors(), open);
    print_message("%u streams: %u accepted, %u came up\n", rounds, accepted, came_up);
    assert_true(accepted > rounds / 20 && accepted < rounds);
    free(bytes);
    release_message(&m);
}

// Messages that are none, descriptors that are missing, too many, or something else.
static void test_other_descriptors(void **state)
{
    const HRESULT invalid_data = HRESULT_FROM_WIN32(ERROR_INVALID_DATA);
    const unsigned int before = open_descriptors();
    struct message m;
    struct head head;
    int files[FILES + 1], word, other[6];
    bool up;

    (void)state;
    take_message(&m);
    word = word_file(0);
    files[0] = m.files[0];
    files[1] = word;
    files[2] = files[3] = m.files[2];
    head = m.head;
    head.magic ^= 1;
    assert_hr(play(&head, files, FILES, word, &up), invalid_data);
    head = m.head;
    head.version++;
    assert_hr(play(&head, files, FILES, word, &up), HRESULT_FROM_WIN32(ERROR_NOT_SUPPORTED));
    head = m.head;
    head.files = FILES + 1;                     // one more is announced than comes
    assert_hr(play(&head, files, FILES, word, &up), invalid_data);
    head.files = FILES - 1;
    assert_hr(play(&head, files, FILES, word, &up), invalid_data);
    head.files = UINT32_MAX;
    assert_hr(play(&head, files, FILES, word, &up), invalid_data);
    head = m.head;
    head.first = 1;
    assert_hr(play(&head, files, FILES, word, &up), invalid_data);
    assert_hr(play(&m.head, NULL, 0, word, &up), invalid_data);
    head = m.head;
    head.files = 2;                             // the memory's file is missing
    assert_hr(play(&head, files, 2, word, &up), E_INVALIDARG);

    other[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
    other[1] = open("/", O_RDONLY | O_CLOEXEC);
    other[2] = memfd_create("empty", MFD_CLOEXEC);
    other[3] = os_share_file("small", PAGE);
    assert_int_equal(os_share_channel(other + 4), 0);
    for (unsigned int place = 0; place < FILES; place++)
        for (unsigned int n = 0; n < 6; n++) {
            int wrong[FILES] = {files[0], files[1], files[2]};

            if (place == 1 && n == 3)
                continue;                       // that is what a word looks like
            wrong[place] = other[n];
            assert_true(FAILED(play(&m.head, wrong, FILES, word, &up)));
        }
    for (unsigned int n = 0; n < 6; n++)
        close(other[n]);
    close(word);
    release_message(&m);
    assert_int_equal(open_descriptors(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_it_was_sent),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_other_descriptors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
