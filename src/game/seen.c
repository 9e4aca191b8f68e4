/* What a player could know: `now` is built from scratch at every update out of what the screen shows at this moment and what was
 * in `now` before, never by deleting from a full copy, so that nothing unseen can slip through (sheet, section 7, "Sight").
 *
 * In sight is a tile of which at least a third of height and width is on the screen, below the status line (11 columns and 6 full
 * rows around a standing leader, and the third of a row at the bottom; a monster there shows most of its body), and
 *   - on a lit floor: any such tile;
 *   - on a dark floor: one within the visibility range of the leader, or in his room or on its border.
 * Terrain is known where the game itself has marked it as shown (the map that the player sees). */
#include <stdlib.h>

#include "game/layout.h"
#include "game/ram.h"

/* All of struct world is assigned field by field into zeroed memory: worlds are compared as bytes. */
enum { TILE_PIXELS = 24, LEAST_PIXELS = 8, STATUS_LINE = 8, SHOWN_FLAGS = TILE_KIND | TILE_EXIT | TILE_BORDER | TILE_SHOP };

void world_seen_reset(struct world_seen *seen) {
    int serial = seen->floor_serial;
    memset(seen, 0, sizeof *seen);
    seen->floor_serial = serial;
    seen->now.leader = -1;
    seen->now.stairs = (struct point){-1, -1};
}

static int overlap(int low, int size, int from, int to) {
    int a = low > from ? low : from, b = low + size < to ? low + size : to;
    return b - a;
}

static bool on_screen(const struct world *w, struct point p) {
    int left = TILE_PIXELS * p.x - w->camera_pixel.x, top = TILE_PIXELS * p.y - w->camera_pixel.y;
    return overlap(left, TILE_PIXELS, 0, FRAME_WIDTH) >= LEAST_PIXELS && overlap(top, TILE_PIXELS, STATUS_LINE, FRAME_HEIGHT) >= LEAST_PIXELS;
}

static bool in_sight(const struct world *w, struct point p) {
    if (!on_screen(w, p)) return false;
    if (w->visibility_range == 0) return true;
    if (w->leader < 0) return false;
    struct point l = w->team[w->leader].at;
    if (abs(p.x - l.x) <= w->visibility_range && abs(p.y - l.y) <= w->visibility_range) return true;
    int number = w->tiles[l.y][l.x].room;
    if (number >= MAX_ROOMS) return false;
    const struct room *r = &w->rooms[number];
    return r->end_x > 0 && p.x >= r->min_x - 1 && p.x <= r->end_x && p.y >= r->min_y - 1 && p.y <= r->end_y;
}

static void see_tiles(struct world *now, const struct world *w) {
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) {
            const struct tile *t = &w->tiles[y][x];
            struct tile *to = &now->tiles[y][x];
            bool known = t->visibility & 1;
            to->flags = known ? t->flags & SHOWN_FLAGS : 0;
            to->visibility = known ? t->visibility : 0;
            to->room = known ? t->room : 255;
        }
    }
}

/* The corner rule on known tiles: unknown ones count as walls. */
static void work_out_steps(struct world *now) {
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) {
            struct tile *t = &now->tiles[y][x];
            if (!(t->visibility & 1)) continue;
            for (int d = 0; d < 8; d++) {
                struct point to = {(int16_t)(x + direction_dx[d]), (int16_t)(y + direction_dy[d])};
                if (!on_map(to)) continue;
                const struct tile *target = &now->tiles[to.y][to.x];
                if ((target->flags & TILE_KIND) != TILE_FLOOR || target->flags & TILE_BORDER) continue;
                if (d % 2 && ((now->tiles[y][to.x].flags & TILE_KIND) == TILE_WALL ||
                              (now->tiles[to.y][x].flags & TILE_KIND) == TILE_WALL)) continue;
                t->passable |= (uint8_t)(1 << d);
            }
        }
    }
}

static void see_stairs(struct world *now, const struct world *before, const struct world *w) {
    struct point s = w->stairs;
    bool shown = on_map(s) && (w->tiles[s.y][s.x].visibility & 1 || in_sight(w, s));
    now->stairs = shown ? s : before->stairs;
    if (!on_map(now->stairs)) {
        now->stairs = (struct point){-1, -1};
        return;
    }
    struct tile *t = &now->tiles[now->stairs.y][now->stairs.x];
    t->flags = (uint16_t)((t->flags & ~TILE_KIND) | TILE_FLOOR | TILE_STAIRS);
    t->visibility |= 1;
}

static uint16_t meeting_number(struct world_seen *seen, uint16_t spawn_id) {
    for (int i = 0; i < seen->met_count; i++) {
        if (seen->met[i] == spawn_id) return (uint16_t)(i + 1);
    }
    if (seen->met_count == sizeof seen->met / sizeof *seen->met) return (uint16_t)(seen->met_count + 1);
    seen->met[seen->met_count++] = spawn_id;
    return (uint16_t)seen->met_count;
}

static void forget_turns(struct monster *m) {
    for (int i = 0; i < m->status_count; i++) m->statuses[i].turns = 0;
}

static int place(struct point p) { return p.y * MAP_WIDTH + p.x; }
static int by_monster_place(const void *a, const void *b) {
    return place(((const struct monster *)a)->at) - place(((const struct monster *)b)->at);
}
static int by_item_place(const void *a, const void *b) {
    return place(((const struct floor_item *)a)->at) - place(((const struct floor_item *)b)->at);
}
static int by_trap_place(const void *a, const void *b) {
    return place(((const struct floor_trap *)a)->at) - place(((const struct floor_trap *)b)->at);
}

static void see_monsters(struct world_seen *seen, const struct world *w) {
    struct world *now = &seen->now;
    now->team_count = w->team_count;
    now->leader = w->leader;
    for (int i = 0; i < w->team_count; i++) {
        now->team[i] = w->team[i];
        now->team[i].spawn_id = 0;
        forget_turns(&now->team[i]);
    }
    /* Sorted before they are numbered: the order of slots tells when a foe came. */
    const struct monster *shown[MAX_WILD];
    int count = 0;
    for (int i = 0; i < w->foe_count; i++) {
        const struct monster *m = &w->foes[i];
        if (!m->visible || !in_sight(w, m->at)) continue;
        int k = count++;
        for (; k > 0 && by_monster_place(shown[k - 1], m) > 0; k--) shown[k] = shown[k - 1];
        shown[k] = m;
    }
    for (int i = 0; i < count; i++) {
        const struct monster *m = shown[i];
        struct monster *to = &now->foes[now->foe_count++];
        to->species = m->species;
        to->at = m->at;
        to->facing = m->facing;
        to->enemy = m->enemy;
        to->visible = true;
        to->shopkeeper = m->shopkeeper;
        to->client = m->client;
        to->status_count = m->status_count;
        memcpy(to->statuses, m->statuses, sizeof to->statuses);
        forget_turns(to);
        to->spawn_id = meeting_number(seen, m->spawn_id);
    }
}

/* Things lie still: what was seen and is out of sight now is remembered. */
static void see_things(struct world *now, const struct world *before, const struct world *w) {
    for (int i = 0; i < w->item_count; i++) {
        const struct floor_item *t = &w->items[i];
        bool buried = (w->tiles[t->at.y][t->at.x].flags & TILE_KIND) == TILE_WALL;
        if (!buried && in_sight(w, t->at)) now->items[now->item_count++] = *t;
    }
    for (int i = 0; i < before->item_count && now->item_count < MAX_FLOOR_ITEMS; i++) {
        if (!in_sight(w, before->items[i].at)) now->items[now->item_count++] = before->items[i];
    }
    for (int i = 0; i < w->trap_count; i++) {
        if (w->traps[i].visible && in_sight(w, w->traps[i].at)) now->traps[now->trap_count++] = w->traps[i];
    }
    for (int i = 0; i < before->trap_count && now->trap_count < MAX_TRAPS; i++) {
        if (!in_sight(w, before->traps[i].at)) now->traps[now->trap_count++] = before->traps[i];
    }
    qsort(now->items, (size_t)now->item_count, sizeof *now->items, by_item_place);
    qsort(now->traps, (size_t)now->trap_count, sizeof *now->traps, by_trap_place);
}

static void see_floor(struct world_seen *seen, const struct world *before, const struct world *w) {
    struct world *now = &seen->now;
    now->lit = w->lit;
    now->visibility_range = w->visibility_range;
    now->weather = w->weather;
    now->camera_pixel = w->camera_pixel;
    see_tiles(now, w);
    see_stairs(now, before, w);
    work_out_steps(now);
    for (int i = 0; i < w->room_count; i++) {
        if (w->rooms[i].discovered) now->rooms[i] = w->rooms[i], now->room_count = i + 1;
    }
    see_monsters(seen, w);
    see_things(now, before, w);
    now->log_count = w->log_count;
    memcpy(now->log, w->log, sizeof now->log);
}

void world_seen_update(struct world_seen *seen, const struct world *w) {
    bool on_floor = w->layout && w->address_dungeon && w->floor_live && w->state != STATE_UNREADABLE;
    uint16_t floor = (uint16_t)(w->dungeon << 8 | w->floor);
    if (on_floor && (seen->floor_serial == 0 || floor != seen->last_dungeon_floor || w->floor_seed != seen->last_floor_seed)) {
        world_seen_reset(seen);
        seen->floor_serial++;
        seen->last_dungeon_floor = floor;
        seen->last_floor_seed = w->floor_seed;
    }
    static const struct point nowhere = {-1, -1};
    struct world before;
    memcpy(&before, &seen->now, sizeof before);
    if (!seen->floor_serial) before.stairs = nowhere; /* a zeroed struct was handed over */
    struct world *now = &seen->now;
    memset(now, 0, sizeof *now);
    now->layout = w->layout;
    memcpy(now->title, w->title, sizeof now->title);
    memcpy(now->code, w->code, sizeof now->code);
    now->state = w->state;
    now->floor_live = w->floor_live;
    now->awaiting_player = w->awaiting_player;
    now->leader = -1;
    now->stairs = nowhere;
    now->money = w->money;
    now->has_bag = w->has_bag;
    now->bag_count = w->bag_count;
    memcpy(now->bag, w->bag, sizeof now->bag);
    now->dialogue_state = w->dialogue_state;
    now->dialogue_waits = w->dialogue_waits;
    memcpy(now->dialogue_text, w->dialogue_text, sizeof now->dialogue_text);
    memcpy(now->speaker, w->speaker, sizeof now->speaker);
    now->choice_count = w->choice_count;
    now->choice_cursor = w->choice_cursor;
    memcpy(now->choices, w->choices, sizeof now->choices);
    now->window_mode = w->window_mode;
    now->menu_cursor = w->menu_cursor;
    now->menu_page = w->menu_page;
    now->action_count = w->action_count;
    memcpy(now->actions, w->actions, sizeof now->actions);
    if (!on_floor) {
        /* Between floors nothing of the old one is shown, but a dialogue may interrupt the same floor: remember it. */
        now->stairs = before.stairs;
        now->item_count = before.item_count;
        memcpy(now->items, before.items, sizeof now->items);
        now->trap_count = before.trap_count;
        memcpy(now->traps, before.traps, sizeof now->traps);
        return;
    }
    now->dungeon = w->dungeon;
    now->floor = w->floor;
    now->floors = w->floors;
    see_floor(seen, &before, w);
    if (w->state != STATE_FIELD || w->leader < 0 || (seen->step && w->dungeon_frames == seen->last_frame)) return;
    struct point l = w->team[w->leader].at;
    seen->last_frame = w->dungeon_frames;
    seen->step++;
    if (seen->visits[l.y][l.x] < UINT16_MAX) seen->visits[l.y][l.x]++;
    seen->last_visit[l.y][l.x] = seen->step;
}
