/*
 * MurmurHash3, x86, 32 bits: by which a key finds its partition, in every Memphis SDK.
 */
#include "memphis_core.h"

/* Block reads are put together from bytes: right on every host, any alignment, and one load where that is allowed. */
static uint32_t block_le(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t rotl(uint32_t x, int by)
{
    return x << by | x >> (32 - by);
}

static uint32_t mix_block(uint32_t k)
{
    return rotl(k * 0xcc9e2d51u, 15) * 0x1b873593u;
}

uint32_t mcore_murmur3_x86_32(const uint8_t *data, size_t len, uint32_t seed)
{
    uint32_t h = seed;
    uint32_t tail = 0;
    size_t whole = len & ~(size_t)3;

    for (size_t i = 0; i < whole; i += 4) {
        h = rotl(h ^ mix_block(block_le(data + i)), 13) * 5u + 0xe6546b64u;
    }
    for (size_t i = len; i > whole; i--) {
        tail = tail << 8 | data[i - 1];
    }
    h ^= mix_block(tail); /* mix_block(0) is 0: right for lengths divisible by 4 too */
    h ^= (uint32_t)len;
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return h ^ h >> 16;
}
