// All of a processor's state in one piece of memory, to be carried to a processor of another partition.
//
// A sequence of records: type (32 bits), length of the payload (32 bits), payload; all little-endian, none twice, in any
// order. What comes in is read as hostile input.
//
//  type   payload                                                                        there
//  1      registers: name (32 bits) and value (128 bits) of each row of the table,
//         in its order                                                                   always
//  2      the XSAVE image, in the compacted format                                       always
//  3      the local APIC's page, 4,096 bytes                                             with an APIC mode
//  4      the engine's private block (engine.h, get_private_state)                       always
//
// The state is that of one engine and of one set of properties: another engine, an XSAVE image of another size, or a
// register that cannot have the value is refused.
#ifndef BULKHEAD_VP_STATE_H
#define BULKHEAD_VP_STATE_H

#include "partition/partition.h"

// For both the processor stands still, and keeps still: the caller has claimed it.

// `*needed`: how many bytes the state has. WHV_E_INSUFFICIENT_BUFFER, and nothing written: `size` is less. `buffer` may
// be NULL with size 0. The processor goes on as if it had not been asked.
CHECKED HRESULT vp_state_save(struct vp *vp, uint8_t *buffer, size_t size, size_t *needed);

// Give the processor a saved state. Lengths, types and that each record is there are looked at before anything changes.
// E_INVALIDARG: they are wrong, or the engine refuses a value; ERROR_HV_INVALID_PARAMETER as an HRESULT: a register
// cannot have its value; E_OUTOFMEMORY: there is no memory to keep the present state in meanwhile.
//
// On failure the processor is as it was: what had been set by then is set back to the present state, which was saved
// before. (E_UNEXPECTED: the engine does not take its own state back, and the processor is neither the one nor the
// other.) Time has gone on for it as for any processor that is not being run.
//
// The time-stamp counter goes on from where it was. Where a KVM has no other counter for the guest than the host's, its
// counter is left alone if it is not behind the saved one, so that it never goes back; else E_NOTIMPL.
CHECKED HRESULT vp_state_load(struct vp *vp, const uint8_t *buffer, size_t size);

#endif
