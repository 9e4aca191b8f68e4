#include "agent/map_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/explore.h"

enum { FAR = 0xFFFF, END_GAP = 2 /* ends nearer to one another are one */, KEEP_FARTHER = 2, TEXT_ENDS = 4 };

void map_memory_reset(struct map_memory *m) {
    memset(m, 0, sizeof *m);
    m->goal = (struct point){-1, -1};
}

static void new_floor(struct map_memory *m, const struct world_seen *seen) {
    if (m->floor_count == MAP_FLOORS) {
        memmove(m->floors, m->floors + 1, (MAP_FLOORS - 1) * sizeof *m->floors);
        m->floor_count--;
    }
    m->floors[m->floor_count++] = (struct floor_memory){.stairs = {-1, -1}};
    m->serial = seen->floor_serial;
    memset(m->known_at, 0, sizeof m->known_at);
    m->last_new = m->steps = 0;
    m->goal = (struct point){-1, -1};
    m->rooms_been = 0;
}

void map_memory_update(struct map_memory *m, const struct world_seen *seen) {
    const struct world *w = &seen->now;
    if (!w->floor_live || !seen->floor_serial) return;
    if (m->serial != seen->floor_serial || !m->floor_count) new_floor(m, seen);
    struct floor_memory *f = &m->floors[m->floor_count - 1];
    int before = f->known;
    m->steps++;
    f->floor = (int16_t)w->floor;
    f->known = f->open = f->visited = 0;
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) {
            const struct tile *t = &w->tiles[y][x];
            f->visited += seen->visits[y][x] > 0;
            if (!(t->visibility & 1)) continue;
            f->known++;
            f->open += (t->flags & TILE_KIND) == TILE_FLOOR;
            if (!m->known_at[y][x]) m->known_at[y][x] = m->steps;
        }
    }
    if (f->known > before) m->last_new = m->steps;
    f->steps = (int)seen->step;
    f->rooms = 0;
    for (int i = 0; i < w->room_count; i++) f->rooms += w->rooms[i].end_x > 0;
    f->items = w->item_count > f->items ? w->item_count : f->items;
    f->foes = seen->met_count;
    f->stairs = w->stairs;
    const struct monster *l = world_leader(w);
    int room = l ? w->tiles[l->at.y][l->at.x].room : 255;
    if (room < 64) m->rooms_been |= 1ull << room;
}

static int eighth(int dx, int dy) {
    int ax = abs(dx), ay = abs(dy), sx = 2 * ax >= ay ? (dx > 0) - (dx < 0) : 0, sy = 2 * ay >= ax ? (dy > 0) - (dy < 0) : 0;
    for (int d = 0; d < 8; d++) {
        if (direction_dx[d] == sx && direction_dy[d] == sy) return d;
    }
    return 0;
}

static int by_steps(const void *a, const void *b) { return ((const struct map_end *)a)->steps - ((const struct map_end *)b)->steps; }

int map_ends(const struct world *w, struct map_end *out, int max) {
    const struct monster *l = world_leader(w);
    static const struct path_options plain;
    struct distance_field from;
    int n = 0;
    if (!l) return 0;
    path_distances(w, &l->at, 1, &plain, &from);
    for (int y = 1; y < MAP_HEIGHT - 1 && n < max; y++) {
        for (int x = 1; x < MAP_WIDTH - 1 && n < max; x++) {
            if (!from.steps[y][x] || from.steps[y][x] == FAR || !tile_is_frontier(w, x, y)) continue;
            out[n++] = (struct map_end){{(int16_t)x, (int16_t)y}, from.steps[y][x], eighth(x - l->at.x, y - l->at.y)};
        }
    }
    qsort(out, (size_t)n, sizeof *out, by_steps);
    return n;
}

/* Of ends close together the nearest. */
static int thin_out(struct map_end *ends, int n) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        bool near = false;
        for (int k = 0; k < kept && !near; k++) {
            near = abs(ends[k].at.x - ends[i].at.x) <= END_GAP && abs(ends[k].at.y - ends[i].at.y) <= END_GAP;
        }
        if (!near) ends[kept++] = ends[i]; /* kept <= i: never ahead of what is read */
    }
    return kept;
}

bool map_memory_keeps(const struct map_memory *m, const struct map_end *ends, int count) {
    for (int i = 0; i < count; i++) {
        if (ends[i].at.x == m->goal.x && ends[i].at.y == m->goal.y) return ends[i].steps <= ends[0].steps + KEEP_FARTHER;
    }
    return false;
}

/* Open tiles within reach that were never stood on, by direction: the nearest in each eighth of the circle that was not entered. */
static void not_been(const struct world_seen *seen, struct buf *out) {
    const struct world *w = &seen->now;
    const struct monster *l = world_leader(w);
    int steps[8];
    struct distance_field from;
    static const struct path_options plain;
    for (int d = 0; d < 8; d++) steps[d] = FAR;
    path_distances(w, &l->at, 1, &plain, &from);
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) {
            if (seen->visits[y][x] || !from.steps[y][x] || from.steps[y][x] == FAR) continue;
            int d = eighth(x - l->at.x, y - l->at.y);
            if (from.steps[y][x] < steps[d]) steps[d] = from.steps[y][x];
        }
    }
    for (int d = 0, n = 0; d < 8; d++) {
        if (steps[d] != FAR) buf_printf(out, "%s%s %d", n++ ? ", " : "not been ", direction_name[d], steps[d]);
    }
}

void map_memory_text(const struct map_memory *m, const struct world_seen *seen, char *out, size_t cap) {
    struct map_end ends[MAP_ENDS];
    struct buf text = {0};
    *out = 0;
    if (!world_leader(&seen->now)) return;
    int n = thin_out(ends, map_ends(&seen->now, ends, MAP_ENDS));
    if (m && m->floor_count) {
        const struct floor_memory *f = &m->floors[m->floor_count - 1];
        buf_printf(&text, "known %d tiles, been on %d; ", f->known, f->visited);
    }
    for (int i = 0; i < n && i < TEXT_ENDS; i++) buf_printf(&text, "%s%s %d", i ? ", " : "unknown ", direction_name[ends[i].direction], ends[i].steps);
    if (n) buf_str(&text, "; ");
    not_been(seen, &text);
    while (text.len && (text.data[text.len - 1] == ' ' || text.data[text.len - 1] == ';')) text.data[--text.len] = 0;
    if (!text.failed && text.len) snprintf(out, cap, "%s", text.data);
    buf_free(&text);
}
