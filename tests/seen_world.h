/* A small world made by hand, for tests of what is decided on it. */
#ifndef SEEN_WORLD_H
#define SEEN_WORLD_H

#include <string.h>

#include "game/world.h"

static struct world_seen seen; /* large: not on the stack */

/* Room 3..9 x 3..7, known with its border; an exit east at (10, 5), from where the ground is unknown. */
static inline void make_world(void) {
    memset(&seen, 0, sizeof seen);
    struct world *w = &seen.now;
    w->state = STATE_FIELD;
    w->floor_live = true;
    w->floor = 1;
    w->leader = 0;
    w->team_count = 1;
    w->stairs = (struct point){-1, -1};
    w->team[0] = (struct monster){.leader = true, .at = {6, 5}, .hp = 45, .max_hp = 45, .belly = 50, .level = 5, .move_count = 1, .facing = 2};
    w->team[0].moves[0] = (struct move){.id = 1, .pp = 3, .set = true};
    for (int y = 2; y <= 8; y++) {
        for (int x = 2; x <= 10; x++) {
            bool open = (x > 2 && x < 10 && y > 2 && y < 8) || (x == 10 && y == 5);
            w->tiles[y][x] = (struct tile){.flags = open ? TILE_FLOOR : TILE_WALL, .visibility = 1, .room = 255};
        }
    }
    for (int y = 2; y <= 8; y++) {
        for (int x = 2; x <= 10; x++) {
            for (int d = 0; d < 8; d++) {
                int nx = x + direction_dx[d], ny = y + direction_dy[d];
                bool ok = w->tiles[ny][nx].flags && w->tiles[y][nx].flags && w->tiles[ny][x].flags;
                if (ok) w->tiles[y][x].passable |= (uint8_t)(1 << d);
            }
        }
    }
}

/* A foe in sight. */
static inline void put_foe(int x, int y) {
    seen.now.foes[seen.now.foe_count++] = (struct monster){.enemy = true, .at = {(int16_t)x, (int16_t)y}, .hp = 9, .max_hp = 9, .visible = true};
}

#endif
