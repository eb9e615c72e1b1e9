// Dirty pages of memory slots. KVM hands out and clears the record of a whole slot at a time; what was not
// asked for waits in the slot's pending bits.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/abi.h"
#include "engine/kvm/ioctl.h"
#include "engine/kvm/slots_internal.h"

static size_t slot_words(const struct kvm_slot *slot)
{
    return (size_t)((slot->size / GPA_PAGE_SIZE + 63) / 64);
}

HRESULT kvm_slot_log_fetch(const struct kvm_slots *s, struct kvm_slot *slot)
{
    size_t words = slot_words(slot);
    uint64_t *bits = calloc(words, sizeof(*bits));
    struct kvm_dirty_log log = {.slot = slot->id, .dirty_bitmap = bits};
    int answer;

    if (!bits)
        return E_OUTOFMEMORY;
    do
        answer = kvm_ioctl(s->vm, KVM_GET_DIRTY_LOG, &log);
    while (answer == -EINTR);
    if (answer < 0) {
        free(bits);
        return kvm_hresult(answer);
    }
    for (size_t i = 0; slot->pending && i < words; i++)
        bits[i] |= slot->pending[i];
    free(slot->pending);
    slot->pending = bits;
    return S_OK;
}

HRESULT kvm_slot_log_fill(struct kvm_slot *slot)
{
    size_t size = slot_words(slot) * sizeof(*slot->pending);

    if (!slot->pending)
        slot->pending = malloc(size);
    if (!slot->pending)
        return E_OUTOFMEMORY;
    memset(slot->pending, 0xFF, size);
    return S_OK;
}

// Bits of word `word` that stand for pages in [first, end).
static uint64_t word_mask(uint64_t word, uint64_t first, uint64_t end)
{
    uint64_t mask = ~0ull;

    if (first > word * 64)
        mask &= ~0ull << (first - word * 64);
    if (end < word * 64 + 64)
        mask &= ~(~0ull << (end - word * 64));
    return mask;
}

// OR the bits [from, from + count) of one bitmap into those from `to` on of another, or only look whether
// there are any (`out` is NULL). Bitmaps of memory are mostly empty: the work is per word and per bit that is
// set.
static bool bits_add(const uint64_t *in, uint64_t from, uint64_t count, uint64_t *out, uint64_t to)
{
    uint64_t end = from + count;
    bool any = false;

    for (uint64_t word = from / 64; word * 64 < end; word++) {
        uint64_t bits = in[word] & word_mask(word, from, end);

        any = any || bits;
        for (; out && bits; bits &= bits - 1) {
            uint64_t n = word * 64 + (unsigned int)__builtin_ctzll(bits) - from + to;

            out[n / 64] |= 1ull << (n % 64);
        }
    }
    return any;
}

static void bits_clear(uint64_t *bits, uint64_t from, uint64_t count)
{
    for (uint64_t word = from / 64; word * 64 < from + count; word++)
        bits[word] &= ~word_mask(word, from, from + count);
}

// The pages that a slot has in [gpa, end), as bits of its bitmap.
static void pages_inside(const struct kvm_slot *slot, gpa_t gpa, gpa_t end, uint64_t *from, uint64_t *count)
{
    gpa_t low = slot->gpa > gpa ? slot->gpa : gpa, high = kvm_slot_end(slot) < end ? kvm_slot_end(slot) : end;

    *from = (low - slot->gpa) / GPA_PAGE_SIZE;
    *count = high > low ? (high - low) / GPA_PAGE_SIZE : 0;
}

HRESULT kvm_slot_log_carry(const struct kvm_slot *from, struct kvm_slot *to)
{
    uint64_t first, count, to_first, to_count;

    if (!from->pending || !(to->flags & KVM_MEM_LOG_DIRTY_PAGES) ||
        (uintptr_t)from->host - from->gpa != (uintptr_t)to->host - to->gpa)
        return S_OK;
    pages_inside(from, to->gpa, kvm_slot_end(to), &first, &count);
    if (count == 0 || !bits_add(from->pending, first, count, NULL, 0))
        return S_OK;
    if (!to->pending)
        to->pending = calloc(slot_words(to), sizeof(*to->pending));
    if (!to->pending)
        return E_OUTOFMEMORY;
    pages_inside(to, from->gpa, kvm_slot_end(from), &to_first, &to_count);
    bits_add(from->pending, first, count, to->pending, to_first);
    return S_OK;
}

// Hand out and clear a slot's pending bits in [gpa, end), for a bitmap that begins with the page at `gpa`.
static void take(struct kvm_slot *slot, gpa_t gpa, gpa_t end, uint64_t *bitmap)
{
    uint64_t from, count;

    pages_inside(slot, gpa, end, &from, &count);
    if (bitmap)
        bits_add(slot->pending, from, count, bitmap,
                 (slot->gpa + from * GPA_PAGE_SIZE - gpa) / GPA_PAGE_SIZE);
    bits_clear(slot->pending, from, count);
    if (!bits_add(slot->pending, 0, slot->size / GPA_PAGE_SIZE, NULL, 0)) {
        free(slot->pending);
        slot->pending = NULL;
    }
}

HRESULT kvm_slots_dirty(struct kvm_slots *s, gpa_t gpa, uint64_t size, uint64_t *bitmap)
{
    size_t first = kvm_slots_first_above(s, gpa);
    gpa_t end = gpa + size;

    // First all that can fail: a slot whose record cannot be read leaves those of the others in their pending
    // bits.
    for (size_t i = first; i < s->count && s->slots[i].gpa < end; i++) {
        if (s->slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES) {
            HRESULT hr = kvm_slot_log_fetch(s, &s->slots[i]);

            if (FAILED(hr))
                return hr;
        }
    }
    for (size_t i = first; i < s->count && s->slots[i].gpa < end; i++)
        if (s->slots[i].pending)
            take(&s->slots[i], gpa, end, bitmap);
    // While slots are missing, nobody knows.
    for (uint64_t n = 0; s->incomplete && bitmap && n < size / GPA_PAGE_SIZE; n++)
        bitmap[n / 64] |= 1ull << (n % 64);
    return S_OK;
}
