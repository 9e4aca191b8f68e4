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

enum { MOST_GOALS = MAP_WIDTH * MAP_HEIGHT };
struct goals { struct point at[MOST_GOALS]; int count; };

static bool on_map(struct point p) { return p.x >= 0 && p.y >= 0 && p.x < MAP_WIDTH && p.y < MAP_HEIGHT; }

/* The tiles where the map ends. Of goals about equally near the one ahead is taken (path_walk): what is faced is the only thing kept from
 * step to step, so a model can learn the choice from the picture alone, and its rough estimate of distances does not lead it to and fro. */
static bool find_frontier(const struct world *w, const struct distance_field *from, struct goals *out) {
    out->count = 0;
    for (int ty = 1; ty < MAP_HEIGHT - 1; ty++) {
        for (int tx = 1; tx < MAP_WIDTH - 1; tx++) {
            int steps = from->steps[ty][tx];
            if (steps && steps != FAR && tile_is_frontier(w, tx, ty)) out->at[out->count++] = (struct point){(int16_t)tx, (int16_t)ty};
        }
    }
    return out->count > 0;
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

/* A thing on the floor worth a small detour on the way to the goals. Money buys nothing here. */
static bool find_item(const struct world *w, const struct distance_field *from, const struct goals *goals, bool avoid_traps, struct point *out) {
    const struct monster *l = world_leader(w);
    struct path_options o = path_of(avoid_traps);
    struct distance_field to;
    if (!w->item_count || w->bag_count >= MAX_BAG) return false;
    path_distances(w, goals->at, goals->count, &o, &to);
    int direct = to.steps[l->at.y][l->at.x], best = ITEM_DETOUR + 1;
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
static bool find_goals(const struct world *w, const struct world_seen *seen, bool all, struct distance_field *from, struct goals *goals,
                       bool *avoid_traps, const char **why) {
    struct point at = world_leader(w)->at;
    bool stairs = on_map(w->stairs);
    for (int pass = 0; pass < 4; pass++) { /* the stairs around traps, over traps, then the same for the unknown */
        *avoid_traps = pass % 2 == 0;
        distances_from(w, at, *avoid_traps, from);
        if (pass < 2) {
            goals->at[0] = w->stairs, goals->count = 1;
            if (stairs && from->steps[w->stairs.y][w->stairs.x] != FAR) return *why = "to the stairs", true;
        } else if (!all && find_frontier(w, from, goals)) {
            return *why = "exploring", true;
        }
    }
    goals->count = 1;
    return *why = "searching again", find_least_visited(w, seen, from, goals->at);
}

int explore_step(const struct world *w, const struct world_seen *seen, bool all, const char **reason) {
    const struct monster *l = world_leader(w);
    const char *unused, **why = reason ? reason : &unused;
    struct distance_field from;
    struct walk_field to;
    struct goals goals;
    struct point item;
    bool avoid_traps;
    if (same(l->at, w->stairs)) return *why = "off the stairs, to step on them again", step_aside(w, l);
    if (!find_goals(w, seen, all, &from, &goals, &avoid_traps, why)) return *why = "there is no way to go", step_aside(w, l);
    struct path_options o = path_of(avoid_traps);
    if (!all && find_item(w, &from, &goals, avoid_traps, &item)) {
        goals.at[0] = item, goals.count = 1;
        *why = "fetching what lies there";
    }
    path_walk(w, goals.at, goals.count, &o, &to);
    return path_walk_step(w, &to, l->at, l->facing);
}
