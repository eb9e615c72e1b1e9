// What Bulkhead has beyond the Windows API: version, engines, relaxations, host policy, instruction count.
#include "bulkhead/bulkhead.h"

#include <stdio.h>
#include <string.h>

#include "api/call.h"
#include "partition/policy.h"

#define HOST_REPORT_SIZE 2048

const char *BulkheadVersion(void)
{
    return BULKHEAD_VERSION;
}

// The engine that the automatic choice takes for a partition with default properties.
static const struct engine *automatic_engine(void)
{
    struct engine_wish wish = {.name = "auto"};
    struct property_values values = {.set_rows = 0};
    char passed[ENGINE_REPORT_SIZE] = "";
    int place = -1;

    return engine_choose(&wish, &values, &place, passed, sizeof(passed));
}

HRESULT BulkheadGetEngineInfo(UINT32 Index, BULKHEAD_ENGINE_INFO *Info)
{
    struct engine_status status = {.usable = false};
    UINT32 count = 0;

    if (!Info)
        return E_POINTER;
    if (Info->Size < sizeof(*Info))
        return E_INVALIDARG;
    while (engines[count])
        count++;
    if (Index >= count)
        return HRESULT_FROM_WIN32(ERROR_NOT_FOUND);

    engines[Index]->probe(&status);
    memset((char *)Info + sizeof(Info->Size), 0, sizeof(*Info) - sizeof(Info->Size));
    Info->Usable = status.usable;
    Info->ChosenByAuto = engines[Index] == automatic_engine();
    snprintf(Info->Name, sizeof(Info->Name), "%s", engines[Index]->name);
    snprintf(Info->Reason, sizeof(Info->Reason), "%s%s", status.text,
             Info->ChosenByAuto   ? "; the automatic choice"
             : !status.usable     ? ""
             : !status.automatic  ? "; taken only when asked for by name"
                                  : "; a faster engine is chosen automatically");
    return S_OK;
}

HRESULT BulkheadSetEngine(WHV_PARTITION_HANDLE Partition, const char *Name)
{
    struct api_call call;
    HRESULT hr;

    if (!Name)
        return E_POINTER;
    hr = api_enter(&call, Partition, IN_CREATED);
    if (FAILED(hr))
        return hr;
    hr = partition_set_engine_locked(call.partition, Name);
    api_leave(&call);
    return hr;
}

HRESULT BulkheadSetRelaxations(WHV_PARTITION_HANDLE Partition, const char *List)
{
    struct api_call call;
    HRESULT hr;

    if (!List)
        return E_POINTER;
    hr = api_enter(&call, Partition, IN_CREATED);
    if (FAILED(hr))
        return hr;
    hr = partition_set_relaxations_locked(call.partition, List);
    api_leave(&call);
    return hr;
}

HRESULT BulkheadGetEngineReport(WHV_PARTITION_HANDLE Partition, char *Buffer, UINT32 BufferSizeInBytes,
                                UINT32 *Needed)
{
    char report[ENGINE_REPORT_SIZE] = "";
    struct api_call call;
    HRESULT hr;

    if (Partition) {
        hr = api_enter(&call, Partition, ~0u);
        if (FAILED(hr))
            return hr;
        partition_report_locked(call.partition, report, sizeof(report));
        api_leave(&call);
    } else {
        partition_report_default(report, sizeof(report));
    }
    return api_write_result(report, (UINT32)strlen(report) + 1, Buffer, BufferSizeInBytes, Needed);
}

HRESULT BulkheadGetHostPolicyReport(char *Buffer, UINT32 BufferSizeInBytes, UINT32 *Needed)
{
    char report[HOST_REPORT_SIZE] = "";

    schedule_report(report, sizeof(report));
    return api_write_result(report, (UINT32)strlen(report) + 1, Buffer, BufferSizeInBytes, Needed);
}

HRESULT BulkheadGetVirtualProcessorInstructionCount(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex,
                                                    UINT64 *Count)
{
    struct api_call call;
    HRESULT hr;

    if (!Count)
        return E_POINTER;
    hr = api_enter_vp(&call, Partition, VpIndex, IN_SERVICE);
    if (FAILED(hr))
        return hr;
    if (call.partition->engine->instruction_count)
        *Count = call.partition->engine->instruction_count(call.vp);
    else
        hr = E_NOTIMPL;
    api_leave(&call);
    return hr;
}
