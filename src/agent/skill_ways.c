#include "agent/skill_ways.h"

#include <stdlib.h>

enum { FAR = 0xFFFF };

static bool same(struct point a, struct point b) { return a.x == b.x && a.y == b.y; }
static bool inside(struct point p) { return p.x >= 0 && p.y >= 0 && p.x < MAP_WIDTH && p.y < MAP_HEIGHT; }

int foe_beside(const struct world *w) {
    const struct monster *l = world_leader(w);
    for (int turn = 0; l && turn <= 4; turn++) {
        for (int side = 0; side < 2; side++) {
            int d = (l->facing + (side ? 8 - turn : turn)) & 7;
            if (foe_at(w, l->at.x + direction_dx[d], l->at.y + direction_dy[d]) && tile_attack_allowed(w, l->at, d)) return d;
        }
    }
    return -1;
}

int ally_beside(const struct world *w) {
    const struct monster *l = world_leader(w);
    for (int d = 0; l && d < 8; d++) {
        struct point p = {(int16_t)(l->at.x + direction_dx[d]), (int16_t)(l->at.y + direction_dy[d])};
        for (int i = 0; i < w->team_count; i++) {
            if (i != w->leader && w->team[i].hp > 0 && same(w->team[i].at, p) && tile_attack_allowed(w, l->at, d)) return d;
        }
    }
    return -1;
}

static int nearest_foe(const struct world *w, struct point p) {
    int best = FAR;
    for (int i = 0; i < w->foe_count; i++) {
        int dx = abs(w->foes[i].at.x - p.x), dy = abs(w->foes[i].at.y - p.y), far = dx > dy ? dx : dy;
        if (far < best) best = far;
    }
    return best;
}

int step_away(const struct world *w) {
    const struct monster *l = world_leader(w);
    if (!l || !w->foe_count) return -1;
    int best = -1, best_score = nearest_foe(w, l->at) * 16;
    for (int i = 0; i < 8; i++) {
        int d = (l->facing + i) & 7;
        struct point p = {(int16_t)(l->at.x + direction_dx[d]), (int16_t)(l->at.y + direction_dy[d])};
        if (!tile_step_allowed(w, l->at, d) || foe_at(w, p.x, p.y)) continue;
        int exits = 0; /* a dead end is no refuge */
        for (int e = 0; e < 8; e++) exits += tile_step_allowed(w, p, e);
        int score = nearest_foe(w, p) * 16 + exits;
        if (score >= best_score + 16 || (best >= 0 && score > best_score)) best = d, best_score = score;
    }
    return best;
}

/* First step of a shortest way; of several, the one that ends nearest to the goal as the crow flies. Foes are walked around where
 * there is a way around them, known traps too. */
static bool step_on(const struct world *w, struct point goal, struct way *out) {
    const struct monster *l = world_leader(w);
    for (int pass = 0; pass < 4; pass++) {
        struct path_options o = {.avoid_traps = pass % 2 == 0, .foes_block = pass < 2};
        struct distance_field to;
        path_distances(w, &goal, 1, &o, &to);
        int steps = to.steps[l->at.y][l->at.x], any = path_step(w, &to, l->at, l->facing, &o);
        if (steps == FAR || any < 0) continue;
        int best = any, best_square = 1 << 30, next = to.steps[l->at.y + direction_dy[any]][l->at.x + direction_dx[any]];
        for (int i = 0; i < 8; i++) {
            int d = (l->facing + i) & 7, x = l->at.x + direction_dx[d], y = l->at.y + direction_dy[d];
            if (!tile_step_allowed(w, l->at, d) || to.steps[y][x] != next || (o.foes_block && foe_at(w, x, y))) continue;
            int square = (goal.x - x) * (goal.x - x) + (goal.y - y) * (goal.y - y);
            if (square < best_square) best = d, best_square = square;
        }
        *out = (struct way){.goal = goal, .direction = best, .steps = steps};
        return true;
    }
    return false;
}

static bool to_tile(const struct world *w, struct point goal, struct way *out) {
    const struct monster *l = world_leader(w);
    if (!inside(goal)) return false;
    if (same(goal, l->at)) return *out = (struct way){.goal = goal, .direction = -1}, true;
    return step_on(w, goal, out);
}

/* Worth having: everything that has a use. Money buys nothing here. */
static bool worth(const struct world *w, const struct floor_item *i) {
    return game_item_use(w->layout, i->id) != ITEM_USE_NONE && !i->shop && inside(i->at) && !same(i->at, world_leader(w)->at);
}

static void steps_from(const struct world *w, struct point at, struct distance_field *out) {
    static const struct path_options plain = {.avoid_traps = true};
    path_distances(w, &at, 1, &plain, out);
}

static bool nearest_item(const struct world *w, struct point *out) {
    struct distance_field from;
    int best = FAR;
    if (!w->item_count || w->bag_count >= MAX_BAG) return false;
    steps_from(w, world_leader(w)->at, &from);
    for (int i = 0; i < w->item_count; i++) {
        struct point p = w->items[i].at;
        if (worth(w, &w->items[i]) && from.steps[p.y][p.x] < best) best = from.steps[p.y][p.x], *out = p;
    }
    return best != FAR;
}

/* The nearest monster of a list that can be walked to. */
static bool nearest_monster(const struct world *w, const struct monster *list, int count, int skip, struct way *out) {
    struct distance_field from;
    struct point goal = {-1, -1};
    int best = FAR;
    steps_from(w, world_leader(w)->at, &from);
    for (int i = 0; i < count; i++) {
        struct point p = list[i].at;
        if (i == skip || list[i].shopkeeper || !inside(p) || from.steps[p.y][p.x] >= best) continue;
        best = from.steps[p.y][p.x], goal = p;
    }
    if (best == FAR || !to_tile(w, goal, out)) return false;
    out->beside = true;
    if (best <= 1) out->direction = -1;
    return true;
}

/* Everything is explored: where nobody has been for longest; without a memory of that, the open tile farthest away. */
static bool least_visited(const struct situation *s, struct point *out) {
    const struct world *w = &s->seen->now;
    struct distance_field from;
    uint64_t best = UINT64_MAX;
    steps_from(w, world_leader(w)->at, &from);
    for (int y = 1; y < MAP_HEIGHT - 1; y++) {
        for (int x = 1; x < MAP_WIDTH - 1; x++) {
            uint64_t steps = from.steps[y][x];
            if (!steps || steps == FAR || (w->tiles[y][x].flags & TILE_KIND) != TILE_FLOOR) continue;
            uint64_t score = s->map ? (uint64_t)s->seen->visits[y][x] << 40 | (uint64_t)s->seen->last_visit[y][x] << 16 | steps : FAR - steps;
            if (score < best) best = score, *out = (struct point){(int16_t)x, (int16_t)y};
        }
    }
    return best != UINT64_MAX;
}

/* The way to an end of the map. Turning costs (path_walk), so that of ends about equally near the one ahead is taken and stays taken; the end
 * that map memory keeps is left only for one that is clearly nearer. */
static bool to_unknown(const struct situation *s, struct way *out) {
    static _Thread_local struct map_end ends[MAP_ENDS];
    static _Thread_local struct point goals[MAP_ENDS];
    static _Thread_local struct walk_field to;
    const struct world *w = &s->seen->now;
    const struct monster *l = world_leader(w);
    struct point goal;
    int n = map_ends(w, ends, MAP_ENDS);
    if (!n) return least_visited(s, &goal) && to_tile(w, goal, out);
    for (int i = 0; i < n; i++) goals[i] = ends[i].at;
    bool keep = s->map && map_memory_keeps(s->map, ends, n);
    if (keep) goals[0] = s->map->goal, n = 1;
    for (int pass = 0; pass < 2; pass++) {
        struct path_options o = {.avoid_traps = pass == 0};
        path_walk(w, goals, n, &o, &to);
        int d = path_walk_step(w, &to, l->at, l->facing);
        if (d < 0) continue;
        *out = (struct way){.goal = l->at, .direction = d};
        for (int facing = l->facing, steps = 0; steps < MAP_WIDTH * MAP_HEIGHT; steps++) { /* to the end of the way */
            int next = path_walk_step(w, &to, out->goal, facing);
            if (next < 0 || to.cost[out->goal.y][out->goal.x][facing] == 0) break;
            out->goal = (struct point){(int16_t)(out->goal.x + direction_dx[next]), (int16_t)(out->goal.y + direction_dy[next])};
            out->steps++;
            facing = next;
        }
        return true;
    }
    return false;
}

static bool step_aside(const struct world *w, struct way *out) {
    const struct monster *l = world_leader(w);
    for (int i = 0; i < 8; i++) {
        int d = (l->facing + i) & 7;
        struct point p = {(int16_t)(l->at.x + direction_dx[d]), (int16_t)(l->at.y + direction_dy[d])};
        if (tile_step_allowed(w, l->at, d) && !foe_at(w, p.x, p.y)) return *out = (struct way){.goal = p, .direction = d, .steps = 1}, true;
    }
    return false;
}

bool way_to(enum skill_target target, const struct situation *s, struct way *out) {
    const struct world *w = &s->seen->now;
    const struct monster *l = world_leader(w);
    struct point goal;
    int d;
    if (!l) return false;
    switch (target) {
    case TARGET_STAIRS:
        if (same(l->at, w->stairs)) return step_aside(w, out); /* the prompt was closed: step on them again */
        return to_tile(w, w->stairs, out);
    case TARGET_UNKNOWN: return to_unknown(s, out) || step_aside(w, out);
    case TARGET_ITEM: return nearest_item(w, &goal) && to_tile(w, goal, out);
    case TARGET_FOE: return nearest_monster(w, w->foes, w->foe_count, -1, out);
    case TARGET_ALLY: return nearest_monster(w, w->team, w->team_count, w->leader, out);
    case TARGET_TILE: return to_tile(w, (struct point){(int16_t)s->argument[0], (int16_t)s->argument[1]}, out);
    case TARGET_AWAY:
        if ((d = step_away(w)) < 0) return false;
        *out = (struct way){.goal = {(int16_t)(l->at.x + direction_dx[d]), (int16_t)(l->at.y + direction_dy[d])}, .direction = d, .steps = 1};
        return true;
    default: return false;
    }
}

void way_plan(const struct world *w, const struct way *way, struct plan *out) {
    const struct monster *l = world_leader(w);
    out->goal = way->goal;
    out->count = 0;
    if (!l || !inside(way->goal)) return;
    for (int pass = 0; pass < 4 && !out->count; pass++) {
        struct path_options o = {.avoid_traps = pass % 2 == 0, .foes_block = pass < 2};
        struct distance_field to;
        path_distances(w, &way->goal, 1, &o, &to);
        if (to.steps[l->at.y][l->at.x] == FAR) continue;
        struct point at = l->at;
        int d = way->direction; /* the step that is taken now; the rest goes straight on where it can */
        while (d >= 0 && out->count < MAX_PLAN) {
            at = (struct point){(int16_t)(at.x + direction_dx[d]), (int16_t)(at.y + direction_dy[d])};
            out->path[out->count++] = at;
            d = same(at, way->goal) ? -1 : path_step(w, &to, at, d, &o);
        }
    }
}
