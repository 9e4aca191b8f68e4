/* Reading RAM that may hold anything: a range is checked before a pointer to it exists. Private to this room. */
#ifndef GAME_RAM_H
#define GAME_RAM_H

#include <string.h>

#include "game/world.h"

enum { EWRAM_START = 0x02000000, EWRAM_BYTES = 0x40000, IWRAM_START = 0x03000000, IWRAM_BYTES = 0x8000, ROM_START = 0x08000000 };

/* The bytes at a RAM address, or NULL when they are not all inside one memory block. */
static inline const uint8_t *ram_at(const struct memory_view *m, uint32_t address, uint32_t bytes) {
    uint32_t e = address - EWRAM_START, i = address - IWRAM_START;
    if (m->ewram && e < EWRAM_BYTES && bytes <= EWRAM_BYTES - e) return m->ewram + e;
    if (m->iwram && i < IWRAM_BYTES && bytes <= IWRAM_BYTES - i) return m->iwram + i;
    return NULL;
}
/* A struct that the game reaches by a pointer: in EWRAM and on a word boundary, as its compiler lays it out. */
static inline const uint8_t *ram_struct(const struct memory_view *m, uint32_t address, uint32_t bytes) {
    return address % 4 == 0 && address - EWRAM_START < EWRAM_BYTES ? ram_at(m, address, bytes) : NULL;
}

static inline uint16_t ram_u16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline int16_t ram_s16(const uint8_t *p) { return (int16_t)ram_u16(p); }
static inline uint32_t ram_u32(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }
static inline int32_t ram_s32(const uint8_t *p) { return (int32_t)ram_u32(p); }
static inline struct point ram_point(const uint8_t *p) { return (struct point){ram_s16(p), ram_s16(p + 2)}; }

/* Time of the searches on this thread, path_seconds' account. */
extern _Thread_local double path_spent;

static inline bool on_map(struct point p) { return p.x >= 0 && p.x < MAP_WIDTH && p.y >= 0 && p.y < MAP_HEIGHT; }

#endif
