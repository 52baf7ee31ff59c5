/*
 * XXH64: tells a whole record from a torn one, at about ten bytes a nanosecond.
 *
 * Source: xxHash fast digest algorithm, "XXH64 algorithm description"; numbers are read in the machine's byte order, so the
 * vectors in tests/c/test_outbox_file.c hold on a little-endian one.
 */
#include <string.h>

#include "core_internal.h"

#define P1 UINT64_C(11400714785074694791)
#define P2 UINT64_C(14029467366897019727)
#define P3 UINT64_C(1609587929392839161)
#define P4 UINT64_C(9650029242287828579)
#define P5 UINT64_C(2870177450012600261)

static uint64_t rotl(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

static uint64_t read64(const uint8_t *p)
{
    uint64_t value;
    memcpy(&value, p, sizeof(value));
    return value;
}

static uint64_t mix(uint64_t sum, uint64_t input)
{
    return rotl(sum + input * P2, 31) * P1;
}

static uint64_t merge(uint64_t hash, uint64_t sum)
{
    return (hash ^ mix(0, sum)) * P1 + P4;
}

uint64_t mcore_xxh64(const uint8_t *data, size_t len, uint64_t seed)
{
    const uint8_t *p = data;
    size_t left = len;
    uint64_t hash = seed + P5;
    if (left >= 32) {
        uint64_t a = seed + P1 + P2;
        uint64_t b = seed + P2;
        uint64_t c = seed;
        uint64_t d = seed - P1;
        for (; left >= 32; p += 32, left -= 32) {
            a = mix(a, read64(p));
            b = mix(b, read64(p + 8));
            c = mix(c, read64(p + 16));
            d = mix(d, read64(p + 24));
        }
        hash = rotl(a, 1) + rotl(b, 7) + rotl(c, 12) + rotl(d, 18);
        hash = merge(merge(merge(merge(hash, a), b), c), d);
    }
    hash += len;
    for (; left >= 8; p += 8, left -= 8)
        hash = rotl(hash ^ mix(0, read64(p)), 27) * P1 + P4;
    if (left >= 4) {
        uint32_t word;
        memcpy(&word, p, sizeof(word));
        hash = rotl(hash ^ word * P1, 23) * P2 + P3;
        p += 4;
        left -= 4;
    }
    for (; left > 0; p++, left--)
        hash = rotl(hash ^ *p * P5, 11) * P1;
    hash = (hash ^ hash >> 33) * P2;
    hash = (hash ^ hash >> 29) * P3;
    return hash ^ hash >> 32;
}
