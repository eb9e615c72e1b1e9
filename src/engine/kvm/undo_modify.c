// The arithmetic of read-modify-write instructions, results only (SDM vol. 2).
#include "engine/kvm/undo_modify.h"

bool undo_uses_carry(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_ADC || mnemonic == ZYDIS_MNEMONIC_SBB || mnemonic == ZYDIS_MNEMONIC_RCL
        || mnemonic == ZYDIS_MNEMONIC_RCR;
}

bool undo_shifts(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_SHL: case ZYDIS_MNEMONIC_SHR: case ZYDIS_MNEMONIC_SAR: case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR: case ZYDIS_MNEMONIC_RCL: case ZYDIS_MNEMONIC_RCR: case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return true;
    default:
        return false;
    }
}

// One bit at a time: at most 63 of them.
static uint64_t shifted(const struct undo_modify *m)
{
    unsigned bits = m->size * 8, count = m->count & (m->size == 8 ? 63 : 31);
    uint64_t top = 1ull << (bits - 1), value = m->old, source = m->source;
    bool carry = m->carry, sign = value & top;
    while (count--) {
        bool high = value & top, low = value & 1;
        switch (m->mnemonic) {
        case ZYDIS_MNEMONIC_SHL: value <<= 1; break;
        case ZYDIS_MNEMONIC_SHR: value >>= 1; break;
        case ZYDIS_MNEMONIC_SAR: value = value >> 1 | (sign ? top : 0); break;
        case ZYDIS_MNEMONIC_ROL: value = value << 1 | high; break;
        case ZYDIS_MNEMONIC_ROR: value = value >> 1 | (low ? top : 0); break;
        case ZYDIS_MNEMONIC_RCL: value = value << 1 | carry; carry = high; break;
        case ZYDIS_MNEMONIC_RCR: value = value >> 1 | (carry ? top : 0); carry = low; break;
        case ZYDIS_MNEMONIC_SHLD: value = value << 1 | !!(source & top); source <<= 1; break;
        default: value = value >> 1 | (source & 1 ? top : 0); source >>= 1; break;
        }
        value &= ~0ull >> (64 - bits);
    }
    return value;
}

bool undo_modified(const struct undo_modify *m, uint64_t *result)
{
    uint64_t bit = 1ull << (m->source & (m->size * 8 - 1)), value;
    if (undo_shifts(m->mnemonic)) {
        *result = shifted(m);
        return true;
    }
    switch (m->mnemonic) {
    case ZYDIS_MNEMONIC_ADD: case ZYDIS_MNEMONIC_XADD: value = m->old + m->source; break;
    case ZYDIS_MNEMONIC_ADC: value = m->old + m->source + m->carry; break;
    case ZYDIS_MNEMONIC_SUB: value = m->old - m->source; break;
    case ZYDIS_MNEMONIC_SBB: value = m->old - m->source - m->carry; break;
    case ZYDIS_MNEMONIC_AND: value = m->old & m->source; break;
    case ZYDIS_MNEMONIC_OR: value = m->old | m->source; break;
    case ZYDIS_MNEMONIC_XOR: value = m->old ^ m->source; break;
    case ZYDIS_MNEMONIC_XCHG: case ZYDIS_MNEMONIC_CMPXCHG: value = m->source; break;
    case ZYDIS_MNEMONIC_INC: value = m->old + 1; break;
    case ZYDIS_MNEMONIC_DEC: value = m->old - 1; break;
    case ZYDIS_MNEMONIC_NOT: value = ~m->old; break;
    case ZYDIS_MNEMONIC_NEG: value = -m->old; break;
    case ZYDIS_MNEMONIC_BTS: value = m->old | bit; break;
    case ZYDIS_MNEMONIC_BTR: value = m->old & ~bit; break;
    case ZYDIS_MNEMONIC_BTC: value = m->old ^ bit; break;
    default: return false;
    }
    *result = value & ~0ull >> (64 - m->size * 8);
    return true;
}
