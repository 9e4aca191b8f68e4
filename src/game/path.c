/* Path finding: breadth first from the goals, so that one pass serves every tile. A step's legality is in tile.passable of the
 * tile it starts from (corner rule included), so edges are followed backwards. */
#include <stdlib.h>

#include "base/clock.h"
#include "game/ram.h"

static const uint16_t unreachable = 0xFFFF;

bool tile_step_allowed(const struct world *w, struct point from, int d) {
    if (!on_map(from) || d < 0 || d > 7) return false;
    struct point to = {(int16_t)(from.x + direction_dx[d]), (int16_t)(from.y + direction_dy[d])};
    return on_map(to) && w->tiles[from.y][from.x].passable >> d & 1;
}

bool tile_attack_allowed(const struct world *w, struct point from, int d) {
    if (!on_map(from) || d < 0 || d > 7) return false;
    struct point to = {(int16_t)(from.x + direction_dx[d]), (int16_t)(from.y + direction_dy[d])};
    if (!on_map(to) || (w->tiles[to.y][to.x].flags & TILE_KIND) == TILE_WALL) return false;
    return d % 2 == 0 || ((w->tiles[from.y][to.x].flags & TILE_KIND) != TILE_WALL &&
                          (w->tiles[to.y][from.x].flags & TILE_KIND) != TILE_WALL);
}

/* Tiles that a path must not enter. */
static void mark_blocked(const struct world *w, const struct path_options *o, uint8_t blocked[MAP_HEIGHT][MAP_WIDTH]) {
    memset(blocked, 0, MAP_HEIGHT * MAP_WIDTH);
    if (o && o->foes_block) {
        for (int i = 0; i < w->foe_count; i++) {
            if (on_map(w->foes[i].at)) blocked[w->foes[i].at.y][w->foes[i].at.x] = 1;
        }
    }
    if (o && o->avoid_traps) {
        for (int i = 0; i < w->trap_count; i++) {
            if (w->traps[i].visible && on_map(w->traps[i].at)) blocked[w->traps[i].at.y][w->traps[i].at.x] = 1;
        }
    }
}

_Thread_local double path_spent;

double path_seconds(void) {
    double spent = path_spent;
    path_spent = 0;
    return spent;
}

static void flood(const struct world *w, const struct point *goals, int count, const struct path_options *o, struct distance_field *out) {
    uint8_t blocked[MAP_HEIGHT][MAP_WIDTH];
    struct point queue[MAP_HEIGHT * MAP_WIDTH];
    int head = 0, tail = 0;
    mark_blocked(w, o, blocked);
    memset(out, 0xFF, sizeof *out);
    for (int i = 0; i < count; i++) {
        if (!on_map(goals[i]) || out->steps[goals[i].y][goals[i].x] == 0) continue;
        out->steps[goals[i].y][goals[i].x] = 0; /* a goal may be a blocked tile: the foe to reach, the trap to step on */
        queue[tail++] = goals[i];
    }
    while (head < tail) {
        struct point at = queue[head++];
        uint16_t next = (uint16_t)(out->steps[at.y][at.x] + 1);
        for (int d = 0; d < 8; d++) { /* from a neighbour, in direction d, one comes to `at` */
            int x = at.x - direction_dx[d], y = at.y - direction_dy[d];
            if ((unsigned)x >= MAP_WIDTH || (unsigned)y >= MAP_HEIGHT || out->steps[y][x] != unreachable || blocked[y][x]) continue;
            const struct tile *t = &w->tiles[y][x];
            if (!(t->passable >> d & 1) || (t->flags & TILE_KIND) == TILE_WALL) continue;
            out->steps[y][x] = next;
            queue[tail++] = (struct point){(int16_t)x, (int16_t)y};
        }
    }
}

void path_distances(const struct world *w, const struct point *goals, int count, const struct path_options *o, struct distance_field *out) {
    double start = clock_seconds();
    flood(w, goals, count, o, out);
    path_spent += clock_seconds() - start;
}

int path_step(const struct world *w, const struct distance_field *field, struct point from, int prefer, const struct path_options *o) {
    uint8_t blocked[MAP_HEIGHT][MAP_WIDTH];
    if (!on_map(from)) return -1;
    mark_blocked(w, o, blocked);
    int best = -1, best_turn = 9;
    uint16_t best_steps = field->steps[from.y][from.x];
    if (best_steps == 0) return -1;
    for (int d = 0; d < 8; d++) {
        if (!tile_step_allowed(w, from, d)) continue;
        int x = from.x + direction_dx[d], y = from.y + direction_dy[d];
        uint16_t steps = field->steps[y][x];
        if (blocked[y][x] && steps != 0) continue;
        int turn = prefer < 0 ? d % 2 : abs(d - prefer) > 4 ? 8 - abs(d - prefer) : abs(d - prefer);
        if (steps < best_steps || (best >= 0 && steps == best_steps && turn < best_turn)) best = d, best_steps = steps, best_turn = turn;
    }
    return best;
}
