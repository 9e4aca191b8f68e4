/* The floor: 56 x 32 tiles, rooms, stairs, camera. */
#include "game/decode.h"

static void decode_tiles(struct decoder *d) {
    const struct memory_map *map = d->map;
    const uint8_t *p = d->dungeon + map->dungeon.tiles;
    struct tile *t = &d->out->tiles[0][0];
    int strange = 0;
    for (int i = 0; i < MAP_WIDTH * MAP_HEIGHT; i++, p += map->tile.bytes, t++) {
        t->flags = ram_u16(p + map->tile.flags);
        t->visibility = ram_u16(p + map->tile.visibility) & 3;
        t->room = p[map->tile.room] < MAX_ROOMS ? p[map->tile.room] : 255;
        t->passable = p[map->tile.passable];
        strange += (t->flags & TILE_KIND) == TILE_KIND;
    }
    if (strange) decode_note(d->out, "tiles: %d of 1792 have terrain kind 3, which does not exist", strange);
}

static void decode_rooms(struct decoder *d) {
    const struct memory_map *map = d->map;
    struct world *w = d->out;
    const uint8_t *p = d->dungeon + map->dungeon.rooms;
    for (int i = 0; i < MAX_ROOMS; i++, p += map->room.bytes) {
        if (p[map->room.exists] != 1) continue;
        struct point min = {ram_s16(p + map->room.min_x), ram_s16(p + map->room.min_y)};
        struct point end = {ram_s16(p + map->room.end_x), ram_s16(p + map->room.end_y)};
        if (min.x < 0 || min.y < 0 || end.x > MAP_WIDTH || end.y > MAP_HEIGHT || min.x >= end.x || min.y >= end.y) {
            decode_note(w, "room %d: x %d to %d, y %d to %d is no box on the map", i, min.x, end.x, min.y, end.y);
            continue;
        }
        struct room *r = &w->rooms[i];
        r->discovered = p[map->room.discovered] != 0;
        r->min_x = min.x, r->min_y = min.y, r->end_x = end.x, r->end_y = end.y;
        w->room_count = i + 1;
    }
}

static void decode_stairs(struct decoder *d) {
    struct world *w = d->out;
    struct point p = ram_point(d->dungeon + d->map->dungeon.stairs);
    if (on_map(p) && w->tiles[p.y][p.x].flags & TILE_STAIRS) {
        w->stairs = p;
        return;
    }
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) {
            if (w->tiles[y][x].flags & TILE_STAIRS) w->stairs = (struct point){(int16_t)x, (int16_t)y};
        }
    }
    decode_note(w, "stairs: noted at (%d, %d), where no tile has them", p.x, p.y);
}

void decode_floor(struct decoder *d) {
    struct world *w = d->out;
    w->lit = d->dungeon[d->map->dungeon.lit] != 0;
    w->visibility_range = d->dungeon[d->map->dungeon.visibility_range];
    if (w->visibility_range > 2) {
        decode_note(w, "visibility range is %d, expected 0 to 2", w->visibility_range);
        w->visibility_range = 1; /* the least that any floor shows */
        w->lit = false;
    }
    w->camera_pixel = ram_point(d->dungeon + d->map->dungeon.camera_pixel);
    decode_tiles(d);
    decode_rooms(d);
    decode_stairs(d);
}
