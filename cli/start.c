/* start.c: collecting start registers. */
#include "start.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

static WHV_REGISTER_VALUE *start_add(struct start *start, WHV_REGISTER_NAME name)
{
    assert(start->count < START_MAX);
    start->names[start->count] = name;
    memset(&start->values[start->count], 0, sizeof(start->values[0]));
    return &start->values[start->count++];
}

void start_set(struct start *start, WHV_REGISTER_NAME name, uint64_t value)
{
    start_add(start, name)->Reg64 = value;
}

void start_set_segment(struct start *start, WHV_REGISTER_NAME name, uint16_t selector, uint64_t base,
                       uint32_t limit, uint16_t attributes)
{
    WHV_X64_SEGMENT_REGISTER *segment = &start_add(start, name)->Segment;

    segment->Selector = selector;
    segment->Base = base;
    segment->Limit = limit;
    segment->Attributes = attributes;
}

void start_set_table(struct start *start, WHV_REGISTER_NAME name, uint64_t base, uint16_t limit)
{
    WHV_X64_TABLE_REGISTER *table = &start_add(start, name)->Table;

    table->Base = base;
    table->Limit = limit;
}

void start_set_flat_data(struct start *start, uint16_t selector)
{
    static const WHV_REGISTER_NAME names[] = {WHvX64RegisterDs, WHvX64RegisterEs, WHvX64RegisterFs,
                                              WHvX64RegisterGs, WHvX64RegisterSs};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        start_set_segment(start, names[i], selector, 0, 0xffffffff, 0xc093);
    }
}

const WHV_REGISTER_VALUE *start_find(const struct start *start, WHV_REGISTER_NAME name)
{
    for (unsigned i = 0; i < start->count; i++) {
        if (start->names[i] == name) {
            return &start->values[i];
        }
    }
    return NULL;
}
