#include "agent/scene.h"

#include <string.h>

const char *const policy_name[] = {"model", "oracle", "random", "omniscient", "external"};
const char *const see_name[SEE_COUNT] = {"both", "ram", "picture"};
const char *const part_name[PART_COUNT] = {"memory", "map", "stuckness", "gatekeeper", "safeguards"};
const char *const scene_name[SCENE_COUNT] = {"none", "title", "field", "dialogue", "choice", "stairs", "menu"};
const char *const action_name[ACTION_COUNT] = {
    "walk_south", "walk_se", "walk_east", "walk_ne", "walk_north", "walk_nw", "walk_west", "walk_sw",
    "hit_south",  "hit_se",  "hit_east",  "hit_ne",  "hit_north",  "hit_nw",  "hit_west",  "hit_sw",
    "use_move",   "eat",     "heal",      "throw",   "wait",       "proceed", "stay",      "next",
    "yes",        "no",      "close",
};

enum { DIALOGUE_ASKS = 4 }; /* world.dialogue_state, pmd-red.md 2.2 */

int action_by_name(const char *name) {
    for (int i = 0; i < ACTION_COUNT; i++) {
        if (!strcmp(name, action_name[i])) return i;
    }
    return -1;
}

/* On the ground (town, base, story) texts are answered; walking about there is not played yet. */
static enum scene ground_scene(const struct world *w) {
    if (!w->dialogue_waits) return SCENE_NONE;
    return w->dialogue_state == DIALOGUE_ASKS ? SCENE_CHOICE : SCENE_DIALOGUE;
}

enum scene scene_of(const struct world *w) {
    switch (w->state) {
    case STATE_GROUND: return ground_scene(w);
    case STATE_TITLE: return SCENE_TITLE;
    case STATE_FIELD: return world_leader(w) ? SCENE_FIELD : SCENE_NONE;
    case STATE_DIALOGUE_WAIT: return SCENE_DIALOGUE;
    case STATE_CHOICE: return SCENE_CHOICE;
    case STATE_STAIRS: return SCENE_STAIRS;
    case STATE_MENU:
    case STATE_HISTORY: return SCENE_MENU;
    default: return SCENE_NONE;
    }
}

const struct monster *world_leader(const struct world *w) {
    return w->leader >= 0 && w->leader < w->team_count ? &w->team[w->leader] : NULL;
}

const struct monster *foe_at(const struct world *w, int x, int y) {
    for (int i = 0; i < w->foe_count; i++) {
        if (w->foes[i].at.x == x && w->foes[i].at.y == y) return &w->foes[i];
    }
    return NULL;
}

int bag_find(const struct world *w, enum item_use use) {
    for (int i = 0; i < w->bag_count && i < MENU_SLOTS; i++) {
        if (game_item_use(w->layout, w->bag[i].id) == use) return i;
    }
    return -1;
}

int bag_count_use(const struct world *w, enum item_use use) {
    int n = 0;
    for (int i = 0; i < w->bag_count; i++) {
        if (game_item_use(w->layout, w->bag[i].id) == use) n += w->bag[i].quantity > 1 ? w->bag[i].quantity : 1;
    }
    return n;
}

const struct move *leader_set_move(const struct world *w) {
    const struct monster *l = world_leader(w);
    for (int i = 0; l && i < l->move_count && i < MAX_MOVES; i++) {
        if (l->moves[i].set && l->moves[i].pp) return &l->moves[i];
    }
    return NULL;
}

int scene_offers(const struct world *w, enum scene scene, bool offered[ACTION_COUNT]) {
    memset(offered, 0, ACTION_COUNT * sizeof *offered);
    switch (scene) {
    case SCENE_FIELD:
        for (int d = 0; d < 8; d++) offered[ACTION_WALK + d] = offered[ACTION_HIT + d] = true;
        offered[ACTION_USE_MOVE] = leader_set_move(w);
        offered[ACTION_EAT] = bag_find(w, ITEM_USE_FOOD) >= 0;
        offered[ACTION_HEAL] = bag_find(w, ITEM_USE_HEAL) >= 0;
        offered[ACTION_THROW] = bag_find(w, ITEM_USE_THROW) >= 0;
        offered[ACTION_WAIT] = true;
        break;
    case SCENE_TITLE:
    case SCENE_DIALOGUE: offered[ACTION_NEXT] = true; break;
    case SCENE_CHOICE: offered[ACTION_YES] = offered[ACTION_NO] = true; break;
    case SCENE_STAIRS: offered[ACTION_PROCEED] = offered[ACTION_STAY] = true; break;
    case SCENE_MENU: offered[ACTION_CLOSE] = true; break;
    default: break;
    }
    int n = 0;
    for (int i = 0; i < ACTION_COUNT; i++) n += offered[i];
    return n;
}
