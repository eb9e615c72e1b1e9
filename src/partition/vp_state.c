// All of a processor's state in one piece of memory.
#include "partition/vp_state.h"

#include <stdlib.h>

#include "partition/apic_state.h"
#include "partition/bytes.h"

enum record { RECORD_REGISTERS = 1, RECORD_XSAVE, RECORD_APIC, RECORD_PRIVATE, RECORDS };

// ---- Registers ---------------------------------------------------------------------------------------------------

// When a register is set. The time-stamp counter is alone, since a KVM may have none to set. The deadline comes after the
// APIC's page, which says the timer's mode and may take the deadline away with it.
enum phase { FIRST, CLOCK, AFTER_APIC };

// Runs of names. x87 and vectors are in the XSAVE image; the APIC's registers, but for its base, in its page.
static const struct { uint32_t first, count; enum phase phase; } runs[] = {
    { WHvX64RegisterRax, 18, FIRST },           // up to RFLAGS
    { WHvX64RegisterEs, 10, FIRST },            // segments and tables
    { WHvX64RegisterCr0, 5, FIRST },            // CR8 is the last of them
    { WHvX64RegisterDr0, 6, FIRST },
    { WHvX64RegisterXCr0, 1, FIRST },
    { WHvX64RegisterEfer, 1, FIRST },
    { WHvX64RegisterKernelGsBase, 1, FIRST },
    { WHvX64RegisterApicBase, 1, FIRST },
    { WHvX64RegisterPat, 1, FIRST },
    { WHvX64RegisterSysenterCs, 3, FIRST },
    { WHvX64RegisterStar, 4, FIRST },
    { WHvX64RegisterTscAux, 1, FIRST },
    { WHvX64RegisterMsrMtrrDefType, 1, FIRST },
    { WHvX64RegisterMsrMtrrPhysBase0, 16, FIRST },
    { WHvX64RegisterMsrMtrrPhysMask0, 16, FIRST },
    { WHvX64RegisterMsrMtrrFix64k00000, 11, FIRST },
    { WHvX64RegisterTscAdjust, 1, FIRST },
    { (uint32_t)WHvRegisterPendingInterruption, 1, FIRST },
    { (uint32_t)WHvRegisterInterruptState, 1, FIRST },
    { (uint32_t)WHvRegisterPendingEvent, 1, FIRST },
    { (uint32_t)WHvX64RegisterDeliverabilityNotifications, 1, FIRST },
    { (uint32_t)WHvRegisterInternalActivityState, 1, FIRST },
    { WHvX64RegisterTsc, 1, CLOCK },
    { WHvX64RegisterTscDeadline, 1, AFTER_APIC },
};
#define RUNS (sizeof runs / sizeof *runs)
#define NAMES_MAX 128u

_Static_assert(WHvX64RegisterCr8 == WHvX64RegisterCr0 + 4, "CR0, CR2, CR3, CR4 and CR8 follow each other");

struct names {
    WHV_REGISTER_NAME name[NAMES_MAX];
    UINT32 count;
    UINT32 end[AFTER_APIC + 1];         // of each phase: they follow each other
};

static void list_names(struct names *names)
{
    names->count = 0;
    for (size_t n = 0; n < RUNS; n++) {
        for (uint32_t k = 0; k < runs[n].count; k++)
            names->name[names->count++] = (WHV_REGISTER_NAME)(runs[n].first + k);
        names->end[runs[n].phase] = names->count;
    }
}

// ---- Save --------------------------------------------------------------------------------------------------------

static bool has_apic(const struct vp *vp)
{
    return vp->partition->properties.apic_mode != WHvX64LocalApicEmulationModeNone;
}

static uint8_t *put_record(struct byte_writer *w, enum record type, size_t length)
{
    bytes_put(w, 4, type);
    bytes_put(w, 4, length);
    return bytes_room(w, length);
}

static HRESULT save_registers(struct vp *vp, const struct names *names, uint8_t *payload)
{
    struct byte_writer w = { .bytes = payload, .size = names->count * 20 };
    WHV_REGISTER_VALUE values[NAMES_MAX];
    HRESULT hr = vp->partition->engine->get_registers(vp, names->name, names->count, values);

    for (UINT32 n = 0; SUCCEEDED(hr) && n < names->count; n++) {
        bytes_put(&w, 4, (uint32_t)names->name[n]);
        memcpy(bytes_room(&w, sizeof values[n]), &values[n], sizeof values[n]);
    }
    return hr;
}

HRESULT vp_state_save(struct vp *vp, uint8_t *buffer, size_t size, size_t *needed)
{
    const struct engine *engine = vp->partition->engine;
    uint8_t own[ENGINE_PRIVATE_STATE_MAX];
    struct byte_writer w = { .bytes = buffer, .size = size };
    struct names names;
    size_t own_size;
    uint8_t *registers, *xsave, *apic = NULL, *at;
    HRESULT hr = engine->get_private_state(vp, own, &own_size);

    if (FAILED(hr))
        return hr;
    list_names(&names);
    const size_t lengths[] = { names.count * 20, engine->xsave_size(vp), has_apic(vp) ? APIC_STATE_SIZE : 0, own_size };
    *needed = 3 * 8 + (has_apic(vp) ? 8 : 0);
    for (size_t n = 0; n < sizeof lengths / sizeof *lengths; n++)
        *needed += lengths[n];
    if (size < *needed)
        return WHV_E_INSUFFICIENT_BUFFER;
    registers = put_record(&w, RECORD_REGISTERS, lengths[0]);
    xsave = put_record(&w, RECORD_XSAVE, lengths[1]);
    if (has_apic(vp))
        apic = put_record(&w, RECORD_APIC, lengths[2]);
    at = put_record(&w, RECORD_PRIVATE, lengths[3]);
    if (w.failed)
        return E_UNEXPECTED;
    memcpy(at, own, own_size);
    // The page first: asking for it settles whether the timer has run out, and with it the deadline.
    hr = apic ? engine->get_apic_page(vp, apic) : S_OK;
    if (SUCCEEDED(hr))
        hr = save_registers(vp, &names, registers);
    return SUCCEEDED(hr) ? engine->get_xsave(vp, xsave) : hr;
}

// ---- Load --------------------------------------------------------------------------------------------------------

// A saved state that is whole, taken apart.
struct parts {
    struct { const uint8_t *bytes; size_t size; } record[RECORDS];      // by type
    WHV_REGISTER_VALUE values[NAMES_MAX];
};

static bool take_registers(struct parts *parts, const struct names *names)
{
    struct byte_reader r = { .bytes = parts->record[RECORD_REGISTERS].bytes,
                             .size = parts->record[RECORD_REGISTERS].size };

    if (r.size != names->count * 20)
        return false;
    for (UINT32 n = 0; n < names->count; n++) {
        if (bytes_get(&r, 4) != (uint32_t)names->name[n])
            return false;
        memcpy(&parts->values[n], bytes_take(&r, sizeof parts->values[n]), sizeof parts->values[n]);
    }
    return true;
}

static bool take_apart(struct vp *vp, const uint8_t *buffer, size_t size, const struct names *names,
                       struct parts *parts)
{
    struct byte_reader r = { .bytes = buffer, .size = size };

    memset(parts, 0, sizeof *parts);
    while (r.used < r.size) {
        uint64_t type = bytes_get(&r, 4), length = bytes_get(&r, 4);
        const uint8_t *payload = bytes_take(&r, length);

        if (!payload || type < RECORD_REGISTERS || type >= RECORDS || parts->record[type].bytes)
            return false;
        parts->record[type].bytes = payload;
        parts->record[type].size = length;
    }
    return parts->record[RECORD_REGISTERS].bytes && take_registers(parts, names)
        && parts->record[RECORD_XSAVE].bytes
        && parts->record[RECORD_XSAVE].size == vp->partition->engine->xsave_size(vp)
        && (parts->record[RECORD_APIC].bytes != NULL) == has_apic(vp)
        && (!has_apic(vp) || parts->record[RECORD_APIC].size == APIC_STATE_SIZE)
        && parts->record[RECORD_PRIVATE].bytes && parts->record[RECORD_PRIVATE].size <= ENGINE_PRIVATE_STATE_MAX;
}

static HRESULT set_phase(struct vp *vp, const struct names *names, const struct parts *parts, enum phase phase)
{
    UINT32 first = phase == FIRST ? 0 : names->end[phase - 1];

    return vp->partition->engine->set_registers(vp, names->name + first, names->end[phase] - first,
                                                parts->values + first);
}

static HRESULT set_clock(struct vp *vp, const struct names *names, const struct parts *parts)
{
    HRESULT hr = set_phase(vp, names, parts, CLOCK);
    WHV_REGISTER_VALUE now;

    if (hr != E_NOTIMPL)
        return hr;
    hr = vp->partition->engine->get_registers(vp, names->name + names->end[FIRST], 1, &now);
    if (FAILED(hr))
        return hr;
    return now.Reg64 >= parts->values[names->end[FIRST]].Reg64 ? S_OK : E_NOTIMPL;
}

// The order is that of what depends on what: the form of x87's pointers on EFER, the page's on the APIC's base, the
// deadline on the page.
static HRESULT apply(struct vp *vp, const struct names *names, const struct parts *parts)
{
    const struct engine *engine = vp->partition->engine;
    HRESULT hr = set_phase(vp, names, parts, FIRST);

    if (SUCCEEDED(hr))
        hr = set_clock(vp, names, parts);
    if (SUCCEEDED(hr))
        hr = engine->set_xsave(vp, parts->record[RECORD_XSAVE].bytes, (UINT32)parts->record[RECORD_XSAVE].size);
    if (SUCCEEDED(hr) && has_apic(vp))
        hr = engine->set_apic_page(vp, parts->record[RECORD_APIC].bytes);
    if (SUCCEEDED(hr))
        hr = set_phase(vp, names, parts, AFTER_APIC);
    if (SUCCEEDED(hr))
        hr = engine->set_private_state(vp, parts->record[RECORD_PRIVATE].bytes, parts->record[RECORD_PRIVATE].size);
    return hr;
}

// The present state, owned by the caller.
static HRESULT save_present(struct vp *vp, uint8_t **present, size_t *size)
{
    HRESULT hr = vp_state_save(vp, NULL, 0, size);

    if (hr != WHV_E_INSUFFICIENT_BUFFER)
        return SUCCEEDED(hr) ? E_UNEXPECTED : hr;
    *present = malloc(*size);
    if (!*present)
        return E_OUTOFMEMORY;
    hr = vp_state_save(vp, *present, *size, size);
    if (FAILED(hr))
        free(*present);
    return hr;
}

HRESULT vp_state_load(struct vp *vp, const uint8_t *buffer, size_t size)
{
    struct names names;
    struct parts wanted, before;
    uint8_t *present;
    size_t present_size;
    HRESULT hr;

    list_names(&names);
    if (!take_apart(vp, buffer, size, &names, &wanted))
        return E_INVALIDARG;
    hr = save_present(vp, &present, &present_size);
    if (FAILED(hr))
        return hr;
    hr = apply(vp, &names, &wanted);
    if (FAILED(hr) && (!take_apart(vp, present, present_size, &names, &before) || FAILED(apply(vp, &names, &before))))
        hr = E_UNEXPECTED;
    free(present);
    return hr;
}
