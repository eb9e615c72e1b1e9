// The guest memory map: mapping, unmapping, translation.
#include "api/call.h"

#define MAP_FLAGS                                                                                            \
    (WHvMapGpaRangeFlagRead | WHvMapGpaRangeFlagWrite | WHvMapGpaRangeFlagExecute |                          \
     WHvMapGpaRangeFlagTrackDirtyPages)
#define TRANSLATE_FLAGS                                                                                      \
    (WHvTranslateGvaFlagValidateRead | WHvTranslateGvaFlagValidateWrite |                                    \
     WHvTranslateGvaFlagValidateExecute | WHvTranslateGvaFlagPrivilegeExempt |                               \
     WHvTranslateGvaFlagSetPageTableBits | WHvTranslateGvaFlagEnforceSmap | WHvTranslateGvaFlagOverrideSmap)

static bool on_pages(UINT64 address, UINT64 size)
{
    return (address | size) % GPA_PAGE_SIZE == 0;
}

// True when the guest range lies on pages and within the partition's physical address width.
static bool guest_range_valid(const struct partition *p, gpa_t gpa, UINT64 size)
{
    return on_pages(gpa, size) && gpa_range_valid(gpa, size, 1ull << p->properties.physical_address_width);
}

// No second-level page table can express a page that may be written and not read.
static bool map_flags_valid(UINT32 flags)
{
    return (flags & ~(UINT32)MAP_FLAGS) == 0 &&
           (!(flags & WHvMapGpaRangeFlagWrite) || (flags & WHvMapGpaRangeFlagRead));
}

static bool tracking_possible(struct partition *p)
{
    struct engine_capabilities capabilities;

    return partition_capabilities_locked(p, &capabilities) && capabilities.features.DirtyPageTracking;
}

HRESULT WINAPI WHvMapGpaRange(WHV_PARTITION_HANDLE Partition, VOID *SourceAddress,
                              WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, UINT64 SizeInBytes,
                              WHV_MAP_GPA_RANGE_FLAGS Flags)
{
    struct gpa_range range = {
        .gpa = GuestAddress, .size = SizeInBytes, .host = SourceAddress, .flags = Flags,
    };
    struct api_call call;
    HRESULT hr = api_enter(&call, Partition, IN_SET_UP);

    if (FAILED(hr))
        return hr;
    if (!SourceAddress || !on_pages((uintptr_t)SourceAddress, SizeInBytes) ||
        !gpa_range_valid((uintptr_t)SourceAddress, SizeInBytes, UINT64_MAX) || !map_flags_valid(Flags) ||
        !guest_range_valid(call.partition, GuestAddress, SizeInBytes) ||
        ((Flags & WHvMapGpaRangeFlagTrackDirtyPages) && !tracking_possible(call.partition)))
        hr = E_INVALIDARG;
    else
        hr = partition_map_locked(call.partition, &range);
    api_leave(&call);
    return hr;
}

HRESULT WINAPI WHvUnmapGpaRange(WHV_PARTITION_HANDLE Partition, WHV_GUEST_PHYSICAL_ADDRESS GuestAddress,
                                UINT64 SizeInBytes)
{
    struct api_call call;
    HRESULT hr = api_enter(&call, Partition, IN_SET_UP);

    if (FAILED(hr))
        return hr;
    if (!guest_range_valid(call.partition, GuestAddress, SizeInBytes))
        hr = E_INVALIDARG;
    else
        hr = partition_unmap_locked(call.partition, GuestAddress, SizeInBytes);
    api_leave(&call);
    return hr;
}

HRESULT WINAPI WHvQueryGpaRangeDirtyBitmap(WHV_PARTITION_HANDLE Partition,
                                           WHV_GUEST_PHYSICAL_ADDRESS GuestAddress, UINT64 RangeSizeInBytes,
                                           UINT64 *Bitmap, UINT32 BitmapSizeInBytes)
{
    // A size of 0 asks for no map, wherever Bitmap points.
    UINT64 *bitmap = BitmapSizeInBytes ? Bitmap : NULL;
    struct api_call call;
    HRESULT hr;

    if (!Bitmap && BitmapSizeInBytes)
        return E_POINTER;
    // Asking takes the marks, which are part of what is migrated.
    hr = api_enter(&call, Partition, IN_SET_UP);
    if (FAILED(hr))
        return hr;
    if (!guest_range_valid(call.partition, GuestAddress, RangeSizeInBytes) ||
        (uintptr_t)bitmap % sizeof(*bitmap) != 0 ||
        (bitmap && BitmapSizeInBytes / sizeof(*bitmap) < dirty_words(RangeSizeInBytes)))
        hr = E_INVALIDARG;
    else
        hr = partition_query_dirty_locked(call.partition, GuestAddress, RangeSizeInBytes, bitmap);
    api_leave(&call);
    return hr;
}

HRESULT WINAPI WHvTranslateGva(WHV_PARTITION_HANDLE Partition, UINT32 VpIndex, WHV_GUEST_VIRTUAL_ADDRESS Gva,
                               WHV_TRANSLATE_GVA_FLAGS TranslateFlags,
                               WHV_TRANSLATE_GVA_RESULT *TranslationResult, WHV_GUEST_PHYSICAL_ADDRESS *Gpa)
{
    // Setting accessed and dirty bits changes the guest's memory; merely looking does not.
    unsigned int states = TranslateFlags & WHvTranslateGvaFlagSetPageTableBits ? IN_SET_UP : IN_SERVICE;
    WHV_TRANSLATE_GVA_RESULT result = {.ResultCode = WHvTranslateGvaResultSuccess};
    struct api_call call;
    gpa_t gpa = 0;
    HRESULT hr;

    if (!TranslationResult || !Gpa)
        return E_POINTER;
    if ((UINT32)TranslateFlags & ~(UINT32)TRANSLATE_FLAGS)
        return E_INVALIDARG;
    hr = api_enter_vp(&call, Partition, VpIndex, states);
    if (FAILED(hr))
        return hr;
    hr = call.partition->engine->translate_gva(call.vp, Gva, TranslateFlags, &result, &gpa);
    if (SUCCEEDED(hr)) {
        *TranslationResult = result;
        *Gpa = gpa;
    }
    api_leave(&call);
    return hr;
}
