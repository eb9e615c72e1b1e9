// The part of an engine's private state block that is about a `struct processor`.
#include "engine/common/private_state.h"

#define LENGTH_MAX 15u                  // bytes of an instruction
#define EXCEPTIONS 32u

// Flags of an event.
enum { HAS_ERROR = 1, SOFTWARE = 2, PRIVILEGED = 4, EVENT_FLAGS = 7 };
// Flags of all events together.
enum { PENDING = 1, EXTERNAL = 2, TOLD = 4, EVENT = 8, EXT_INT = 16, EVENTS_FLAGS = 31 };

void private_state_put_head(struct byte_writer *w, uint32_t tag, unsigned version)
{
    bytes_put(w, 4, tag);
    bytes_put(w, 4, version);
}

void private_state_get_head(struct byte_reader *r, uint32_t tag, unsigned version)
{
    if (bytes_get(r, 4) != tag || bytes_get(r, 4) != version)
        r->failed = true;
}

// ---- Events ------------------------------------------------------------------------------------------------------

static void put_event(struct byte_writer *w, const struct x86_exception *e)
{
    bytes_put(w, 1, e->vector);
    bytes_put(w, 1, (e->has_error ? HAS_ERROR : 0) | (e->software ? SOFTWARE : 0) | (e->privileged ? PRIVILEGED : 0));
    bytes_put(w, 1, e->length);
    bytes_put(w, 4, e->error);
    bytes_put(w, 8, e->address);
}

static void get_event(struct byte_reader *r, struct x86_exception *e)
{
    *e = (struct x86_exception){ .vector = (uint8_t)bytes_get(r, 1) };
    unsigned flags = (unsigned)bytes_get_up_to(r, 1, EVENT_FLAGS);
    e->has_error = flags & HAS_ERROR;
    e->software = flags & SOFTWARE;
    e->privileged = flags & PRIVILEGED;
    e->length = (uint8_t)bytes_get_up_to(r, 1, LENGTH_MAX);
    e->error = (uint32_t)bytes_get(r, 4);
    e->address = bytes_get(r, 8);
}

void private_state_put_events(struct byte_writer *w, const struct processor *p)
{
    bytes_put(w, 1, (p->pending_valid ? PENDING : 0) | (p->pending_external ? EXTERNAL : 0)
                  | (p->pending_told ? TOLD : 0) | (p->event_valid ? EVENT : 0) | (p->ext_int_valid ? EXT_INT : 0));
    put_event(w, &p->pending);
    put_event(w, &p->told);
    put_event(w, &p->event);
    bytes_put(w, 8, p->told_rip);
    bytes_put(w, 1, p->ext_int_vector);
}

void private_state_get_events(struct byte_reader *r, struct private_events *events)
{
    unsigned flags = (unsigned)bytes_get_up_to(r, 1, EVENTS_FLAGS);
    events->pending_valid = flags & PENDING;
    events->pending_external = flags & EXTERNAL;
    events->pending_told = flags & TOLD;
    events->event_valid = flags & EVENT;
    events->ext_int_valid = flags & EXT_INT;
    get_event(r, &events->pending);
    get_event(r, &events->told);
    get_event(r, &events->event);
    events->told_rip = bytes_get(r, 8);
    events->ext_int_vector = (uint8_t)bytes_get(r, 1);
    const struct x86_exception *pending = &events->pending, *event = &events->event;
    if ((events->pending_told && !events->pending_valid)
        || (events->pending_valid && !events->pending_external && !pending->software && pending->vector >= EXCEPTIONS)
        || (events->event_valid && event->vector >= EXCEPTIONS))
        r->failed = true;
}

void private_state_set_events(struct processor *p, const struct private_events *events)
{
    p->pending = events->pending;
    p->pending_valid = events->pending_valid;
    p->pending_external = events->pending_external;
    p->pending_told = events->pending_told;
    p->told = events->told;
    p->told_rip = events->told_rip;
    p->event = events->event;
    p->event_valid = events->event_valid;
    p->ext_int_valid = events->ext_int_valid;
    p->ext_int_vector = events->ext_int_vector;
}

// ---- What settling derives ---------------------------------------------------------------------------------------

void private_state_put_derived(struct byte_writer *w, const struct processor *p)
{
    const uint64_t *pdpte = p->carried.valid ? p->carried.pdpte : p->cpu.pdpte;
    bool valid = p->carried.valid || !p->settle;
    // PAE paging alone has such entries; of no other mode is it state what is left in them.
    bool pae = (p->cpu.cr0 & X86_CR0_PG) && (p->cpu.cr4 & X86_CR4_PAE) && !(p->cpu.efer & X86_EFER_LMA);
    bytes_put(w, 1, valid);
    bytes_put(w, 1, p->carried.valid ? p->carried.cpl : p->cpu.cpl);
    for (unsigned n = 0; n < 4; n++)
        bytes_put(w, 8, valid && pae ? pdpte[n] : 0);
}

// Bits of an entry as x86_load_pdptes has them (SDM vol. 3A table 4-8).
void private_state_get_derived(struct byte_reader *r, const struct processor *p, uint8_t *valid, uint8_t *cpl,
                               uint64_t pdpte[4])
{
    uint64_t reserved = 0x1e6 | ~((1ull << p->cpu.physical_bits) - 1);
    *valid = (uint8_t)bytes_get_up_to(r, 1, 1);
    *cpl = (uint8_t)bytes_get_up_to(r, 1, 3);
    for (unsigned n = 0; n < 4; n++) {
        pdpte[n] = bytes_get(r, 8);
        if ((pdpte[n] & 1) && (pdpte[n] & reserved))
            r->failed = true;
    }
}
