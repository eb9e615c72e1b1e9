// The families of instructions, each as the opcodes that belong to it. Operands, sizes and prefixes are
// random; what the decoder does not know or accept.c does not accept is drawn again, so a range may be
// generous.
#include "differential.h"

#define ANY 0xff
#define DIGIT(n) (1 << (n))
#define DIGITS(first, last) ((uint8_t)((2 << (last)) - (1 << (first))))
#define ONE(first, last, digits) { PREFIX_ANY, MAP_ONE, first, last, digits }
#define TWO(first, last, digits) { PREFIX_ANY, MAP_0F, first, last, digits }
#define SIMD(prefixes, first, last) { prefixes, MAP_0F, first, last, ANY }
#define ALL_FOUR (PREFIX_NONE | PREFIX_66 | PREFIX_F3 | PREFIX_F2)

static const struct encodings alu[] = {
    ONE(0x00, 0x05, ANY), ONE(0x08, 0x0d, ANY),          ONE(0x10, 0x15, ANY),         ONE(0x18, 0x1d, ANY),
    ONE(0x20, 0x25, ANY), ONE(0x28, 0x2d, ANY),          ONE(0x30, 0x35, ANY),         ONE(0x38, 0x3d, ANY),
    ONE(0x40, 0x4f, ANY), ONE(0x80, 0x83, ANY),          ONE(0x80, 0x83, ANY),         ONE(0x84, 0x85, ANY),
    ONE(0xa8, 0xa9, ANY), ONE(0xf6, 0xf7, DIGITS(0, 3)), ONE(0xfe, 0xff, DIGITS(0, 1))
};
static const struct encodings move[] = {
    ONE(0x88, 0x8c, ANY),      ONE(0x8d, 0x8d, ANY), ONE(0xa0, 0xa3, ANY), ONE(0xb0, 0xbf, ANY),
    ONE(0xc6, 0xc7, DIGIT(0)), ONE(0x63, 0x63, ANY), ONE(0x86, 0x87, ANY), ONE(0x90, 0x99, ANY),
    ONE(0xd7, 0xd7, ANY),      ONE(0x9e, 0x9f, ANY), TWO(0xb6, 0xb7, ANY), TWO(0xbe, 0xbf, ANY),
    TWO(0xc8, 0xcf, ANY),      TWO(0x40, 0x4f, ANY), TWO(0x90, 0x9f, ANY), SIMD(PREFIX_NONE, 0xc3, 0xc3)
};
static const struct encodings exchange[] = {
    TWO(0xb0, 0xb1, ANY), TWO(0xc0, 0xc1, ANY), TWO(0xc7, 0xc7, DIGIT(1)), ONE(0x86, 0x87, ANY)
};
static const struct encodings shift[] = { ONE(0xc0, 0xc1, ANY), ONE(0xd0, 0xd3, ANY), ONE(0xd0, 0xd3, ANY),
                                          TWO(0xa4, 0xa5, ANY), TWO(0xac, 0xad, ANY) };
static const struct encodings multiply[] = {
    ONE(0xf6, 0xf7, DIGITS(4, 7)), ONE(0x69, 0x69, ANY), ONE(0x6b, 0x6b, ANY),
    TWO(0xaf, 0xaf, ANY)
};
static const struct encodings decimal[] = { ONE(0x27, 0x27, ANY), ONE(0x2f, 0x2f, ANY), ONE(0x37, 0x37, ANY),
                                            ONE(0x3f, 0x3f, ANY), ONE(0xd4, 0xd6, ANY) };
static const struct encodings bits[] = {
    TWO(0xa3, 0xa3, ANY), TWO(0xab, 0xab, ANY), TWO(0xb3, 0xb3, ANY), TWO(0xba, 0xba, DIGITS(4, 7)),
    TWO(0xbb, 0xbd, ANY), SIMD(PREFIX_F3, 0xb8, 0xb8)
};
static const struct encodings string[] = { ONE(0xa4, 0xa7, ANY), ONE(0xaa, 0xaf, ANY) };
static const struct encodings stack[] = {
    ONE(0x50, 0x5f, ANY),      ONE(0x60, 0x61, ANY),      ONE(0x68, 0x68, ANY), ONE(0x6a, 0x6a, ANY),
    ONE(0x8f, 0x8f, DIGIT(0)), ONE(0xff, 0xff, DIGIT(6)), ONE(0x9c, 0x9d, ANY), ONE(0xc8, 0xc9, ANY),
    ONE(0x06, 0x06, ANY),      ONE(0x0e, 0x0e, ANY),      ONE(0x16, 0x16, ANY), ONE(0x1e, 0x1e, ANY),
    TWO(0xa0, 0xa0, ANY),      TWO(0xa8, 0xa8, ANY)
};
static const struct encodings branch[] = { ONE(0x70, 0x7f, ANY),      TWO(0x80, 0x8f, ANY),
                                           ONE(0xe0, 0xe3, ANY),      ONE(0xe8, 0xe9, ANY),
                                           ONE(0xeb, 0xeb, ANY),      ONE(0xc2, 0xc3, ANY),
                                           ONE(0xff, 0xff, DIGIT(2)), ONE(0xff, 0xff, DIGIT(4)) };
static const struct encodings flag[] = { ONE(0xf5, 0xf5, ANY), ONE(0xf8, 0xf9, ANY), ONE(0xfc, 0xfd, ANY),
                                         ONE(0x9c, 0x9f, ANY), ONE(0x62, 0x62, ANY), ONE(0xce, 0xce, ANY),
                                         TWO(0x0b, 0x0b, ANY), TWO(0x0d, 0x0d, ANY), TWO(0x18, 0x1f, ANY),
                                         TWO(0xae, 0xae, ANY) };
static const struct encodings privileged[] = {
    ONE(0xf4, 0xf4, ANY), ONE(0xfa, 0xfb, ANY),          ONE(0xe4, 0xe7, ANY),          ONE(0xec, 0xef, ANY),
    ONE(0x6c, 0x6f, ANY), TWO(0x00, 0x00, DIGITS(2, 3)), TWO(0x01, 0x01, DIGITS(2, 7)), TWO(0x06, 0x06, ANY),
    TWO(0x08, 0x09, ANY), TWO(0x20, 0x23, ANY),          TWO(0x30, 0x30, ANY),          TWO(0x32, 0x32, ANY)
};
static const struct encodings x87[] = { ONE(0xd8, 0xdf, ANY), ONE(0x9b, 0x9b, ANY) };
static const struct encodings mmx[] = {
    SIMD(PREFIX_NONE, 0x60, 0x7f), SIMD(PREFIX_NONE, 0xc4, 0xc5), SIMD(PREFIX_NONE, 0xd0, 0xff),
    SIMD(ALL_FOUR, 0x2a, 0x2d), SIMD(PREFIX_F2 | PREFIX_F3, 0xd6, 0xd6)
};
static const struct encodings sse[] = {
    SIMD(ALL_FOUR, 0x10, 0x17), SIMD(ALL_FOUR, 0x28, 0x2f), SIMD(ALL_FOUR, 0x50, 0x5f),
    SIMD(ALL_FOUR, 0x50, 0x5f), SIMD(ALL_FOUR, 0xc2, 0xc2), SIMD(ALL_FOUR, 0xc6, 0xc6),
    SIMD(ALL_FOUR, 0xe6, 0xe6),
};
static const struct encodings sse_integer[] = {
    SIMD(PREFIX_66, 0x60, 0x7f), SIMD(PREFIX_66, 0xc4, 0xc5), SIMD(PREFIX_66, 0xd0, 0xff),
    SIMD(PREFIX_F2 | PREFIX_F3, 0x6f, 0x70), SIMD(PREFIX_F2 | PREFIX_F3, 0x7e, 0x7f)
};
// What only some guests have; accept.c drops it for the others.
static const struct encodings sse_late[] = { { ALL_FOUR, MAP_0F38, 0x00, 0x41, ANY },
                                             { ALL_FOUR, MAP_0F38, 0xc8, 0xf7, ANY },
                                             { ALL_FOUR, MAP_0F3A, 0x08, 0x22, ANY },
                                             { ALL_FOUR, MAP_0F3A, 0x40, 0x63, ANY },
                                             SIMD(PREFIX_66 | PREFIX_F2, 0x7c, 0x7d),
                                             SIMD(ALL_FOUR, 0x12, 0x16),
                                             SIMD(PREFIX_66 | PREFIX_F2, 0xd0, 0xd0),
                                             SIMD(PREFIX_F2, 0xf0, 0xf0),
                                             SIMD(PREFIX_F3, 0xb8, 0xbd),
                                             TWO(0xae, 0xae, ANY) };
static const struct encodings fxsave[] = {
    SIMD(PREFIX_NONE, 0xae, 0xae), ONE(0xdd, 0xdd, DIGITS(4, 7)), ONE(0xd9, 0xd9, DIGITS(4, 7))
};

#define FAMILY(name, weight) { #name, weight, name, sizeof(name) / sizeof(name[0]) }

const struct family families[] = { FAMILY(alu, 14),         FAMILY(move, 9),     FAMILY(exchange, 4),
                                   FAMILY(shift, 8),        FAMILY(multiply, 5), FAMILY(decimal, 2),
                                   FAMILY(bits, 6),         FAMILY(string, 6),   FAMILY(stack, 6),
                                   FAMILY(branch, 4),       FAMILY(flag, 2),     FAMILY(privileged, 1),
                                   FAMILY(x87, 12),         FAMILY(mmx, 5),      FAMILY(sse, 14),
                                   FAMILY(sse_integer, 9),  FAMILY(sse_late, 4), FAMILY(fxsave, 1),
                                   { "random", 8, NULL, 0 } };
const size_t family_count = sizeof(families) / sizeof(families[0]);
