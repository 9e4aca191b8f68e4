/* The step message: {"type":"step", "game", "index", every field of the trajectory line, "world"}. So what a run records, the page
 * can show, live and recorded alike. */
#include <string.h>

#include "serve/dash_room.h"

static void put_text(struct buf *b, const char *key, const char *s) {
    buf_printf(b, ",\"%s\":", key);
    buf_json_string(b, s, strlen(s));
}

static void put_monster(struct buf *b, const struct world *w, const struct monster *m, bool team, bool seen) {
    buf_printf(b, "{\"x\":%d,\"y\":%d,\"facing\":%d,\"seen\":%s", m->at.x, m->at.y, m->facing & 7, seen ? "true" : "false");
    put_text(b, "name", game_species_name(w->layout, m->species));
    if (m->max_hp > 0) buf_printf(b, ",\"hp\":%d,\"max_hp\":%d,\"level\":%d", m->hp, m->max_hp, m->level);
    if (team) buf_printf(b, ",\"leader\":%s,\"belly\":%d,\"max_belly\":%d,\"exp\":%d", m->leader ? "true" : "false", m->belly, m->max_belly, m->exp);
    for (int i = 0; i < m->status_count; i++) {
        const char *name = game_status_name(m->statuses[i].slot, m->statuses[i].value);
        buf_str(b, i ? "," : ",\"statuses\":[");
        buf_json_string(b, name, strlen(name));
    }
    buf_str(b, m->status_count ? "]}" : "}");
}

static bool has_foe(const struct world *w, const struct monster *m) {
    for (int i = 0; w && i < w->foe_count; i++) {
        if (w->foes[i].at.x == m->at.x && w->foes[i].at.y == m->at.y) return true;
    }
    return false;
}

static bool has_item(const struct world *w, struct point at) {
    for (int i = 0; w && i < w->item_count; i++) {
        if (w->items[i].at.x == at.x && w->items[i].at.y == at.y) return true;
    }
    return false;
}

static void put_creatures(struct buf *b, const struct world *w, const struct world *known) {
    buf_str(b, ",\"team\":[");
    for (int i = 0; i < w->team_count; i++) {
        if (i) buf_char(b, ',');
        put_monster(b, w, &w->team[i], true, true);
    }
    buf_str(b, "],\"foes\":[");
    for (int i = 0; i < w->foe_count; i++) {
        if (i) buf_char(b, ',');
        put_monster(b, w, &w->foes[i], false, !known || has_foe(known, &w->foes[i]));
    }
    buf_char(b, ']');
}

static void put_things(struct buf *b, const struct world *w, const struct world *known) {
    buf_str(b, ",\"items\":[");
    for (int i = 0; i < w->item_count; i++) {
        const struct floor_item *t = &w->items[i];
        buf_printf(b, "%s{\"x\":%d,\"y\":%d,\"quantity\":%d,\"seen\":%s", i ? "," : "", t->at.x, t->at.y, t->quantity,
                   !known || has_item(known, t->at) ? "true" : "false");
        put_text(b, "name", game_item_name(w->layout, t->id));
        buf_char(b, '}');
    }
    buf_str(b, "],\"traps\":[");
    for (int i = 0, n = 0; i < w->trap_count; i++) {
        buf_printf(b, "%s{\"x\":%d,\"y\":%d,\"seen\":%s", n++ ? "," : "", w->traps[i].at.x, w->traps[i].at.y, w->traps[i].visible ? "true" : "false");
        put_text(b, "name", game_trap_name(w->layout, w->traps[i].id));
        buf_char(b, '}');
    }
    buf_str(b, "],\"bag\":[");
    for (int i = 0; i < w->bag_count; i++) {
        buf_printf(b, "%s{\"quantity\":%d", i ? "," : "", w->bag[i].quantity);
        put_text(b, "name", game_item_name(w->layout, w->bag[i].id));
        buf_char(b, '}');
    }
    buf_char(b, ']');
}

/* Two strings of 56 * 32 characters: the ground (# wall, . floor, ~ water, > stairs), and what is known of it (0 nothing, 1 seen on
 * the map, 2 and 3 looked at). */
static void put_map(struct buf *b, const struct world *w, const struct world *known) {
    char ground[MAP_WIDTH * MAP_HEIGHT + 1], fog[MAP_WIDTH * MAP_HEIGHT + 1];
    for (int y = 0, i = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++, i++) {
            const struct tile *t = &w->tiles[y][x];
            int kind = t->flags & TILE_KIND;
            ground[i] = t->flags & TILE_STAIRS ? '>' : kind == TILE_FLOOR && !(t->flags & TILE_BORDER) ? '.' : kind == TILE_LIQUID ? '~' : '#';
            fog[i] = (char)('0' + ((known ? known : w)->tiles[y][x].visibility & 3));
        }
    }
    buf_printf(b, ",\"width\":%d,\"height\":%d,\"ground\":\"%.*s\",\"known\":\"%.*s\"", MAP_WIDTH, MAP_HEIGHT, MAP_WIDTH * MAP_HEIGHT, ground,
               MAP_WIDTH * MAP_HEIGHT, fog);
    if (w->stairs.x >= 0) buf_printf(b, ",\"stairs\":[%d,%d,%s]", w->stairs.x, w->stairs.y, !known || known->stairs.x >= 0 ? "true" : "false");
}

static void put_world(struct buf *b, const struct world *w, const struct world_seen *seen) {
    const struct world *known = seen ? &seen->now : NULL;
    buf_printf(b, ",\"world\":{\"state\":\"%s\",\"floor\":%d,\"floors\":%d,\"turns_left\":%d,\"money\":%d", game_state_name[w->state], w->floor, w->floors,
               w->turn_limit_left, w->money);
    if (w->floor) put_text(b, "dungeon", game_dungeon_name(w->layout, w->dungeon));
    put_creatures(b, w, known);
    if (w->floor_live) {
        put_things(b, w, known);
        put_map(b, w, known);
    }
    if (*w->dialogue_text) put_text(b, "dialogue", w->dialogue_text);
    buf_str(b, ",\"log\":[");
    int first = w->log_count > 4 ? w->log_count - 4 : 0;
    for (int i = first; i < w->log_count; i++) {
        if (i > first) buf_char(b, ',');
        buf_json_string(b, w->log[i], strlen(w->log[i]));
    }
    buf_str(b, "]}");
}

void dash_put_world(struct buf *b, int game, const struct world *w, const struct world_seen *seen) {
    buf_printf(b, "{\"type\":\"world\",\"game\":%d", game);
    put_world(b, w, seen);
    buf_char(b, '}');
}

void dash_put_step(struct buf *b, int game, uint32_t index, const char *json, const struct world *w, const struct world_seen *seen) {
    size_t n = json ? strlen(json) : 0;
    while (n && json[n - 1] == '\n') n--;
    if (n && json[n - 1] == '}') n--; /* more members follow */
    buf_printf(b, "{\"type\":\"step\",\"game\":%d,\"index\":%u", game, index);
    if (n > 1) {
        buf_char(b, ',');
        buf_append(b, json + 1, n - 1);
    }
    if (w) put_world(b, w, seen);
    buf_char(b, '}');
}
