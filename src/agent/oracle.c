/* The teachers. The fair oracle reads only what a player could know and is kept simple on purpose: a model has to learn it from the
 * picture and a few words, so each rule depends on things that are there to see, and it remembers nothing from step to step. The omniscient oracle plays by the same rules on the whole floor. */
#include "agent/explore.h"
#include "agent/hands.h"

#include <stdlib.h>

enum { HEAL_PERCENT = 35, HEAL_PERCENT_FOE = 50, EAT_BELLY = 12, THROW_PERCENT = 50, THROW_MIN = 2, THROW_MAX = 5 };

struct oracle {
    bool omniscient;
};

struct oracle *oracle_new(bool omniscient) {
    struct oracle *o = calloc(1, sizeof *o);
    if (o) o->omniscient = omniscient;
    return o;
}

void oracle_free(struct oracle *o) { free(o); }

static int act(int action, const char *why, const char **reason) {
    if (reason) *reason = why;
    return action;
}

/* Direction of the foe to hit: the faced one, else the one that needs the smallest turn; -1 none is adjacent. */
static int foe_beside(const struct world *w, const struct monster *l) {
    for (int turn = 0; turn <= 4; turn++) {
        for (int side = 0; side < 2; side++) {
            int d = (l->facing + (side ? 8 - turn : turn)) & 7;
            if (foe_at(w, l->at.x + direction_dx[d], l->at.y + direction_dy[d]) && tile_attack_allowed(w, l->at, d)) return d;
        }
    }
    return -1;
}

static int decide_field(struct oracle *o, const struct world *w, const struct world_seen *seen, const char **reason) {
    const struct monster *l = world_leader(w);
    if (!l || l->max_hp <= 0) return act(ACTION_WAIT, "the leader is not to be seen", reason);
    int hp = l->hp * 100 / l->max_hp, foe = foe_beside(w, l);
    bool berry = bag_find(w, ITEM_USE_HEAL) >= 0;
    if (berry && hp <= (foe >= 0 ? HEAL_PERCENT_FOE : HEAL_PERCENT)) return act(ACTION_HEAL, "hp is low", reason);
    if (l->belly <= EAT_BELLY && bag_find(w, ITEM_USE_FOOD) >= 0) return act(ACTION_EAT, "the belly is empty", reason);
    if (foe >= 0) {
        if (foe == l->facing && leader_set_move(w)) return act(ACTION_USE_MOVE, "a foe is in front", reason);
        return act(ACTION_HIT + foe, "a foe is beside the leader", reason);
    }
    if (hp < THROW_PERCENT && bag_find(w, ITEM_USE_THROW) >= 0 && foe_in_line(w, THROW_MIN, THROW_MAX) >= 0) {
        return act(ACTION_THROW, "hp is low and a foe stands in line", reason);
    }
    int d = explore_step(w, seen, o->omniscient, reason);
    return d >= 0 ? ACTION_WALK + d : act(ACTION_WAIT, "there is no way to go", reason);
}

int oracle_decide(struct oracle *o, const struct world *world, const struct world_seen *seen, const char **reason) {
    const struct world *w = o->omniscient ? world : &seen->now;
    switch (scene_of(w)) {
    case SCENE_FIELD: return decide_field(o, w, seen, reason);
    case SCENE_STAIRS: return act(ACTION_PROCEED, "these are the stairs", reason);
    case SCENE_CHOICE: return act(ACTION_YES, "a question", reason);
    case SCENE_MENU: return act(ACTION_CLOSE, "a menu is in the way", reason);
    case SCENE_TITLE: return act(ACTION_NEXT, "the title screen", reason);
    case SCENE_DIALOGUE: return act(ACTION_NEXT, "somebody talks", reason);
    default: return act(ACTION_WAIT, "no input is taken now", reason);
    }
}
