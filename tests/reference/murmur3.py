"""MurmurHash3, x86 variant, 32-bit result, as Appleby's MurmurHash3.cpp describes it."""

from __future__ import annotations

WORD = 0xFFFFFFFF


def rotl32(x: int, r: int) -> int:
    return (x << r | x >> (32 - r)) & WORD


def mix(k: int) -> int:
    k = k * 0xCC9E2D51 & WORD
    return rotl32(k, 15) * 0x1B873593 & WORD


def murmur3_x86_32(data: bytes, seed: int = 0) -> int:
    h = seed
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        h ^= mix(int.from_bytes(data[at : at + 4], "little"))
        h = (rotl32(h, 13) * 5 + 0xE6546B64) & WORD
    if data[whole:]:
        h ^= mix(int.from_bytes(data[whole:], "little"))
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & WORD
    h = (h ^ h >> 13) * 0xC2B2AE35 & WORD
    return h ^ h >> 16
