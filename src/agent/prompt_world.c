/* What is seen, in words and as a map: for models that were not trained for this game. */
#include <stdlib.h>
#include <string.h>

#include "agent/prompt_fields.h"

enum { VIEW_X = 14, VIEW_Y = 9, MOST_LISTED = 8, ITEM_MONEY = 105 };

static int far_off(struct point a, struct point b) {
    int dx = abs(a.x - b.x), dy = abs(a.y - b.y);
    return dx > dy ? dx : dy;
}

/* "3 NE at 12,7": tiles away, direction as the crow flies, place. */
static void put_place(const struct world *w, struct point p, struct buf *out) {
    struct point l = world_leader(w)->at;
    int dx = p.x - l.x, dy = p.y - l.y, ax = abs(dx), ay = abs(dy), d = 0;
    int sx = 2 * ax >= ay ? (dx > 0) - (dx < 0) : 0, sy = 2 * ay >= ax ? (dy > 0) - (dy < 0) : 0;
    while (d < 7 && (direction_dx[d] != sx || direction_dy[d] != sy)) d++;
    if (ax || ay) buf_printf(out, "%d %s at %d,%d", far_off(l, p), direction_name[d], p.x, p.y);
    else buf_str(out, "under the leader");
}

static char tile_sign(const struct tile *t) {
    if (!(t->visibility & 1)) return ' ';
    if (t->flags & TILE_STAIRS) return '>';
    int kind = t->flags & TILE_KIND;
    return kind == TILE_FLOOR ? '.' : kind == TILE_LIQUID ? '~' : '#';
}

static void mark(char map[MAP_HEIGHT][MAP_WIDTH + 1], struct point p, char sign) {
    if (p.x >= 0 && p.y >= 0 && p.x < MAP_WIDTH && p.y < MAP_HEIGHT) map[p.y][p.x] = sign;
}

/* Everything known, with what stands on it; blank: not seen yet. */
static void draw_map(const struct world *w, char map[MAP_HEIGHT][MAP_WIDTH + 1]) {
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) map[y][x] = tile_sign(&w->tiles[y][x]);
    }
    for (int i = 0; i < w->trap_count; i++) mark(map, w->traps[i].at, '^');
    for (int i = 0; i < w->item_count; i++) mark(map, w->items[i].at, w->items[i].id == ITEM_MONEY ? '$' : '!');
    for (int i = 0; i < w->foe_count; i++) mark(map, w->foes[i].at, 'F');
    for (int i = 0; i < w->team_count; i++) mark(map, w->team[i].at, i == w->leader ? '@' : 'P');
}

bool tell_rows(const struct world *w, struct buf *out) {
    char map[MAP_HEIGHT][MAP_WIDTH + 1];
    int n = 0;
    draw_map(w, map);
    for (int y = 0; y < MAP_HEIGHT; y++) {
        int first = 0, end = MAP_WIDTH - 1;
        while (first < MAP_WIDTH && map[y][first] == ' ') first++;
        while (end >= first && map[y][end] == ' ') end--;
        if (end >= first) buf_printf(out, "\ny%d x%d %.*s", y, first, end - first + 1, map[y] + first), n++;
    }
    return n > 0;
}

bool tell_map(const struct world *w, struct buf *out) {
    const struct monster *l = world_leader(w);
    char map[MAP_HEIGHT][MAP_WIDTH + 1];
    int x0 = l->at.x - VIEW_X, x1 = l->at.x + VIEW_X, y0 = l->at.y - VIEW_Y, y1 = l->at.y + VIEW_Y;
    x0 = x0 < 0 ? 0 : x0, y0 = y0 < 0 ? 0 : y0, x1 = x1 >= MAP_WIDTH ? MAP_WIDTH - 1 : x1, y1 = y1 >= MAP_HEIGHT ? MAP_HEIGHT - 1 : y1;
    draw_map(w, map);
    buf_printf(out, "x %d to %d", x0, x1);
    for (int y = y0; y <= y1; y++) {
        int end = x1;
        while (end >= x0 && map[y][end] == ' ') end--; /* nothing known to the right: nothing to pay for */
        if (end >= x0) buf_printf(out, "\ny%-2d %.*s", y, end - x0 + 1, map[y] + x0);
    }
    return true;
}

bool tell_team(const struct world *w, struct buf *out) {
    int n = 0;
    for (int i = 0; i < w->team_count; i++) {
        const struct monster *m = &w->team[i];
        if (i == w->leader) continue;
        buf_printf(out, "%s%s HP %d/%d ", n++ ? "; " : "", game_species_name(w->layout, m->species), m->hp, m->max_hp);
        put_place(w, m->at, out);
    }
    return n > 0;
}

bool tell_foes(const struct world *w, struct buf *out) {
    for (int i = 0; i < w->foe_count && i < MOST_LISTED; i++) {
        const struct monster *m = &w->foes[i];
        buf_printf(out, "%s%s ", i ? "; " : "", game_species_name(w->layout, m->species));
        put_place(w, m->at, out);
        for (int k = 0; k < m->status_count; k++) buf_printf(out, " (%s)", game_status_name(m->statuses[k].slot, m->statuses[k].value));
    }
    return w->foe_count > 0;
}

bool tell_items(const struct world *w, struct buf *out) {
    for (int i = 0; i < w->item_count && i < MOST_LISTED; i++) {
        buf_printf(out, "%s%s ", i ? "; " : "", game_item_name(w->layout, w->items[i].id));
        put_place(w, w->items[i].at, out);
    }
    return w->item_count > 0;
}

bool tell_bag(const struct world *w, struct buf *out) {
    for (int i = 0; i < w->bag_count; i++) {
        buf_printf(out, "%s%d %s", i ? ", " : "", i + 1, game_item_name(w->layout, w->bag[i].id));
        if (w->bag[i].quantity > 1) buf_printf(out, " x%d", w->bag[i].quantity);
    }
    return w->bag_count > 0;
}

bool tell_moves(const struct world *w, struct buf *out) {
    const struct monster *l = world_leader(w);
    for (int i = 0; i < l->move_count && i < MAX_MOVES; i++) {
        buf_printf(out, "%s%s PP %d%s", i ? ", " : "", game_move_name(w->layout, l->moves[i].id), l->moves[i].pp, l->moves[i].set ? " (set)" : "");
    }
    return l->move_count > 0;
}

bool tell_stairs(const struct world *w, struct buf *out) {
    if (w->stairs.x < 0) return false;
    put_place(w, w->stairs, out);
    return true;
}

bool tell_choices(const struct world *w, struct buf *out) {
    for (int i = 0; i < w->choice_count && i < MAX_CHOICES; i++) buf_printf(out, "%s%s", i ? " / " : "", w->choices[i]);
    return w->choice_count > 0;
}

bool tell_skills(const struct prompt_view *v, struct buf *out) {
    int n = 0;
    if (!v->offer) return false;
    for (int i = 0; i < ACTION_COUNT && v->offer->answers != ANSWER_SKILLS; i++) {
        if (v->offer->actions[i]) buf_printf(out, "%s%s", n++ ? ", " : " ", action_name[i]);
    }
    if (v->offer->answers != ANSWER_SKILLS) return n > 0;
    for (int i = 0; i < v->skills->offered; i++) {
        const struct skill *k = &v->skills->skills[i];
        if (!v->offer->skills[i]) continue;
        buf_printf(out, "\n%s: %s", k->name, k->description), n++;
        for (int r = 0; r < v->rate_count; r++) {
            if (!strcmp(v->rates[r].name, k->name)) buf_printf(out, " (worked %d of %d times)", v->rates[r].succeeded, v->rates[r].used);
        }
    }
    return n > 0;
}

static void put_arguments(const struct skill *k, struct buf *out) {
    if (k->arguments == ARGUMENTS_TILE) buf_str(out, " x y");
    if (k->arguments == ARGUMENTS_ITEM) buf_str(out, " item");
}

bool tell_offers(const struct prompt_view *v, struct buf *out) {
    int n = 0;
    if (!v->offer) return false;
    bool skills = v->offer->answers == ANSWER_SKILLS;
    for (int i = 0; i < ACTION_COUNT && !skills; i++) {
        if (v->offer->actions[i]) buf_printf(out, "%s%s", n++ ? ", " : "", action_name[i]);
    }
    for (int i = 0; skills && i < v->skills->offered; i++) {
        if (!v->offer->skills[i]) continue;
        buf_printf(out, "%s%s", n++ ? ", " : "", v->skills->skills[i].name);
        put_arguments(&v->skills->skills[i], out);
    }
    return n > 0;
}

bool tell_rates(const struct prompt_view *v, struct buf *out) {
    for (int r = 0; r < v->rate_count; r++) buf_printf(out, "\n%s worked %d of %d times", v->rates[r].name, v->rates[r].succeeded, v->rates[r].used);
    return v->rate_count > 0;
}

void tell_catalogue(const struct skill_set *skills, struct buf *out) {
    for (int i = 0; skills && i < skills->offered; i++) {
        const struct skill *k = &skills->skills[i];
        buf_printf(out, "%s%s", i ? "\n" : "", k->name);
        put_arguments(k, out);
        buf_printf(out, ": %s", k->description);
    }
    for (int i = 0; !skills && i < ACTION_COUNT; i++) buf_printf(out, "%s%s", i ? ", " : "", action_name[i]);
}
