// Migration: the four calls, handles and descriptors, and a partition's state in memory.
#include "bulkhead/bulkhead.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "api/call.h"
#include "api/object.h"
#include "partition/handover.h"
#include "partition/migration.h"
#include "partition/snapshot.h"

HRESULT WINAPI WHvStartPartitionMigration(WHV_PARTITION_HANDLE Partition, HANDLE *MigrationHandle)
{
    struct api_call call;
    HRESULT hr;
    int fd;

    if (!MigrationHandle)
        return E_POINTER;
    hr = api_enter(&call, Partition, IN_SET_UP);
    if (FAILED(hr))
        return hr;
    hr = migration_start_locked(call.partition, &fd);
    if (SUCCEEDED(hr)) {
        hr = object_open(OBJECT_MIGRATION, fd, MigrationHandle);
        if (FAILED(hr)) {
            HRESULT canceled = migration_cancel_locked(call.partition);     // nobody can have accepted
            (void)canceled;
            close(fd);
        }
    }
    api_leave(&call);
    return hr;
}

HRESULT BulkheadPrecopyMigration(WHV_PARTITION_HANDLE Partition, UINT64 *CopiedSizeInBytes)
{
    struct api_call call;
    UINT64 bytes;
    HRESULT hr = api_enter(&call, Partition, IN_SET_UP);

    if (FAILED(hr))
        return hr;
    hr = handover_precopy(call.partition, &bytes);
    if (SUCCEEDED(hr) && CopiedSizeInBytes)
        *CopiedSizeInBytes = bytes;
    api_leave(&call);
    return hr;
}

HRESULT BulkheadMarkGuestMemory(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                UINT64 SizeInBytes)
{
    const UINT64 first = GuestAddress & ~(UINT64)(GPA_PAGE_SIZE - 1);
    struct api_call call;
    HRESULT hr = api_enter(&call, Partition, IN_SET_UP);

    if (FAILED(hr))
        return hr;
    if (gpa_range_valid(GuestAddress, SizeInBytes, 1ull << call.partition->properties.physical_address_width))
        handover_mark(call.partition, first, GuestAddress + SizeInBytes - first);
    else
        hr = E_INVALIDARG;
    api_leave(&call);
    return hr;
}

HRESULT WINAPI WHvCancelPartitionMigration(WHV_PARTITION_HANDLE Partition)
{
    return api_act(Partition, IN_MIGRATING_OUT, migration_cancel_locked);
}

HRESULT WINAPI WHvCompletePartitionMigration(WHV_PARTITION_HANDLE Partition)
{
    return api_act(Partition, IN_MIGRATING_OUT, migration_complete_locked);
}

HRESULT WINAPI WHvAcceptPartitionMigration(HANDLE MigrationHandle, WHV_PARTITION_HANDLE *Partition)
{
    struct partition *p;
    HRESULT hr;
    int fd;

    if (!Partition)
        return E_POINTER;
    fd = object_pin(MigrationHandle, OBJECT_MIGRATION);
    if (fd < 0)
        return HRESULT_FROM_WIN32(ERROR_INVALID_DATA);
    hr = migration_accept(fd, &p);
    object_unpin(MigrationHandle);
    if (FAILED(hr))
        return hr;
    hr = handle_open(p, Partition);
    if (FAILED(hr)) {
        migration_leave(p);
        partition_free(p);
        return hr;
    }
    fd = object_take(MigrationHandle, OBJECT_MIGRATION);
    if (fd >= 0)
        close(fd);
    return S_OK;
}

HRESULT BulkheadShowDowntime(WHV_PARTITION_HANDLE Partition, BOOL Show)
{
    struct api_call call;
    HRESULT hr = api_enter(&call, Partition, IN_MIGRATING_IN);

    if (FAILED(hr))
        return hr;
    call.partition->show_downtime = Show != 0;
    api_leave(&call);
    return S_OK;
}

HRESULT BulkheadFindGuestMemory(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, VOID **Address,
                                UINT64 *SizeInBytes)
{
    struct gpa_range range;
    struct api_call call;
    HRESULT hr;

    if (!Address || !SizeInBytes)
        return E_POINTER;
    hr = api_enter(&call, Partition, IN_SERVICE);
    if (FAILED(hr))
        return hr;
    if (gpa_map_find(&call.partition->map, GuestAddress, &range)) {
        *Address = range.host + (GuestAddress - range.gpa);
        *SizeInBytes = range.size - (GuestAddress - range.gpa);
    } else {
        hr = WHV_E_GPA_RANGE_NOT_FOUND;
    }
    api_leave(&call);
    return hr;
}

// ---- Handles and descriptors ---------------------------------------------------------------------------------------

HRESULT BulkheadFdFromHandle(HANDLE Handle, int *Fd)
{
    int fd;

    if (!Fd)
        return E_POINTER;
    fd = object_take(Handle, OBJECT_ANY);
    if (fd < 0)
        return E_HANDLE;
    *Fd = fd;
    return S_OK;
}

HRESULT BulkheadHandleFromFd(int Fd, HANDLE *Handle)
{
    if (!Handle)
        return E_POINTER;
    if (fcntl(Fd, F_GETFD) < 0)
        return E_INVALIDARG;
    return object_open(OBJECT_MIGRATION, Fd, Handle);
}

HRESULT BulkheadCloseHandle(HANDLE Handle)
{
    int fd = object_take(Handle, OBJECT_ANY);

    if (fd < 0)
        return E_HANDLE;
    close(fd);
    return S_OK;
}

// ---- A partition's state in memory ---------------------------------------------------------------------------------

// All processors of one moment. Time goes on behind it if it did before.
CHECKED static HRESULT save_locked(struct partition *p, struct stream *stream)
{
    HRESULT hr = partition_hold_locked(p);
    bool ran;

    if (FAILED(hr))
        return hr;
    hr = partition_freeze_time_locked(p, &ran);
    if (SUCCEEDED(hr)) {
        hr = snapshot_write(p, NULL, stream);
        if (ran) {
            HRESULT ignored = partition_start_time_locked(p);
            (void)ignored;              // else the next run starts it
        }
    }
    partition_let_run_locked(p);
    return hr;
}

CHECKED static HRESULT load_locked(struct partition *p, const void *buffer, UINT32 size, bool show_downtime)
{
    HRESULT hr = partition_hold_locked(p);
    bool ran;

    if (FAILED(hr))
        return hr;
    hr = partition_freeze_time_locked(p, &ran);
    if (SUCCEEDED(hr))
        hr = snapshot_read_processors(p, buffer, size, show_downtime);
    partition_let_run_locked(p);
    return hr;
}

HRESULT BulkheadSavePartitionState(WHV_PARTITION_HANDLE Partition, VOID *Buffer, UINT32 BufferSizeInBytes,
                                   UINT32 *WrittenSizeInBytes)
{
    struct stream stream = {.bytes = NULL};
    struct api_call call;
    HRESULT hr = api_enter(&call, Partition, IN_SET_UP);

    if (FAILED(hr))
        return hr;
    hr = save_locked(call.partition, &stream);
    if (SUCCEEDED(hr))
        hr = stream.used > UINT32_MAX ? E_OUTOFMEMORY
                                      : api_write_result(stream.bytes, (UINT32)stream.used, Buffer, BufferSizeInBytes,
                                                         WrittenSizeInBytes);
    stream_release(&stream);
    api_leave(&call);
    return hr;
}

HRESULT BulkheadLoadPartitionState(WHV_PARTITION_HANDLE Partition, const VOID *Buffer, UINT32 BufferSizeInBytes,
                                   BOOL ShowDowntime)
{
    struct api_call call;
    HRESULT hr;

    if (!Buffer)
        return E_POINTER;
    hr = api_enter(&call, Partition, IN_SET_UP);
    if (FAILED(hr))
        return hr;
    hr = load_locked(call.partition, Buffer, BufferSizeInBytes, ShowDowntime != 0);
    api_leave(&call);
    return hr;
}
