/* Actions as key presses. Each press is held until its effect shows in memory (or a few frames), then let go: a pad that is held
 * too long walks a second step, a B that is held too short or too long is no tap. */
#include "agent/hands.h"

enum { HOLD = 2, HOLD_LIMIT = 8, TAP = 4, MENU_LIMIT = 40, MENU_STEPS = 24, THROW_SIGHT = 5 };

static uint32_t pad_keys(int d) {
    uint32_t keys = 0;
    if (direction_dx[d] > 0) keys |= KEY_RIGHT;
    if (direction_dx[d] < 0) keys |= KEY_LEFT;
    if (direction_dy[d] > 0) keys |= KEY_DOWN;
    if (direction_dy[d] < 0) keys |= KEY_UP;
    return keys;
}

static int facing(const struct hands *h) {
    const struct monster *l = world_leader(&h->world);
    return l ? l->facing : -1;
}

/* Holds keys until the field is left (the turn was taken, a box opened) or for at most `limit` frames; then lets go. */
static bool press_until_taken(struct hands *h, uint32_t keys, int limit) {
    enum game_state before = h->world.state;
    int left = h->world.turn_limit_left, dialogue = h->world.dialogue_state;
    bool taken = false;
    for (int i = 0; i < limit && !taken; i++) {
        if (!hands_run(h, keys, 1, false)) return false;
        bool went_on = before == STATE_GROUND && h->world.dialogue_state != dialogue;
        taken = h->world.state != before || h->world.turn_limit_left != left || went_on || h->presses_full;
    }
    hands_run(h, 0, 1, false);
    return taken;
}

/* Presses for HOLD frames, lets go, and waits until done says yes. */
static bool press_for(struct hands *h, uint32_t keys, int hold, bool (*done)(const struct world *w, int value), int value) {
    hands_run(h, keys, hold, false);
    for (int waited = 0; waited < MENU_LIMIT && !h->presses_full; waited++) {
        hands_run(h, 0, 1, false);
        if (done(&h->world, value)) return true;
    }
    return false;
}

static const char *walk(struct hands *h, int d) {
    const struct monster *l = world_leader(&h->world);
    struct point from = l ? l->at : (struct point){-1, -1};
    if (press_until_taken(h, pad_keys(d) | (d & 1 ? KEY_R : 0), HOLD_LIMIT)) return NULL;
    l = world_leader(&h->world);
    return l && (l->at.x != from.x || l->at.y != from.y) ? NULL : "the way is blocked";
}

/* Turns without spending a turn: START opens the turn mode, the pad turns, B ends it. */
static const char *turn(struct hands *h, int d) {
    const struct monster *l = world_leader(&h->world);
    if (!l) return "there is no leader";
    if (l->facing == d) return NULL;
    int x = l->at.x + direction_dx[d], y = l->at.y + direction_dy[d];
    if (foe_at(&h->world, x, y) || !tile_step_allowed(&h->world, l->at, d)) { /* the pad alone only turns */
        hands_run(h, pad_keys(d) | (d & 1 ? KEY_R : 0), HOLD, false);
        hands_run(h, 0, 1, false);
        if (facing(h) == d) return NULL;
    }
    if (h->world.state != STATE_FIELD) return "the turn was interrupted";
    hands_run(h, KEY_START, HOLD, false);
    hands_run(h, 0, 2, false);
    for (int i = 0; i < HOLD_LIMIT && facing(h) != d; i++) hands_run(h, pad_keys(d), 1, false);
    hands_run(h, 0, 2, false);
    hands_run(h, KEY_B, HOLD, false);
    hands_run(h, 0, 3, false);
    return facing(h) == d ? NULL : "did not turn";
}

static const char *hit(struct hands *h, int d) {
    const char *why = turn(h, d);
    if (why) return why;
    return press_until_taken(h, KEY_A, HOLD_LIMIT) ? NULL : "the attack was not taken";
}

static const char *use_move(struct hands *h) {
    hands_run(h, KEY_L, HOLD, false);
    return press_until_taken(h, KEY_L | KEY_A, HOLD_LIMIT) ? NULL : "the move was not taken";
}

/* ---- menus ------------------------------------------------------------------------------------------------------------- */

static bool in_main_menu(const struct world *w, int unused) {
    (void)unused;
    return w->state == STATE_MENU && (w->window_mode == 6 || w->window_mode == 7);
}
static bool in_list(const struct world *w, int unused) {
    (void)unused;
    return w->state == STATE_MENU && w->window_mode == 10 && !w->action_count;
}
static bool in_actions(const struct world *w, int unused) {
    (void)unused;
    return w->state == STATE_MENU && w->action_count > 0;
}
static bool cursor_is_not(const struct world *w, int row) { return w->menu_cursor != row; }
static bool left_menu(const struct world *w, int unused) {
    (void)unused;
    return w->state != STATE_MENU && w->state != STATE_HISTORY;
}

static const char *close_menus(struct hands *h) {
    for (int i = 0; i < 5 && !left_menu(&h->world, 0); i++) press_for(h, KEY_B, HOLD, left_menu, 0);
    return left_menu(&h->world, 0) ? NULL : "the menu does not close";
}

static bool cursor_to(struct hands *h, int row) {
    for (int i = 0; i < MENU_STEPS && h->world.menu_cursor != row; i++) {
        int now = h->world.menu_cursor;
        if (!press_for(h, row > now ? KEY_DOWN : KEY_UP, HOLD, cursor_is_not, now)) return false;
    }
    return h->world.menu_cursor == row;
}

/* Row of the open action menu that eats, heals or throws; -1 none. Action ids: pmd-red.md, "actions". */
static int action_row(const struct world *w, enum item_use use) {
    for (int i = 0; i < w->action_count && i < MAX_MENU_ROWS; i++) {
        int id = w->actions[i].action;
        bool fits = use == ITEM_USE_THROW ? id == 11 || id == 39 || id == 65 : id == 13 || id == 56;
        if (fits && w->actions[i].selectable) return i;
    }
    return -1;
}

static int first_row(const struct world *w) {
    for (int i = 0; i < w->action_count && i < MAX_MENU_ROWS; i++) {
        if (w->actions[i].selectable) return i;
    }
    return -1;
}

static const char *use_slot_in_menu(struct hands *h, int slot, enum item_use use) {
    enum { ROW_ITEMS = 1 };
    int item = h->world.bag[slot].id;
    if (!press_for(h, KEY_B, TAP, in_main_menu, 0)) return "the menu did not open";
    if (!cursor_to(h, ROW_ITEMS)) return "the menu's cursor did not reach Items";
    if (!press_for(h, KEY_A, HOLD, in_list, 0)) return "the list of items did not open";
    if (!cursor_to(h, slot)) return "the cursor did not reach the item";
    if (!press_for(h, KEY_A, HOLD, in_actions, 0)) return "the item's actions did not open";
    if (h->world.actions[0].item != item) return "another item was chosen";
    int row = action_row(&h->world, use);
    if (row < 0 && use == ITEM_USE_NONE) row = first_row(&h->world);
    if (row < 0) return "the item can't be used that way";
    if (!cursor_to(h, row)) return "the cursor did not reach the action";
    return press_for(h, KEY_A, HOLD, left_menu, 0) ? NULL : "the action was not taken";
}

static const char *use_slot(struct hands *h, int slot, enum item_use use) {
    const char *why = use_slot_in_menu(h, slot, use);
    if (why && scene_of(&h->world) == SCENE_MENU) close_menus(h);
    return why;
}

static const char *use_item(struct hands *h, enum item_use use) {
    int slot = bag_find(&h->world, use);
    return slot < 0 ? "the bag holds no such thing" : use_slot(h, slot, use);
}

const char *hands_use_row(struct hands *h, int row) {
    if (row < 0 || row >= h->world.bag_count || row >= MENU_SLOTS) return "the bag has no such row";
    return use_slot(h, row, ITEM_USE_NONE);
}

const char *hands_talk(struct hands *h, int d) {
    const char *why = turn(h, d);
    if (why) return why;
    return press_until_taken(h, KEY_A, HOLD_LIMIT) ? NULL : "nobody answers";
}

int foe_in_line(const struct world *w, int min, int max) {
    const struct monster *l = world_leader(w);
    int best = -1, best_steps = max + 1;
    for (int d = 0; l && d < 8; d++) {
        struct point p = l->at;
        for (int steps = 1; steps < best_steps && tile_step_allowed(w, p, d); steps++) {
            p.x = (int16_t)(p.x + direction_dx[d]);
            p.y = (int16_t)(p.y + direction_dy[d]);
            if (!foe_at(w, p.x, p.y)) continue;
            if (steps >= min) best = d, best_steps = steps;
            break;
        }
    }
    return best;
}

static const char *throw_item(struct hands *h) {
    int d = foe_in_line(h->seen ? &h->seen->now : &h->world, 1, THROW_SIGHT); /* at what is seen, not at what lurks in the dark */
    const char *why = d >= 0 ? turn(h, d) : NULL;
    return why ? why : use_item(h, ITEM_USE_THROW);
}

static const char *start_game(struct hands *h) {
    enum { TRIES = 20, PAUSE = 24 };
    for (int i = 0; i < TRIES; i++) {
        hands_run(h, KEY_START, 3, false);
        hands_run(h, 0, PAUSE, false);
        if (h->world.state != STATE_TITLE) return NULL;
    }
    return "START does not leave the title screen";
}

static bool choice_is_not(const struct world *w, int row) { return w->choice_cursor != row; }

static const char *choose(struct hands *h, bool yes) {
    int row = yes ? 0 : 1; /* Yes is the first row, whichever is the default */
    for (int i = 0; i < MENU_STEPS && h->world.choice_cursor != row; i++) {
        int now = h->world.choice_cursor;
        if (!press_for(h, row > now ? KEY_DOWN : KEY_UP, HOLD, choice_is_not, now)) return "the cursor did not reach the answer";
    }
    if (h->world.choice_cursor != row) return "the cursor did not reach the answer";
    return press_until_taken(h, KEY_A, HOLD_LIMIT) ? NULL : "the answer was not taken";
}

const char *hands_act(struct hands *h, int action) {
    if (action < ACTION_HIT) return walk(h, action - ACTION_WALK);
    if (action < ACTION_USE_MOVE) return hit(h, action - ACTION_HIT);
    switch (action) {
    case ACTION_USE_MOVE: return use_move(h);
    case ACTION_EAT: return use_item(h, ITEM_USE_FOOD);
    case ACTION_HEAL: return use_item(h, ITEM_USE_HEAL);
    case ACTION_THROW: return throw_item(h);
    case ACTION_WAIT: return press_until_taken(h, KEY_A | KEY_B, HOLD_LIMIT) ? NULL : "waiting was not taken";
    case ACTION_PROCEED:
        if (!cursor_to(h, 0)) return "the cursor did not reach Proceed";
        return press_until_taken(h, KEY_A, HOLD_LIMIT) ? NULL : "Proceed was not taken";
    case ACTION_STAY: return press_until_taken(h, KEY_B, HOLD_LIMIT) ? NULL : "the prompt did not close";
    case ACTION_NEXT:
        if (h->world.state == STATE_TITLE) return start_game(h);
        return press_until_taken(h, KEY_A, HOLD_LIMIT) ? NULL : "the text did not go on";
    case ACTION_YES: return choose(h, true);
    case ACTION_NO: return choose(h, false);
    case ACTION_CLOSE: return close_menus(h);
    default: return "no such action";
    }
}
