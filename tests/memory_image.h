/* Memory images by the published layout, for tests of the decoder.
 *
 * The numbers here are typed from the sheet on the game's memory a second time, on purpose: they share nothing with the tables in
 * src/game/layout.c. An image made here shows that the decoder follows the sheet. It cannot show that the sheet is right about
 * the real game: that takes a save state of the game itself. */
#ifndef MEMORY_IMAGE_H
#define MEMORY_IMAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "game/world.h"

struct image {
    uint8_t ewram[0x40000], iwram[0x8000];
    uint32_t d; /* address of the Dungeon struct */
};

enum { IMAGE_DUNGEON = 0x02001000, IMAGE_BAG = 0x020389A8 };

static inline uint8_t *image_at(struct image *m, uint32_t address) {
    return address >= 0x03000000 ? m->iwram + (address - 0x03000000) : m->ewram + (address - 0x02000000);
}
static inline void put8(struct image *m, uint32_t a, int v) { *image_at(m, a) = (uint8_t)v; }
static inline void put16(struct image *m, uint32_t a, int v) { put8(m, a, v), put8(m, a + 1, v >> 8); }
static inline void put32(struct image *m, uint32_t a, uint32_t v) { put16(m, a, (int)(v & 0xFFFF)), put16(m, a + 2, (int)(v >> 16)); }
static inline void put_text(struct image *m, uint32_t a, const char *s) { memcpy(image_at(m, a), s, strlen(s) + 1); }

static inline struct memory_view image_view(const struct image *m) {
    return (struct memory_view){.ewram = m->ewram, .iwram = m->iwram};
}
static inline void image_decode(const struct image *m, struct world *w) {
    struct memory_view v = image_view(m);
    world_decode(&v, "POKE DUNGEON", "B24E", w);
}

/* ---- the floor ------------------------------------------------------------------------------------------------------- */

static inline uint32_t image_tile(const struct image *m, int x, int y) { return m->d + 0x3A18 + 24u * (uint32_t)(y * 56 + x); }
static inline int image_kind(struct image *m, int x, int y) { return *image_at(m, image_tile(m, x, y)) & 3; }
static inline void image_dig(struct image *m, int x, int y, int kind, int room) {
    put16(m, image_tile(m, x, y), kind);
    put8(m, image_tile(m, x, y) + 9, room);
}
static inline void image_reveal(struct image *m, int x0, int y0, int x1, int y1) {
    for (int y = y0; y <= y1; y++) {
        for (int x = x0; x <= x1; x++) put16(m, image_tile(m, x, y) + 4, 3);
    }
}
static inline void image_room(struct image *m, int i, int x0, int y0, int x1, int y1, bool discovered) {
    uint32_t r = m->d + 0x104C4 + 0x1Cu * (uint32_t)i;
    put8(m, r, 1), put8(m, r + 1, discovered);
    put16(m, r + 2, x0), put16(m, r + 4, y0), put16(m, r + 6, x1 + 1), put16(m, r + 8, y1 + 1);
    for (int y = y0; y <= y1; y++) {
        for (int x = x0; x <= x1; x++) image_dig(m, x, y, 1, i);
    }
    if (discovered) image_reveal(m, x0 - 1, y0 - 1, x1 + 1, y1 + 1);
}
static inline void image_stairs(struct image *m, int x, int y) {
    put16(m, image_tile(m, x, y), 0x201);
    put16(m, m->d + 0xE21C, x), put16(m, m->d + 0xE21E, y);
}
/* Bit d of +0xA: the target is floor and, on a diagonal, both orthogonal neighbours are no walls. */
static inline void image_passable(struct image *m) {
    static const int dx[8] = {0, 1, 1, 1, 0, -1, -1, -1}, dy[8] = {1, 1, 0, -1, -1, -1, 0, 1};
    for (int y = 1; y < 31; y++) {
        for (int x = 1; x < 55; x++) {
            int bits = 0;
            for (int d = 0; d < 8; d++) {
                if (image_kind(m, x + dx[d], y + dy[d]) != 1) continue;
                if (d % 2 && (!image_kind(m, x + dx[d], y) || !image_kind(m, x, y + dy[d]))) continue;
                bits |= 1 << d;
            }
            put8(m, image_tile(m, x, y) + 0xA, bits);
        }
    }
}

/* ---- entities -------------------------------------------------------------------------------------------------------- */

enum image_pool { POOL_TEAM, POOL_WILD, POOL_ITEMS, POOL_TRAPS };
static const struct { uint32_t pointers, entities; int count; } image_pools[] = {
    {0x1357C, 0x1381C, 4}, {0x1358C, 0x139EC, 16}, {0x1361C, 0x1412C, 64}, {0x1371C, 0x15E2C, 64},
};
static inline uint32_t image_entity(const struct image *m, enum image_pool pool, int i) {
    return m->d + image_pools[pool].entities + 0x74u * (uint32_t)i;
}
static inline uint32_t image_data(const struct image *m, enum image_pool pool, int i) {
    switch (pool) {
    case POOL_TEAM: return m->d + 0x69C + 0x208u * (uint32_t)i;
    case POOL_WILD: return m->d + 0xEBC + 0x208u * (uint32_t)i;
    case POOL_ITEMS: return m->d + 0x3804 + 4u * (uint32_t)i;
    default: return m->d + 0x3908 + 4u * (uint32_t)i;
    }
}
static inline void image_put_entity(struct image *m, enum image_pool pool, int i, int type, int x, int y) {
    uint32_t e = image_entity(m, pool, i);
    put32(m, e, (uint32_t)type), put16(m, e + 4, x), put16(m, e + 6, y);
    put8(m, e + 0x20, 1), put16(m, e + 0x26, 10 + i + 100 * pool);
}
static inline uint32_t image_monster(struct image *m, enum image_pool pool, int i, int species, int level, int hp, int max_hp, int x, int y,
                                     int facing) {
    uint32_t p = image_data(m, pool, i);
    image_put_entity(m, pool, i, 1, x, y);
    put16(m, p + 2, species), put16(m, p + 4, species);
    put8(m, p + 6, pool == POOL_WILD), put8(m, p + 7, pool == POOL_TEAM && i == 0);
    put8(m, p + 9, level), put8(m, p + 0xA, i), put16(m, p + 0xC, 1 + i), put16(m, p + 0xE, hp), put16(m, p + 0x10, max_hp);
    put32(m, p + 0x18, 100u * (uint32_t)level), put8(m, p + 0x46, facing);
    put16(m, p + 0x13C, 49), put16(m, p + 0x13E, 300), put16(m, p + 0x140, 100);
    return p;
}
static inline void image_move(struct image *m, uint32_t info, int i, int flags, int id, int pp) {
    uint32_t p = info + 0x118 + 8u * (uint32_t)i;
    put8(m, p, flags), put16(m, p + 2, id), put8(m, p + 4, pp);
}
static inline void image_item(struct image *m, int i, int id, int quantity, int flags, int x, int y) {
    uint32_t p = image_data(m, POOL_ITEMS, i);
    image_put_entity(m, POOL_ITEMS, i, 3, x, y);
    put8(m, p, flags), put8(m, p + 1, quantity), put8(m, p + 2, id);
}
static inline void image_trap(struct image *m, int i, int id, bool visible, int x, int y) {
    image_put_entity(m, POOL_TRAPS, i, 2, x, y);
    put8(m, image_data(m, POOL_TRAPS, i), id);
    put8(m, image_entity(m, POOL_TRAPS, i) + 0x20, visible);
}
static inline void image_bag(struct image *m, int i, int id, int quantity) {
    put8(m, IMAGE_BAG + 4u * (uint32_t)i, 1), put8(m, IMAGE_BAG + 4u * (uint32_t)i + 1, quantity), put8(m, IMAGE_BAG + 4u * (uint32_t)i + 2, id);
}
static inline void image_log_line(struct image *m, int slot, int new_group, int first, const char *text) {
    uint32_t p = m->d + 0x1C070 + 0x40u * (uint32_t)slot;
    put8(m, p, 1), put8(m, p + 1, new_group), put8(m, p + 2, first);
    put_text(m, p + 3, text);
}

/* ---- whole images ---------------------------------------------------------------------------------------------------- */

/* A dungeon floor as it stands when a move is waited for:
 *
 *      room 0 (x 4-9, y 4-8), discovered, the hero at (6, 6), the partner at (5, 6)
 *      corridor (10, 6) to (19, 6), its first two tiles shown
 *      room 1 (x 20-26, y 4-9), not shown: foe at (22, 6), Oran Berry at (24, 8), stairs at (25, 5), hidden trap at (21, 8)
 *      a foe at (9, 4), money (index 2: 10) at (8, 8), a visible trap at (4, 8) and a hidden one at (7, 5) in room 0 */
static inline void image_dungeon(struct image *m) {
    memset(m, 0, sizeof *m);
    m->d = IMAGE_DUNGEON;
    put32(m, 0x0203B03C, 1), put32(m, 0x0203B418, m->d), put8(m, 0x0203B40C, 1);
    put32(m, 0x0202EDCC, 4321), put32(m, 0x0202EDC8, 31), put32(m, 0x0203B460, IMAGE_BAG);
    put8(m, m->d, 1), put8(m, m->d + 0xF, 1), put8(m, m->d + 0x644, 0), put8(m, m->d + 0x645, 2);
    put8(m, m->d + 0x65B, 1), put16(m, m->d + 0x666, 987), put32(m, m->d + 0x680, 0x00ABCDEF), put8(m, m->d + 0x1CEC8, 4);
    put8(m, m->d + 0x1820C, 1);
    for (int y = 0; y < 32; y++) {
        for (int x = 0; x < 56; x++) image_dig(m, x, y, 0, 255);
        put16(m, image_tile(m, 0, y), 0x10), put16(m, image_tile(m, 55, y), 0x10);
    }
    for (int x = 0; x < 56; x++) put16(m, image_tile(m, x, 0), 0x10), put16(m, image_tile(m, x, 31), 0x10);
    for (int i = 0; i < 32; i++) { /* unused rooms */
        uint32_t r = m->d + 0x104C4 + 0x1Cu * (uint32_t)i;
        put16(m, r + 2, 9999), put16(m, r + 4, 9999), put16(m, r + 6, -9999), put16(m, r + 8, -9999);
    }
    image_room(m, 0, 4, 4, 9, 8, true);
    image_room(m, 1, 20, 4, 26, 9, false);
    for (int x = 10; x < 20; x++) image_dig(m, x, 6, 1, 255);
    image_reveal(m, 10, 5, 11, 7);
    put16(m, image_tile(m, 10, 6), 9);
    image_stairs(m, 25, 5);
    image_passable(m);
    for (int pool = 0; pool < 4; pool++) {
        for (int i = 0; i < image_pools[pool].count; i++) {
            put32(m, m->d + image_pools[pool].pointers + 4u * (uint32_t)i, image_entity(m, (enum image_pool)pool, i));
            put32(m, image_entity(m, (enum image_pool)pool, i) + 0x70, image_data(m, (enum image_pool)pool, i));
        }
    }
    uint32_t hero = image_monster(m, POOL_TEAM, 0, 25, 5, 21, 24, 6, 6, 2);
    image_move(m, hero, 0, 1 | 8, 188, 18), image_move(m, hero, 1, 1, 217, 0);
    put16(m, hero + 0xC, 7);
    image_monster(m, POOL_TEAM, 1, 1, 5, 20, 22, 5, 6, 2);
    uint32_t foe = image_monster(m, POOL_WILD, 0, 16, 1, 9, 11, 9, 4, 6);
    image_move(m, foe, 0, 1, 57, 30);
    image_monster(m, POOL_WILD, 3, 191, 1, 8, 8, 22, 6, 0);
    image_item(m, 0, 105, 2, 1, 8, 8), image_item(m, 5, 55, 0, 1, 24, 8);
    put16(m, m->d + 0x3904, 6);
    image_trap(m, 0, 16, true, 4, 8), image_trap(m, 1, 5, false, 7, 5), image_trap(m, 2, 7, false, 21, 8);
    put16(m, m->d + 0x181F0, 24 * 6 + 12 - 120), put16(m, m->d + 0x181F2, 24 * 6 + 16 - 96);
    put32(m, 0x02038C08, 345);
    image_bag(m, 0, 82, 0), image_bag(m, 2, 7, 5);
    image_log_line(m, 3, 1, 1, "#CFPidgey#R was"), image_log_line(m, 4, 0, 0, "defeated!"), image_log_line(m, 5, 1, 1, "Gained 4 Exp.");
    put16(m, m->d + 0x16, 6);
}

static inline void image_dialogue(struct image *m, int state, const char *text, size_t printed) {
    put32(m, 0x0202E744, (uint32_t)state);
    put_text(m, 0x0202E798, text);
    put32(m, 0x0202E794, 0x0202E798 + (uint32_t)printed);
}

static inline void image_title(struct image *m) {
    memset(m, 0, sizeof *m);
    put32(m, 0x0203B348, 0x02001000);
}
static inline void image_ground(struct image *m) {
    memset(m, 0, sizeof *m);
    put32(m, 0x0203B03C, 2);
    put32(m, 0x03001B64, 0x02001000), put32(m, 0x03001B6C, 0x02001100), put32(m, 0x03001B84, 0x02001200);
    put32(m, 0x0203B460, IMAGE_BAG), put32(m, 0x02038C08, 1200);
}
static inline void image_menu(struct image *m, int window_mode, int cursor, int rows, const int *actions) {
    put32(m, 0x0202EDD0, (uint32_t)window_mode);
    put16(m, 0x0202EE10 + 0x18, cursor);
    put32(m, 0x0202EE6C, (uint32_t)rows);
    for (int i = 0; i < rows; i++) put16(m, 0x0202EE44 + 4u * (uint32_t)i, actions[i]), put8(m, 0x0202EE44 + 4u * (uint32_t)i + 3, 1);
}

#endif
