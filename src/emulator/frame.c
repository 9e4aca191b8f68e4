/* Frames: publication to other threads, and their hash. */
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "emulator/internal.h"

void frame_exchange_init(struct frame_exchange *x) {
    x->back = 0;
    x->front = 1;
    atomic_init(&x->middle, 2);
    pthread_mutex_init(&x->readers, NULL);
}

void frame_publish(struct frame_exchange *x, const uint32_t *pixels, uint64_t number) {
    struct frame_slot *slot = &x->slot[x->back];
    slot->number = pixels ? number : 0;
    if (pixels) {
        uint8_t *out = slot->rgb;
        for (int i = 0; i < FRAME_PIXELS; i++, out += 3) {
            out[0] = (uint8_t)pixels[i];
            out[1] = (uint8_t)(pixels[i] >> 8);
            out[2] = (uint8_t)(pixels[i] >> 16);
        }
    }
    x->back = atomic_exchange_explicit(&x->middle, x->back | FRAME_FRESH, memory_order_acq_rel) & 3;
}

uint64_t emulator_frame(struct emulator *e, uint8_t out[FRAME_PIXELS * 3]) {
    struct frame_exchange *x = &e->exchange;
    pthread_mutex_lock(&x->readers);
    if (atomic_load_explicit(&x->middle, memory_order_relaxed) & FRAME_FRESH) {
        x->front = atomic_exchange_explicit(&x->middle, x->front, memory_order_acq_rel) & 3;
    }
    const struct frame_slot *slot = &x->slot[x->front];
    uint64_t number = slot->number;
    if (number) memcpy(out, slot->rgb, sizeof slot->rgb);
    pthread_mutex_unlock(&x->readers);
    return number;
}

static void hex(XXH128_hash_t h, char out[33]) {
    snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.high64, (unsigned long long)h.low64);
}

void frame_hash(const uint8_t rgb[FRAME_PIXELS * 3], char out[33]) { hex(XXH3_128bits(rgb, FRAME_PIXELS * 3), out); }

uint64_t frame_picture_hash(const uint8_t rgb[FRAME_PIXELS * 3]) {
    enum { COLUMNS = 9, ROWS = 8, CELL_HEIGHT = FRAME_HEIGHT / ROWS };
    uint64_t hash = 0;
    for (int row = 0; row < ROWS; row++) {
        uint32_t sum[COLUMNS] = {0}, count[COLUMNS] = {0};
        for (int y = row * CELL_HEIGHT; y < (row + 1) * CELL_HEIGHT; y += 2) { /* every second pixel of every second line will do */
            for (int c = 0; c < COLUMNS; c++) {
                for (int x = c * FRAME_WIDTH / COLUMNS; x < (c + 1) * FRAME_WIDTH / COLUMNS; x += 2, count[c]++) {
                    const uint8_t *p = rgb + ((size_t)y * FRAME_WIDTH + (size_t)x) * 3;
                    sum[c] += 2u * p[0] + 5u * p[1] + p[2];
                }
            }
        }
        for (int c = 0; c + 1 < COLUMNS; c++) hash = hash << 1 | (sum[c] / count[c] < sum[c + 1] / count[c + 1]);
    }
    return hash ? hash : 1;
}

void emulator_state_hash(struct emulator *e, char out[33]) {
    XXH3_state_t state;
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, e->ewram, 0x40000);
    XXH3_128bits_update(&state, e->iwram, 0x8000);
    hex(XXH3_128bits_digest(&state), out);
}
