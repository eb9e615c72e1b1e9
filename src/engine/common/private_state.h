// The part of an engine's private state block that is about a `struct processor`: events in all their detail.
//
// By name an event is a vector, an error code and a length; here it is also whose it is (INT n, INT3, INT1, an
// exception), what it is to leave in CR2 or DR6, and whether the client has been told of it and may answer.
//
// A block begins with the engine's tag and a version, and is as long as its engine makes it. It is read as hostile
// input: a field out of its range fails the reader, and nothing is taken over before all of it has been read.
#ifndef BULKHEAD_PRIVATE_STATE_H
#define BULKHEAD_PRIVATE_STATE_H

#include "engine/common/processor.h"
#include "partition/bytes.h"

struct private_events {
    struct x86_exception pending, told, event;
    bool pending_valid, pending_external, pending_told, event_valid, ext_int_valid;
    uint8_t ext_int_vector;
    uint64_t told_rip;
};

// The engine's tag and version: written, or read and compared.
void private_state_put_head(struct byte_writer *w, uint32_t tag, unsigned version);
void private_state_get_head(struct byte_reader *r, uint32_t tag, unsigned version);

void private_state_put_events(struct byte_writer *w, const struct processor *p);
// A delivery that no processor makes (an exception above 31, a length above 15) fails the reader.
void private_state_get_events(struct byte_reader *r, struct private_events *events);
void private_state_set_events(struct processor *p, const struct private_events *events);

// What settling derives, or that it is to be derived (`valid` 0); the privilege level of exits until then in any case.
void private_state_put_derived(struct byte_writer *w, const struct processor *p);
// Into the type of processor.carried; reserved bits fail the reader.
void private_state_get_derived(struct byte_reader *r, const struct processor *p, uint8_t *valid, uint8_t *cpl,
                               uint64_t pdpte[4]);

#endif
