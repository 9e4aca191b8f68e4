/* The words of skills: conditions, acts and targets; what each means. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/skill_ways.h"
#include "agent/skills.h"

enum word {
    WORD_TITLE, WORD_FIELD, WORD_DIALOGUE, WORD_CHOICE, WORD_STAIRS_PROMPT, WORD_MENU, /* scenes; in the order of scenes[] */
    WORD_FOE_SEEN, WORD_FOE_BESIDE, WORD_FOE_AHEAD, WORD_FOE_IN_LINE, WORD_ALLY_SEEN, WORD_ALLY_BESIDE, WORD_MOVE_READY,
    WORD_HAS_FOOD, WORD_HAS_HEAL, WORD_HAS_THROW, WORD_HAS_ITEM, WORD_STAIRS_KNOWN, WORD_ITEM_SEEN, WORD_UNKNOWN_WAYS, WORD_TILE_REACHABLE,
    WORD_WAY_OUT, WORD_FOE_NEW, WORD_FOE_FEWER, WORD_ITEM_NEW, WORD_BAG_GREW, WORD_BAG_CHANGED, WORD_MAP_GREW, WORD_ROOM_NEW, WORD_ARRIVED, WORD_MESSAGE,
    WORD_FLOOR_NEW, WORD_SCENE_NEW, WORD_HP_ROSE, WORD_HP_FELL, WORD_BELLY_ROSE, WORD_TURN_PASSED,
    WORD_HP_BELOW, WORD_HP_ABOVE, WORD_BELLY_BELOW, WORD_BELLY_ABOVE, WORD_COUNT,
};
static const char *const words[WORD_COUNT] = {
    "title", "field", "dialogue", "choice", "stairs_prompt", "menu",
    "foe_seen",       /* a foe is in sight that can be walked to */
    "foe_beside", "foe_ahead",
    "foe_in_line",    /* 2 to 5 tiles away in a straight line */
    "ally_seen", "ally_beside",
    "move_ready",     /* a move is set and has PP */
    "has_food", "has_heal", "has_throw",
    "has_item",       /* the argument names a row of the bag */
    "stairs_known",   /* and can be reached */
    "item_seen",      /* one worth having, that can be reached, and there is room in the bag */
    "unknown_ways",   /* an end of the map can be reached */
    "tile_reachable", /* that of the arguments */
    "way_out",        /* a step that leads away from the foes in sight */
    /* against the start of the skill */
    "foe_new", "foe_fewer", "item_new", "bag_grew", "bag_changed", "map_grew",
    "room_new",       /* the leader has come into another room */
    "arrived",        /* where the last walk led */
    "message", "floor_new", "scene_new", "hp_rose", "hp_fell", "belly_rose", "turn_passed",
    "hp below", "hp above", "belly below", "belly above", /* percent */
};
static const enum scene scenes[] = {SCENE_TITLE, SCENE_FIELD, SCENE_DIALOGUE, SCENE_CHOICE, SCENE_STAIRS, SCENE_MENU};
static const char *const acts[ACT_END - ACTION_COUNT] = {"hit", "talk", "use_item"};
static const char *const targets[TARGET_COUNT] = {"", "stairs", "unknown", "item", "foe", "ally", "tile", "away"};

int scene_by_word(const char *name) {
    for (int i = 0; i <= WORD_MENU; i++) {
        if (!strcmp(name, words[i])) return scenes[i];
    }
    return -1;
}

int act_by_name(const char *name) {
    for (int i = 0; i < ACT_END - ACTION_COUNT; i++) {
        if (!strcmp(name, acts[i])) return ACTION_COUNT + i;
    }
    int a = action_by_name(name);
    return a >= ACTION_USE_MOVE ? a : -1; /* steps and hits need a direction: rules say where to, not which way */
}

enum skill_target target_by_name(const char *name) {
    for (int i = 1; i < TARGET_COUNT; i++) {
        if (!strcmp(name, targets[i])) return (enum skill_target)i;
    }
    return TARGET_NONE;
}

bool condition_parse(const char *text, struct condition *out, char *problem, size_t cap) {
    *out = (struct condition){0};
    const char *at = text;
    if (!strncmp(at, "not ", 4)) out->negated = true, at += 4;
    for (int i = 0; i < WORD_COUNT; i++) {
        size_t n = strlen(words[i]);
        if (strncmp(at, words[i], n)) continue;
        if (i < WORD_HP_BELOW) {
            if (at[n]) continue;
            return out->word = (uint8_t)i, true;
        }
        char *end;
        long value = at[n] == ' ' ? strtol(at + n + 1, &end, 10) : -1;
        if (value < 0 || value > 100 || end == at + n + 1 || *end) {
            return snprintf(problem, cap, "'%.40s': expected '%s N' with N from 0 to 100 (percent)", text, words[i]), false;
        }
        return out->word = (uint8_t)i, out->value = (int16_t)value, true;
    }
    return snprintf(problem, cap, "'%.40s' is no condition (the words are in src/agent/skill_words.c)", text), false;
}

void condition_print(const struct condition *c, char *out, size_t cap) {
    const char *no = c->negated ? "not " : "", *word = c->word < WORD_COUNT ? words[c->word] : "?";
    if (c->word < WORD_HP_BELOW) snprintf(out, cap, "%s%s", no, word);
    else snprintf(out, cap, "%s%s %d", no, word, c->value);
}

/* ---- meaning --------------------------------------------------------------------------------------------------------------- */

static int known_tiles(const struct world *w) {
    int n = 0;
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) n += w->tiles[y][x].visibility & 1;
    }
    return n;
}

static int room_of(const struct world *w) {
    const struct monster *l = world_leader(w);
    return l ? w->tiles[l->at.y][l->at.x].room : 255;
}

static uint16_t met(const struct world_seen *seen) { return (uint16_t)seen->met_count; }

static int bag_things(const struct world *w) {
    int n = 0;
    for (int i = 0; i < w->bag_count; i++) n += w->bag[i].quantity > 1 ? w->bag[i].quantity : 1;
    return n;
}

void situation_begin(struct situation *s, const struct world_seen *seen, const struct map_memory *map, enum scene scene, int turns) {
    const struct world *w = &seen->now;
    const struct monster *l = world_leader(w);
    *s = (struct situation){.seen = seen, .map = map, .scene = scene, .start_scene = scene, .start_turns = turns, .turns = turns};
    s->start_hp = l ? l->hp : 0;
    s->start_belly = l ? l->belly : 0;
    s->start_bag = bag_things(w);
    s->start_foes = w->foe_count;
    s->start_items = w->item_count;
    s->start_known = known_tiles(w);
    s->start_room = room_of(w);
    s->start_floor = w->floor;
    s->start_met = met(seen);
    s->start_log = w->log_count;
    snprintf(s->start_message, sizeof s->start_message, "%s", w->log_count ? w->log[w->log_count - 1] : "");
}

static bool word_holds(int word, int value, const struct situation *s) {
    const struct world *w = &s->seen->now;
    const struct monster *l = world_leader(w);
    if (word <= WORD_MENU) return s->scene == scenes[word];
    if (word == WORD_FLOOR_NEW) return w->floor != s->start_floor && w->floor > 0;
    if (word == WORD_SCENE_NEW) return s->scene != s->start_scene;
    if (word == WORD_TURN_PASSED) return s->turns != s->start_turns || w->floor != s->start_floor;
    if (word == WORD_ARRIVED) return s->arrived;
    if (!l) return false;
    struct way way;
    int d;
    switch (word) {
    case WORD_FOE_SEEN: return way_to(TARGET_FOE, s, &way);
    case WORD_FOE_BESIDE: return foe_beside(w) >= 0;
    case WORD_FOE_AHEAD: return foe_beside(w) == l->facing;
    case WORD_FOE_IN_LINE: return foe_in_line(w, 2, 5) >= 0;
    case WORD_ALLY_SEEN: return w->team_count > 1 && way_to(TARGET_ALLY, s, &way);
    case WORD_ALLY_BESIDE: return ally_beside(w) >= 0;
    case WORD_MOVE_READY: return leader_set_move(w);
    case WORD_HAS_FOOD: return bag_find(w, ITEM_USE_FOOD) >= 0;
    case WORD_HAS_HEAL: return bag_find(w, ITEM_USE_HEAL) >= 0;
    case WORD_HAS_THROW: return bag_find(w, ITEM_USE_THROW) >= 0;
    case WORD_HAS_ITEM: return s->argument[0] >= 1 && s->argument[0] <= w->bag_count && s->argument[0] <= MENU_SLOTS;
    case WORD_STAIRS_KNOWN: return way_to(TARGET_STAIRS, s, &way);
    case WORD_ITEM_SEEN: return way_to(TARGET_ITEM, s, &way);
    case WORD_UNKNOWN_WAYS: {
        struct map_end end;
        return map_ends(w, &end, 1) > 0;
    }
    case WORD_TILE_REACHABLE: return way_to(TARGET_TILE, s, &way);
    case WORD_WAY_OUT: return w->foe_count && (d = step_away(w)) >= 0;
    case WORD_FOE_NEW: return w->foe_count && met(s->seen) > s->start_met;
    case WORD_FOE_FEWER: return w->foe_count < s->start_foes;
    case WORD_ITEM_NEW: return w->item_count > s->start_items;
    case WORD_BAG_GREW: return bag_things(w) > s->start_bag;
    case WORD_BAG_CHANGED: return bag_things(w) != s->start_bag;
    case WORD_MAP_GREW: return known_tiles(w) > s->start_known;
    case WORD_ROOM_NEW: return room_of(w) != 255 && room_of(w) != s->start_room;
    case WORD_MESSAGE: return w->log_count && (w->log_count != s->start_log || strcmp(w->log[w->log_count - 1], s->start_message) != 0);
    case WORD_HP_ROSE: return l->hp > s->start_hp;
    case WORD_HP_FELL: return l->hp < s->start_hp;
    case WORD_BELLY_ROSE: return l->belly > s->start_belly;
    case WORD_HP_BELOW: return l->hp * 100 <= value * l->max_hp;
    case WORD_HP_ABOVE: return l->hp * 100 >= value * l->max_hp;
    case WORD_BELLY_BELOW: return l->belly * 100 <= value * (l->max_belly > 0 ? l->max_belly : 100);
    case WORD_BELLY_ABOVE: return l->belly * 100 >= value * (l->max_belly > 0 ? l->max_belly : 100);
    default: return false;
    }
}

bool condition_holds(const struct condition *c, const struct situation *s) { return word_holds(c->word, c->value, s) != c->negated; }

bool conditions_hold(const struct conditions *c, const struct situation *s) {
    for (int i = 0; i < c->count; i++) {
        if (!condition_holds(&c->all[i], s)) return false;
    }
    return true;
}
