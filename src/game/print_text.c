/* A world for a person in a terminal: facts, then a map cut to what is not solid rock. */
#include "game/layout.h"
#include "game/ram.h"

static void print_monster(const struct world *w, const struct monster *m, char sign, bool team, struct buf *b) {
    buf_printf(b, "  %c %-12s Lv %-3d HP %d/%d at (%d, %d) facing %s", sign, game_species_name(w->layout, m->species), m->level, m->hp,
               m->max_hp, m->at.x, m->at.y, direction_name[m->facing & 7]);
    if (team) buf_printf(b, ", belly %d/%d, exp %d, IQ %d", m->belly, m->max_belly, m->exp, m->iq);
    if (m->held.id) buf_printf(b, ", holds %s", game_item_name(w->layout, m->held.id));
    for (int i = 0; i < m->status_count; i++) {
        buf_printf(b, ", %s", game_status_name(m->statuses[i].slot, m->statuses[i].value));
        if (m->statuses[i].turns) buf_printf(b, " (%d turns)", m->statuses[i].turns);
    }
    if (m->leader) buf_str(b, ", leader");
    if (m->shopkeeper) buf_str(b, ", shopkeeper");
    if (m->client) buf_str(b, ", to be rescued");
    buf_char(b, '\n');
    if (!m->move_count) return;
    buf_str(b, "      moves:");
    for (int i = 0; i < m->move_count; i++) {
        buf_printf(b, "%s %s (%d PP%s)", i ? "," : "", game_move_name(w->layout, m->moves[i].id), m->moves[i].pp,
                   m->moves[i].set ? ", set" : "");
    }
    buf_char(b, '\n');
}

static void print_map(const struct world *w, struct buf *b) {
    char map[MAP_HEIGHT][MAP_WIDTH + 1];
    int x0 = MAP_WIDTH, x1 = -1, y0 = MAP_HEIGHT, y1 = -1;
    for (int y = 0; y < MAP_HEIGHT; y++) {
        memset(map[y], 0, sizeof map[y]);
        for (int x = 0; x < MAP_WIDTH; x++) {
            const struct tile *t = &w->tiles[y][x];
            int kind = t->flags & TILE_KIND;
            bool shown = t->visibility & 1;
            map[y][x] = t->flags & TILE_STAIRS ? '>' : kind == TILE_FLOOR ? (shown ? '.' : ',') : kind == TILE_LIQUID ? '~' : shown ? '#' : ' ';
            if (kind == TILE_WALL) continue;
            x0 = x < x0 ? x : x0, x1 = x > x1 ? x : x1, y0 = y < y0 ? y : y0, y1 = y > y1 ? y : y1;
        }
    }
    for (int i = 0; i < w->trap_count; i++) map[w->traps[i].at.y][w->traps[i].at.x] = w->traps[i].visible ? '^' : '\'';
    for (int i = 0; i < w->item_count; i++) map[w->items[i].at.y][w->items[i].at.x] = w->items[i].id == ITEM_MONEY ? '$' : '!';
    for (int i = 0; i < w->foe_count; i++) map[w->foes[i].at.y][w->foes[i].at.x] = (char)('A' + i);
    for (int i = 0; i < w->team_count; i++) map[w->team[i].at.y][w->team[i].at.x] = (char)(i == w->leader ? '@' : '1' + i);
    if (x1 < 0) return;
    x0 = x0 > 0 ? x0 - 1 : 0, y0 = y0 > 0 ? y0 - 1 : 0;
    x1 = x1 < MAP_WIDTH - 1 ? x1 + 1 : x1, y1 = y1 < MAP_HEIGHT - 1 ? y1 + 1 : y1;
    buf_printf(b, "map, x %d to %d, y %d to %d (. floor  , floor not shown yet  # shown wall  ~ liquid  > stairs  @ leader  1-4 team  "
                  "A-P foe  $ money  ! item  ^ trap  ' hidden trap):\n", x0, x1, y0, y1);
    for (int y = y0; y <= y1; y++) {
        map[y][x1 + 1] = 0;
        buf_printf(b, "  %2d %s\n", y, map[y] + x0);
    }
}

static void print_floor(const struct world *w, struct buf *b) {
    buf_printf(b, "%s, floor %d", game_dungeon_name(w->layout, w->dungeon), w->floor);
    if (w->floors) buf_printf(b, " of %d", w->floors);
    buf_printf(b, ", %s, %d turns until the wind, seed 0x%06X\n", w->visibility_range ? "dark" : "lit", w->turn_limit_left, w->floor_seed);
    if (!w->floor_live) return;
    buf_str(b, "team:\n");
    for (int i = 0; i < w->team_count; i++) print_monster(w, &w->team[i], (char)(i == w->leader ? '@' : '1' + i), true, b);
    buf_printf(b, "foes: %s\n", w->foe_count ? "" : "none");
    for (int i = 0; i < w->foe_count; i++) print_monster(w, &w->foes[i], (char)('A' + i), false, b);
    buf_printf(b, "on the floor: %s\n", w->item_count + w->trap_count ? "" : "nothing");
    for (int i = 0; i < w->item_count; i++) {
        const struct floor_item *t = &w->items[i];
        buf_printf(b, "  %s", game_item_name(w->layout, t->id));
        if (t->quantity) buf_printf(b, " x%d", t->quantity);
        buf_printf(b, " at (%d, %d)%s\n", t->at.x, t->at.y, t->shop ? ", for sale" : "");
    }
    for (int i = 0; i < w->trap_count; i++) {
        buf_printf(b, "  %s at (%d, %d)%s\n", game_trap_name(w->layout, w->traps[i].id), w->traps[i].at.x, w->traps[i].at.y,
                   w->traps[i].visible ? "" : ", hidden");
    }
    if (on_map(w->stairs)) buf_printf(b, "stairs at (%d, %d)\n", w->stairs.x, w->stairs.y);
    print_map(w, b);
}

void world_print_text(const struct world *w, struct buf *b) {
    buf_printf(b, "game: %s (%s)%s%s\n", w->title, w->code, w->layout ? ", " : ", not supported", w->layout ? w->layout->name : "");
    buf_printf(b, "state: %s\n", game_state_name[w->state]);
    if (w->floor) print_floor(w, b);
    if (w->layout) {
        buf_printf(b, "money: %d\nbag:%s", w->money, w->bag_count ? "" : w->has_bag ? " empty" : " none");
        for (int i = 0; i < w->bag_count; i++) {
            buf_printf(b, "%s %s", i ? "," : "", game_item_name(w->layout, w->bag[i].id));
            if (w->bag[i].quantity > 1) buf_printf(b, " x%d", w->bag[i].quantity);
        }
        buf_char(b, '\n');
    }
    if (w->dialogue_state) {
        buf_printf(b, "dialogue (state %d%s):\n", w->dialogue_state, w->dialogue_waits ? ", waits for you" : "");
        if (w->speaker[0]) buf_printf(b, "  [%s]\n", w->speaker);
        buf_printf(b, "  %s\n", w->dialogue_text);
        for (int i = 0; i < w->choice_count; i++) buf_printf(b, "  %s %s\n", i == w->choice_cursor ? ">" : " ", w->choices[i]);
    }
    for (int i = 0; i < w->action_count; i++) {
        buf_printf(b, "%s %s%s\n", i ? "     " : "menu:", game_action_name(w->layout, w->actions[i].action),
                   w->actions[i].selectable ? "" : " (not now)");
    }
    for (int i = 0; i < w->log_count; i++) buf_printf(b, "%s %s\n", i ? "    " : "log:", w->log[i]);
    for (int i = 0; i < w->unread_count; i++) buf_printf(b, "%s %s\n", i ? "           " : "not read:", w->unread[i]);
}
