#include "record/hash.h"

#include <stdio.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

void hash_hex(const void *a, size_t a_bytes, const void *b, size_t b_bytes, char out[33]) {
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    if (a_bytes) XXH3_128bits_update(&state, a, a_bytes);
    if (b_bytes) XXH3_128bits_update(&state, b, b_bytes);
    XXH128_hash_t h = XXH3_128bits_digest(&state);
    snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}
