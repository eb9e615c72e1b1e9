// Random numbers that can be repeated, and values at the edges where mistakes are.
#include "differential.h"

#include <string.h>

// splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators")
uint64_t random_next(struct random *r)
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t random_below(struct random *r, uint32_t bound)
{
    return (uint32_t)((random_next(r) >> 32) * bound >> 32);
}

bool random_percent(struct random *r, uint32_t percent)
{
    return random_below(r, 100) < percent;
}

uint64_t random_integer(struct random *r)
{
    static const uint64_t edges[] = {
        0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff,
        0x100000000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0xfffffffffffffffe,
        0xffffffff80000000, 0xffffffff7fffffff, 0xffffffffffffff80, 0xffffffffffff8000, 0x5555555555555555,
        0xaaaaaaaaaaaaaaaa, 0x0f0f0f0f0f0f0f0f, 0x9999999999999999, 0x0123456789abcdef
    };
    switch (random_below(r, 5)) {
    case 0: return edges[random_below(r, sizeof(edges) / sizeof(edges[0]))];
    case 1: return random_below(r, 256) - 128u;
    case 2: return (uint64_t)1 << random_below(r, 64);
    case 3: return random_next(r) >> random_below(r, 64);
    default: return random_next(r);
    }
}

static uint32_t random_single(struct random *r)
{
    static const uint32_t edges[] = { 0x00000000, 0x00000001, 0x007fffff, 0x00800000, 0x3f000000, 0x3f7fffff,
                                      0x3f800000, 0x3f800001, 0x3fc00000, 0x40200000, 0x40490fdb, 0x4effffff,
                                      0x4f000000, 0x5f000000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fbfffff,
                                      0x7fc00000, 0x7fffffff, 0x7fc12345 };
    if (random_percent(r, 60))
        return edges[random_below(r, sizeof(edges) / sizeof(edges[0]))] | (uint32_t)random_below(r, 2) << 31;
    return (uint32_t)random_next(r);
}

static uint64_t random_double(struct random *r)
{
    static const uint64_t edges[] = {
        0x0000000000000000, 0x0000000000000001, 0x000fffffffffffff, 0x0010000000000000, 0x3fe0000000000000,
        0x3fefffffffffffff, 0x3ff0000000000000, 0x3ff0000000000001, 0x3ff8000000000000, 0x4004000000000000,
        0x400921fb54442d18, 0x36a0000000000000, 0x380fffffe0000000, 0x3810000000000000, 0x41dfffffffe00000,
        0x41e0000000000000, 0x43dfffffffffffff, 0x43e0000000000000, 0x47efffffe0000000, 0x47f0000000000000,
        0x7fefffffffffffff, 0x7ff0000000000000, 0x7ff0000000000001, 0x7ff7ffffffffffff, 0x7ff8000000000000,
        0x7fffffffffffffff, 0x7ff8123456789abc
    };
    if (random_percent(r, 60))
        return edges[random_below(r, sizeof(edges) / sizeof(edges[0]))] | (uint64_t)random_below(r, 2) << 63;
    return random_next(r);
}

void random_vector(struct random *r, uint8_t out[16])
{
    uint64_t q[2];
    uint32_t d[4];
    switch (random_below(r, 4)) {
    case 0:
        for (int i = 0; i < 2; i++)
            q[i] = random_double(r);
        memcpy(out, q, 16);
        break;
    case 1:
    case 2:
        for (int i = 0; i < 4; i++)
            d[i] = random_single(r);
        memcpy(out, d, 16);
        break;
    default:
        for (int i = 0; i < 2; i++)
            q[i] = random_integer(r);
        memcpy(out, q, 16);
    }
}

void random_extended(struct random *r, uint8_t out[10])
{
    static const uint16_t exponents[] = { 0,      0,      1,      0x3f6a, 0x3f81, 0x3bcd, 0x3c01, 0x3ffe,
                                          0x3fff, 0x4000, 0x400e, 0x400f, 0x401e, 0x401f, 0x403d, 0x403e,
                                          0x403f, 0x407e, 0x43fe, 0x7ffe, 0x7fff, 0x7fff };
    static const uint64_t mantissas[] = {
        0x8000000000000000, 0x8000000000000000, 0x8000000000000001, 0xffffffffffffffff, 0xc000000000000000,
        0xbfffffffffffffff, 0xc90fdaa22168c235, 0xa000000000000000, 0xffffff0000000000, 0xfffffffffffff800
    };
    uint16_t top = exponents[random_below(r, sizeof(exponents) / sizeof(exponents[0]))];
    uint64_t mantissa = mantissas[random_below(r, sizeof(mantissas) / sizeof(mantissas[0]))];
    switch (random_below(r, 8)) {
    case 0: mantissa = random_next(r); break;                           // unnormals, pseudo-denormals
    case 1: mantissa = random_next(r) | (uint64_t)1 << 63; break;
    case 2: mantissa = 0; top = random_percent(r, 70) ? 0 : top; break;     // zero
    case 3: top = (uint16_t)(0x3fff - 40 + random_below(r, 110)); break;    // near the integers
    default: break;
    }
    if (random_percent(r, 10))
        top = (uint16_t)random_next(r);
    top = (uint16_t)((top & 0x7fff) | random_below(r, 2) << 15);
    memcpy(out, &mantissa, 8);
    memcpy(out + 8, &top, 2);
}
