/* A world as one JSON object. The keys are a contract: see the help of `pmd-agent world`. */
#include "game/layout.h"
#include "game/ram.h"

static void key(struct buf *b, const char *name) {
    if (b->len && b->data[b->len - 1] != '{' && b->data[b->len - 1] != '[') buf_char(b, ',');
    buf_json_string(b, name, strlen(name));
    buf_char(b, ':');
}
static void next(struct buf *b) {
    if (b->data[b->len - 1] != '[') buf_char(b, ',');
}
static void string(struct buf *b, const char *name, const char *v) {
    key(b, name);
    buf_json_string(b, v, strlen(v));
}
static void integer(struct buf *b, const char *name, long v) {
    key(b, name);
    buf_printf(b, "%ld", v);
}
static void boolean(struct buf *b, const char *name, bool v) {
    key(b, name);
    buf_str(b, v ? "true" : "false");
}

static void print_monster(const struct world *w, const struct monster *m, bool team, struct buf *b) {
    next(b);
    buf_char(b, '{');
    integer(b, "species", m->species);
    string(b, "species_name", game_species_name(w->layout, m->species));
    integer(b, "level", m->level);
    integer(b, "hp", m->hp);
    integer(b, "max_hp", m->max_hp);
    integer(b, "x", m->at.x);
    integer(b, "y", m->at.y);
    string(b, "direction", direction_name[m->facing & 7]);
    key(b, "moves");
    buf_char(b, '[');
    for (int i = 0; i < m->move_count; i++) {
        next(b);
        buf_char(b, '{');
        integer(b, "id", m->moves[i].id);
        string(b, "name", game_move_name(w->layout, m->moves[i].id));
        integer(b, "pp", m->moves[i].pp);
        buf_char(b, '}');
    }
    buf_char(b, ']');
    key(b, "statuses");
    buf_char(b, '[');
    for (int i = 0; i < m->status_count; i++) {
        const char *name = game_status_name(m->statuses[i].slot, m->statuses[i].value);
        next(b);
        buf_json_string(b, name, strlen(name));
    }
    buf_char(b, ']');
    key(b, "held");
    if (m->held.id) {
        buf_char(b, '{');
        integer(b, "id", m->held.id);
        string(b, "name", game_item_name(w->layout, m->held.id));
        buf_char(b, '}');
    } else {
        buf_str(b, "null");
    }
    if (team) {
        integer(b, "belly", m->belly);
        integer(b, "max_belly", m->max_belly);
        integer(b, "exp", m->exp);
        integer(b, "iq", m->iq);
    }
    buf_char(b, '}');
}

static void print_item(const struct world *w, int id, int quantity, const struct point *at, struct buf *b) {
    next(b);
    buf_char(b, '{');
    integer(b, "id", id);
    string(b, "name", game_item_name(w->layout, id));
    integer(b, "quantity", quantity);
    if (at) integer(b, "x", at->x), integer(b, "y", at->y);
    buf_char(b, '}');
}

static void print_lists(const struct world *w, struct buf *b) {
    key(b, "team");
    buf_char(b, '[');
    for (int i = 0; i < w->team_count; i++) print_monster(w, &w->team[i], true, b);
    buf_char(b, ']');
    key(b, "foes");
    buf_char(b, '[');
    for (int i = 0; i < w->foe_count; i++) print_monster(w, &w->foes[i], false, b);
    buf_char(b, ']');
    key(b, "items");
    buf_char(b, '[');
    for (int i = 0; i < w->item_count; i++) print_item(w, w->items[i].id, w->items[i].quantity, &w->items[i].at, b);
    buf_char(b, ']');
    key(b, "bag");
    buf_char(b, '[');
    for (int i = 0; i < w->bag_count; i++) print_item(w, w->bag[i].id, w->bag[i].quantity, NULL, b);
    buf_char(b, ']');
    key(b, "traps");
    buf_char(b, '[');
    for (int i = 0; i < w->trap_count; i++) {
        next(b);
        buf_char(b, '{');
        integer(b, "id", w->traps[i].id);
        string(b, "name", game_trap_name(w->layout, w->traps[i].id));
        integer(b, "x", w->traps[i].at.x);
        integer(b, "y", w->traps[i].at.y);
        boolean(b, "visible", w->traps[i].visible);
        buf_char(b, '}');
    }
    buf_char(b, ']');
}

/* 32 strings of 56: the terrain, or the two visibility bits as a digit. */
static void print_map(const struct world *w, bool terrain, struct buf *b) {
    buf_char(b, '[');
    for (int y = 0; y < MAP_HEIGHT && w->floor && w->floor_live; y++) {
        char row[MAP_WIDTH + 1] = {0};
        for (int x = 0; x < MAP_WIDTH; x++) {
            const struct tile *t = &w->tiles[y][x];
            int kind = t->flags & TILE_KIND;
            if (!terrain) row[x] = (char)('0' + (t->visibility & 3));
            else if (t->flags & TILE_STAIRS) row[x] = '>';
            else row[x] = kind == TILE_FLOOR && !(t->flags & TILE_BORDER) ? '.' : kind == TILE_LIQUID ? '~' : '#';
        }
        next(b);
        buf_json_string(b, row, MAP_WIDTH);
    }
    buf_char(b, ']');
}

static void print_floor(const struct world *w, struct buf *b) {
    key(b, "stairs");
    if (on_map(w->stairs)) buf_printf(b, "{\"x\":%d,\"y\":%d}", w->stairs.x, w->stairs.y);
    else buf_str(b, "null");
    key(b, "rooms");
    buf_char(b, '[');
    for (int i = 0; i < w->room_count; i++) {
        const struct room *r = &w->rooms[i];
        if (!r->end_x) continue;
        next(b);
        buf_char(b, '{');
        integer(b, "index", i);
        integer(b, "min_x", r->min_x);
        integer(b, "min_y", r->min_y);
        integer(b, "end_x", r->end_x);
        integer(b, "end_y", r->end_y);
        boolean(b, "discovered", r->discovered);
        buf_char(b, '}');
    }
    buf_char(b, ']');
    key(b, "terrain");
    print_map(w, true, b);
    key(b, "seen");
    print_map(w, false, b);
}

static void print_addresses(const struct world *w, struct buf *b) {
    key(b, "addresses");
    buf_char(b, '{');
    if (w->layout) {
        const struct memory_map *m = w->layout->map;
        const struct { const char *name; uint32_t at; } list[] = {
            {"main_mode", m->at.main_mode}, {"dungeon_pointer", m->at.dungeon}, {"floor_live", m->at.floor_live},
            {"window_mode", m->at.window_mode}, {"dialogue_state", m->at.dialogue_state}, {"dialogue_text", m->at.dialogue_text},
            {"inventory_pointer", m->at.inventory}, {"dungeon", w->address_dungeon},
            {"tiles", w->address_dungeon ? w->address_dungeon + m->dungeon.tiles : 0},
            {"message_log", w->address_dungeon ? w->address_dungeon + m->dungeon.log : 0},
        };
        for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
            if (!list[i].at) continue;
            key(b, list[i].name);
            buf_printf(b, "\"0x%08X\"", list[i].at);
        }
    }
    buf_char(b, '}');
}

void world_print_json(const struct world *w, struct buf *b) {
    buf_char(b, '{');
    key(b, "game");
    buf_char(b, '{');
    string(b, "title", w->title);
    string(b, "code", w->code);
    boolean(b, "supported", w->layout != NULL);
    buf_char(b, '}');
    string(b, "state", game_state_name[w->state]);
    key(b, "dungeon");
    if (w->floor) { /* not address_dungeon: a world_seen has no addresses */
        buf_char(b, '{');
        integer(b, "id", w->dungeon);
        string(b, "name", game_dungeon_name(w->layout, w->dungeon));
        integer(b, "floor", w->floor);
        buf_char(b, '}');
    } else {
        buf_str(b, "null");
    }
    key(b, "leader");
    if (w->leader >= 0) buf_printf(b, "%d", w->leader);
    else buf_str(b, "null");
    print_lists(w, b);
    print_floor(w, b);
    key(b, "dialogue");
    buf_char(b, '{');
    integer(b, "state", w->dialogue_state);
    string(b, "text", w->dialogue_text);
    buf_char(b, '}');
    key(b, "message_log");
    buf_char(b, '[');
    for (int i = 0; i < w->log_count; i++) {
        next(b);
        buf_json_string(b, w->log[i], strlen(w->log[i]));
    }
    buf_char(b, ']');
    integer(b, "money", w->money);
    print_addresses(w, b);
    key(b, "unread");
    buf_char(b, '[');
    for (int i = 0; i < w->unread_count; i++) {
        next(b);
        buf_json_string(b, w->unread[i], strlen(w->unread[i]));
    }
    buf_str(b, "]}\n");
}
