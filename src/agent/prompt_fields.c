#include "agent/prompt_fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VISITS_SHOWN = 9, RAY_MIN = 2, RAY_MAX = 6 };

static int visits_at(const struct prompt_view *v, int x, int y) {
    if (x < 0 || y < 0 || x >= MAP_WIDTH || y >= MAP_HEIGHT) return 0;
    int n = v->seen->visits[y][x];
    return n > VISITS_SHOWN ? VISITS_SHOWN : n;
}

/* Tiles stood on in the eighth of the circle around direction d, at a distance of RAY_MIN to RAY_MAX. */
static int visits_far(const struct prompt_view *v, struct point at, int d) {
    int n = 0;
    for (int dy = -RAY_MAX; dy <= RAY_MAX; dy++) {
        for (int dx = -RAY_MAX; dx <= RAY_MAX; dx++) {
            int ax = abs(dx), ay = abs(dy);
            if ((ax > ay ? ax : ay) < RAY_MIN) continue;
            int sx = 2 * ax >= ay ? (dx > 0) - (dx < 0) : 0, sy = 2 * ay >= ax ? (dy > 0) - (dy < 0) : 0;
            if (sx == direction_dx[d] && sy == direction_dy[d]) n += visits_at(v, at.x + dx, at.y + dy) > 0;
        }
    }
    return n > VISITS_SHOWN ? VISITS_SHOWN : n;
}

enum field {
    /* what is not read from the game: known in every mode */
    FIELD_SCENE, FIELD_LAST, FIELD_MEMORY, FIELD_SKILLS, FIELD_REFUSED, FIELD_STUCK, FIELD_OFFERS, FIELD_RATES, FIELD_INSTEAD, FIELD_RESULT,
    /* read from the game's memory, not from the picture */
    FIELD_MESSAGE, FIELD_LOG, FIELD_DIALOGUE, FIELD_SPEAKER, FIELD_CHOICES, FIELD_BAG, FIELD_MONEY, FIELD_MENU,
    /* these need a leader */
    FIELD_FLOOR, FIELD_HP, FIELD_MAX_HP, FIELD_BELLY, FIELD_LEVEL, FIELD_FOOD, FIELD_HEAL, FIELD_THROW, FIELD_PP, FIELD_POSITION, FIELD_FACING,
    FIELD_MAP, FIELD_ROWS, FIELD_TEAM, FIELD_FOES, FIELD_ITEMS, FIELD_STAIRS, FIELD_MOVES, FIELD_DUNGEON,
    /* map memory, too */
    FIELD_WAYS, FIELD_HERE, FIELD_BEEN, FIELD_FAR = FIELD_BEEN + 8, FIELD_COUNT = FIELD_FAR + 8,
};
static const char *const fields[FIELD_COUNT] = {
    "scene",
    "last",                                             /* the last actions or skills, oldest first */
    "memory",                                           /* what is recalled, each on a new line, with where it comes from */
    "skills",                                           /* or actions that are offered; skills a line each, with how often they worked */
    "refused",                                          /* what the gatekeeper refused in this decision, and why */
    "stuck",                                            /* how the agent is stuck */
    "offers",                                           /* names of the skills (with their arguments) or actions that are offered */
    "rates",                                            /* how often skills worked, a line each */
    "instead",                                          /* what was done since the last answer in its place (a rule, a person) */
    "result",                                           /* how the last skill ended */
    "message",                                          /* the newest message since the step before, short */
    "log",                                              /* all messages since then */
    "dialogue", "speaker", "choices", "bag", "money",
    "menu",                                             /* rows of the open menu */
    "floor", "hp", "max_hp", "belly", "level",          /* of the leader */
    "food", "heal", "throw",                            /* how many such things are in the bag */
    "pp",                                               /* of the move that is set */
    "position", "facing",
    "map",                                              /* around the leader, several lines */
    "rows",                                             /* of the whole floor as far as it is known, each on a new line */
    "team", "foes", "items", "stairs", "moves", "dungeon",
    "ways",                                             /* where the map ends and where the leader has not been */
    "here",                                             /* how often the leader stood on this tile */
    "been_s", "been_se", "been_e", "been_ne", "been_n", "been_nw", "been_w", "been_sw", /* ... on the neighbour tiles */
    "far_s", "far_se", "far_e", "far_ne", "far_n", "far_nw", "far_w", "far_sw",         /* tiles stood on farther that way */
};

int prompt_field_find(const char *name, size_t n) {
    for (int i = 0; i < FIELD_COUNT; i++) {
        if (strlen(fields[i]) == n && !memcmp(fields[i], name, n)) return i;
    }
    return -1;
}

static bool put_text(struct buf *out, const char *text) { return text && *text ? buf_str(out, text), true : false; }

static bool own_value(const struct prompt_view *v, int f, struct buf *out) {
    const struct prompt_memory *m = v->memory;
    switch (f) {
    case FIELD_SCENE: return put_text(out, scene_name[v->scene]);
    case FIELD_LAST:
        if (v->without & PART_MEMORY) return false;
        for (int i = 0; i < m->last_count; i++) buf_printf(out, "%s%s", i ? " " : "", m->last[i]);
        return m->last_count > 0;
    case FIELD_MEMORY:
        for (int i = 0; v->recalled && i < v->recalled->count; i++) {
            buf_printf(out, "\n%s (%s)", v->recalled->lines[i].text, v->recalled->lines[i].from);
        }
        return v->recalled && v->recalled->count > 0;
    case FIELD_SKILLS: return tell_skills(v, out);
    case FIELD_REFUSED: return put_text(out, v->refused);
    case FIELD_STUCK: return put_text(out, v->stuck);
    case FIELD_OFFERS: return tell_offers(v, out);
    case FIELD_RATES: return tell_rates(v, out);
    case FIELD_INSTEAD: return put_text(out, v->instead);
    default: return put_text(out, v->skill_end);
    }
}

static bool text_value(const struct prompt_view *v, int f, struct buf *out) {
    const struct world *w = &v->seen->now;
    const struct prompt_memory *m = v->memory;
    bool talks = v->scene == SCENE_DIALOGUE || v->scene == SCENE_CHOICE;
    switch (f) {
    case FIELD_MESSAGE: return put_text(out, m->message);
    case FIELD_LOG:
        for (int i = m->log_new; i < m->log_count; i++) buf_printf(out, "%s%s", i > m->log_new ? " / " : "", m->log[i]);
        return m->log_new < m->log_count;
    case FIELD_DIALOGUE: return talks && put_text(out, w->dialogue_text);
    case FIELD_SPEAKER: return talks && put_text(out, w->speaker);
    case FIELD_CHOICES: return v->scene == SCENE_CHOICE && tell_choices(w, out);
    case FIELD_BAG: return tell_bag(w, out);
    case FIELD_MONEY: return buf_printf(out, "%d", w->money), true;
    default:
        if (v->scene != SCENE_MENU && v->scene != SCENE_STAIRS) return false;
        for (int i = 0; i < w->action_count && i < MAX_MENU_ROWS; i++) {
            buf_printf(out, "%s%s", i ? ", " : "", game_action_name(w->layout, w->actions[i].action));
        }
        return w->action_count > 0;
    }
}

static bool map_value(const struct prompt_view *v, const struct monster *l, int f, struct buf *out) {
    if (v->without & PART_MAP) return false;
    if (f >= FIELD_FAR) return buf_printf(out, "%d", visits_far(v, l->at, f - FIELD_FAR)), true;
    if (f >= FIELD_BEEN) {
        int d = f - FIELD_BEEN;
        return buf_printf(out, "%d", visits_at(v, l->at.x + direction_dx[d], l->at.y + direction_dy[d])), true;
    }
    if (f == FIELD_HERE) return buf_printf(out, "%d", visits_at(v, l->at.x, l->at.y)), true;
    char text[400];
    map_memory_text(v->map, v->seen, text, sizeof text);
    return put_text(out, text);
}

static bool number(struct buf *out, int n) { return buf_printf(out, "%d", n), true; }

static bool leader_value(const struct prompt_view *v, const struct monster *l, int f, struct buf *out) {
    const struct world *w = &v->seen->now;
    const struct move *move = leader_set_move(w);
    switch (f) {
    case FIELD_FLOOR: return buf_printf(out, "B%dF", w->floor), true;
    case FIELD_HP: return number(out, l->hp);
    case FIELD_MAX_HP: return number(out, l->max_hp);
    case FIELD_BELLY: return number(out, l->belly);
    case FIELD_LEVEL: return number(out, l->level);
    case FIELD_FOOD: return number(out, bag_count_use(w, ITEM_USE_FOOD));
    case FIELD_HEAL: return number(out, bag_count_use(w, ITEM_USE_HEAL));
    case FIELD_THROW: return number(out, bag_count_use(w, ITEM_USE_THROW));
    case FIELD_PP: return number(out, move ? move->pp : 0);
    case FIELD_POSITION: return buf_printf(out, "%d,%d", l->at.x, l->at.y), true;
    case FIELD_FACING: return put_text(out, direction_name[l->facing & 7]);
    case FIELD_MAP: return tell_map(w, out);
    case FIELD_ROWS: return tell_rows(w, out);
    case FIELD_TEAM: return tell_team(w, out);
    case FIELD_FOES: return tell_foes(w, out);
    case FIELD_ITEMS: return tell_items(w, out);
    case FIELD_STAIRS: return tell_stairs(w, out);
    case FIELD_MOVES: return tell_moves(w, out);
    case FIELD_DUNGEON: return w->floor > 0 && put_text(out, game_dungeon_name(w->layout, w->dungeon));
    default: return false;
    }
}

bool prompt_field_value(const struct prompt_view *v, int f, struct buf *out) {
    if (f <= FIELD_RESULT) return own_value(v, f, out);
    const struct monster *l = world_leader(&v->seen->now);
    if (f < FIELD_WAYS && v->picture_only) return false;
    if (f <= FIELD_MENU) return text_value(v, f, out);
    if (!l) return false;
    /* Where the leader has been is told by the game's memory as well; a player who only looks would have to keep count himself. */
    if (f >= FIELD_WAYS) return !v->picture_only && map_value(v, l, f, out);
    return leader_value(v, l, f, out);
}
