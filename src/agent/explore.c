#include "agent/explore.h"

#include <limits.h>

enum { ITEM_DETOUR = 4, FAR = 0xFFFF };

static bool open_tile(const struct world *w, int x, int y) {
    const struct tile *t = &w->tiles[y][x];
    return (t->visibility & 1) && (t->flags & TILE_KIND) == TILE_FLOOR && !(t->flags & TILE_BORDER);
}

/* Corridors turn at right angles, so the four straight neighbours are enough; the outermost ring is never open. */
bool tile_is_frontier(const struct world *w, int x, int y) {
    if (!open_tile(w, x, y)) return false;
    for (int d = 0; d < 8; d += 2) {
        int nx = x + direction_dx[d], ny = y + direction_dy[d];
        if (nx < 1 || ny < 1 || nx >= MAP_WIDTH - 1 || ny >= MAP_HEIGHT - 1) continue;
        if (!(w->tiles[ny][nx].visibility & 1)) return true;
    }
    return false;
}

static bool same(struct point a, struct point b) { return a.x == b.x && a.y == b.y; }

/* Foes never block: they are fought when they are reached; turning back from each one that comes along leads nowhere. Known traps
 * are stepped on only when there is no other way. */
static struct path_options path_of(bool avoid_traps) { return (struct path_options){.avoid_traps = avoid_traps}; }

/* Steps from one tile to every other. */
static void distances_from(const struct world *w, struct point at, bool avoid_traps, struct distance_field *out) {
    struct path_options o = path_of(avoid_traps);
    path_distances(w, &at, 1, &o, out);
}

/* First step of a shortest way; of several, the one that ends nearest to the goal as the crow flies: the choice then follows from what
 * is to be seen and not from how the leader came here. */
static int step_to(const struct world *w, struct point from, struct point goal, int prefer, bool avoid_traps) {
    struct path_options o = path_of(avoid_traps);
    struct distance_field field;
    distances_from(w, goal, avoid_traps, &field);
    int any = path_step(w, &field, from, prefer, &o), best = any, best_square = INT_MAX;
    if (any < 0) return -1;
    int steps = field.steps[from.y + direction_dy[any]][from.x + direction_dx[any]];
    for (int i = 0; i < 8; i++) {
        int d = (prefer + i) & 7, x = from.x + direction_dx[d], y = from.y + direction_dy[d];
        if (!tile_step_allowed(w, from, d) || field.steps[y][x] != steps) continue;
        int square = (goal.x - x) * (goal.x - x) + (goal.y - y) * (goal.y - y);
        if (square < best_square) best = d, best_square = square;
    }
    return best;
}

static bool on_map(struct point p) { return p.x >= 0 && p.y >= 0 && p.x < MAP_WIDTH && p.y < MAP_HEIGHT; }

/* The nearest tile where the map ends. Nothing is remembered from step to step: a model can learn the choice from the picture alone,
 * and a step towards the nearest one leaves it the nearest. */
static bool find_frontier(const struct world *w, const struct distance_field *from, struct point *out) {
    int best = FAR;
    for (int ty = 1; ty < MAP_HEIGHT - 1; ty++) {
        for (int tx = 1; tx < MAP_WIDTH - 1; tx++) {
            int steps = from->steps[ty][tx];
            if (steps && steps < best && tile_is_frontier(w, tx, ty)) best = steps, *out = (struct point){(int16_t)tx, (int16_t)ty};
        }
    }
    return best != FAR;
}

/* Everything is explored: where nobody has been for longest. */
static bool find_least_visited(const struct world *w, const struct world_seen *seen, const struct distance_field *from, struct point *out) {
    uint64_t best = UINT64_MAX;
    for (int ty = 1; ty < MAP_HEIGHT - 1; ty++) {
        for (int tx = 1; tx < MAP_WIDTH - 1; tx++) {
            if (!from->steps[ty][tx] || from->steps[ty][tx] == FAR || !open_tile(w, tx, ty)) continue;
            uint64_t score = (uint64_t)seen->visits[ty][tx] << 40 | (uint64_t)seen->last_visit[ty][tx] << 16 | from->steps[ty][tx];
            if (score < best) best = score, *out = (struct point){(int16_t)tx, (int16_t)ty};
        }
    }
    return best != UINT64_MAX;
}

/* A thing on the floor worth a small detour on the way to the goal. Money buys nothing here. */
static bool find_item(const struct world *w, const struct distance_field *from, struct point goal, bool avoid_traps, struct point *out) {
    struct distance_field to;
    int direct = from->steps[goal.y][goal.x], best = ITEM_DETOUR + 1;
    if (!w->item_count || w->bag_count >= MAX_BAG) return false;
    distances_from(w, goal, avoid_traps, &to);
    for (int i = 0; i < w->item_count; i++) {
        struct point p = w->items[i].at;
        enum item_use use = game_item_use(w->layout, w->items[i].id);
        if (use == ITEM_USE_NONE || w->items[i].shop || !on_map(p)) continue;
        int there = from->steps[p.y][p.x], on = to.steps[p.y][p.x];
        if (!there || there == FAR || on == FAR) continue;
        int detour = there + on - direct;
        if (detour < best) best = detour, *out = p;
    }
    return best <= ITEM_DETOUR;
}

static int step_aside(const struct world *w, const struct monster *l) {
    for (int i = 0; i < 8; i++) {
        int d = (l->facing + i) & 7;
        if (tile_step_allowed(w, l->at, d) && !foe_at(w, l->at.x + direction_dx[d], l->at.y + direction_dy[d])) return d;
    }
    return -1;
}

/* What to walk to; false: nothing can be reached. */
static bool find_goal(const struct world *w, const struct world_seen *seen, bool all, struct distance_field *from, struct point *goal,
                      bool *avoid_traps, const char **why) {
    struct point at = world_leader(w)->at;
    bool stairs = on_map(w->stairs);
    for (int pass = 0; pass < 4; pass++) { /* the stairs around traps, over traps, then the same for the unknown */
        *avoid_traps = pass % 2 == 0;
        distances_from(w, at, *avoid_traps, from);
        if (pass < 2) {
            if (stairs && from->steps[w->stairs.y][w->stairs.x] != FAR) return *goal = w->stairs, *why = "to the stairs", true;
        } else if (!all && find_frontier(w, from, goal)) {
            return *why = "exploring", true;
        }
    }
    return *why = "searching again", find_least_visited(w, seen, from, goal);
}

int explore_step(const struct world *w, const struct world_seen *seen, bool all, const char **reason) {
    const struct monster *l = world_leader(w);
    const char *unused, **why = reason ? reason : &unused;
    struct distance_field from;
    struct point goal, item;
    bool avoid_traps;
    if (same(l->at, w->stairs)) return *why = "off the stairs, to step on them again", step_aside(w, l);
    if (!find_goal(w, seen, all, &from, &goal, &avoid_traps, why)) return *why = "there is no way to go", step_aside(w, l);
    if (!all && find_item(w, &from, goal, avoid_traps, &item)) goal = item, *why = "fetching what lies there";
    return step_to(w, l->at, goal, l->facing, avoid_traps);
}
