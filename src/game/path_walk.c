/* Ways with turns: Dijkstra backwards over (tile, direction faced), with a ring of buckets because all costs are small whole numbers.
 * A step that turns costs more, so of two goals about equally near the one ahead is taken, and stays taken. */
#include <stdlib.h>

#include "base/clock.h"
#include "game/ram.h"

const uint8_t path_turn_cost[5] = {0, 0, 1, 4, 8};
enum { RING = 16, STATES = MAP_HEIGHT * MAP_WIDTH * 8 }; /* RING: more than the dearest step, 1 + 8 */
static const uint16_t unreachable = 0xFFFF;

static int turn_of(int from, int to) {
    int t = (to - from) & 7;
    return t > 4 ? 8 - t : t;
}

struct rings {
    int32_t head[RING], next[STATES]; /* states by cost modulo RING; a state is filed at most once, moved when it becomes cheaper */
    int32_t before[STATES];
    int waiting;
};

static void ring_remove(struct rings *r, int state, int cost) {
    int b = r->before[state], n = r->next[state];
    if (b >= 0) r->next[b] = n;
    else r->head[cost % RING] = n;
    if (n >= 0) r->before[n] = b;
    r->waiting--;
}

static void ring_add(struct rings *r, int state, int cost) {
    int32_t *head = &r->head[cost % RING];
    r->before[state] = -1, r->next[state] = *head;
    if (*head >= 0) r->before[*head] = state;
    *head = state;
    r->waiting++;
}

static void relax(struct rings *r, uint16_t *cost, int state, int value) {
    if (value >= cost[state]) return;
    if (cost[state] != unreachable) ring_remove(r, state, cost[state]);
    cost[state] = (uint16_t)value;
    ring_add(r, state, value);
}

static bool avoided(const struct world *w, const struct path_options *o, int x, int y) {
    for (int i = 0; o && o->foes_block && i < w->foe_count; i++) {
        if (w->foes[i].at.x == x && w->foes[i].at.y == y) return true;
    }
    for (int i = 0; o && o->avoid_traps && i < w->trap_count; i++) {
        if (w->traps[i].visible && w->traps[i].at.x == x && w->traps[i].at.y == y) return true;
    }
    return false;
}

static void search(const struct world *w, const struct point *goals, int count, const struct path_options *o, struct walk_field *out) {
    static _Thread_local struct rings r;
    uint8_t blocked[MAP_HEIGHT][MAP_WIDTH];
    uint16_t *cost = &out->cost[0][0][0];
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) blocked[y][x] = avoided(w, o, x, y);
    }
    memset(out, 0xFF, sizeof *out);
    memset(r.head, 0xFF, sizeof r.head);
    r.waiting = 0;
    for (int i = 0; i < count; i++) {
        if (!on_map(goals[i])) continue;
        for (int f = 0; f < 8; f++) relax(&r, cost, (goals[i].y * MAP_WIDTH + goals[i].x) * 8 + f, 0);
    }
    for (int now = 0; r.waiting; now++) {
        for (int state; (state = r.head[now % RING]) >= 0;) {
            ring_remove(&r, state, now);
            int d = state % 8, x = state / 8 % MAP_WIDTH - direction_dx[d], y = state / 8 / MAP_WIDTH - direction_dy[d];
            if ((unsigned)x >= MAP_WIDTH || (unsigned)y >= MAP_HEIGHT || blocked[y][x]) continue; /* one comes from there, facing d */
            const struct tile *t = &w->tiles[y][x];
            if (!(t->passable >> d & 1) || (t->flags & TILE_KIND) == TILE_WALL) continue;
            for (int f = 0; f < 8; f++) relax(&r, cost, (y * MAP_WIDTH + x) * 8 + f, now + 1 + path_turn_cost[turn_of(f, d)]);
        }
    }
}

void path_walk(const struct world *w, const struct point *goals, int count, const struct path_options *o, struct walk_field *out) {
    double start = clock_seconds();
    search(w, goals, count, o, out);
    path_spent += clock_seconds() - start;
}

int path_walk_step(const struct world *w, const struct walk_field *field, struct point from, int facing) {
    int best = -1, best_cost = unreachable;
    for (int i = 0; i < 8; i++) { /* the smallest turn first */
        int turn = (i + 1) / 2, d = (facing + (i % 2 ? turn : 8 - turn)) & 7;
        if (!tile_step_allowed(w, from, d)) continue;
        int on = field->cost[from.y + direction_dy[d]][from.x + direction_dx[d]][d];
        if (on != unreachable && on + path_turn_cost[turn] < best_cost) best = d, best_cost = on + path_turn_cost[turn];
    }
    return best;
}
