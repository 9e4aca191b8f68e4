/* 128-bit content hashes (XXH3): names of pages, pictures and schemas. */
#ifndef ENGINE_HASH_H
#define ENGINE_HASH_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

struct hash128 {
    uint64_t low, high;
};

static inline struct hash128 hash_bytes(const void *data, size_t n, uint64_t seed) {
    XXH128_hash_t h = XXH3_128bits_withSeed(data, n, seed);
    return (struct hash128){h.low64, h.high64};
}
static inline bool hash_equal(struct hash128 a, struct hash128 b) { return a.low == b.low && a.high == b.high; }

#endif
