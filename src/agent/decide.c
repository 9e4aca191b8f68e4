/* Who decides: the model with what is around it (model_choice.c), a yardstick, dice, or somebody outside. */
#include "agent/room.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/control.h"
#include "base/clock.h"

static uint64_t random_next(uint64_t *state) { /* splitmix64, Vigna 2015 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static uint32_t random_below(uint64_t *state, uint32_t n) { return (uint32_t)((random_next(state) >> 32) * n >> 32); }

/* True with this probability; draws nothing at 0, so that a run without dice stays the same. */
static bool dice(struct agent *a, float probability) {
    return probability > 0 && (float)(random_next(&a->random) >> 40) * 0x1p-24f < probability;
}

void reason_add(struct agent *a, const char *text) {
    size_t n = strlen(a->reason);
    if (*text) snprintf(a->reason + n, sizeof a->reason - n, "%s%s", n ? "; " : "", text);
}

void note_instead(struct agent *a, const char *what) {
    size_t n = strlen(a->instead);
    if (!a->conversation.limit) return;
    if (n + strlen(what) + 2 >= sizeof a->instead) n = 0; /* the newest count */
    snprintf(a->instead + n, sizeof a->instead - n, "%s%s", n ? ", " : "", what);
}

void refusal_free(struct agent *a) {
    free(a->refused_answer);
    free(a->refused_tokens);
    a->refused_answer = NULL;
    a->refused_tokens = NULL;
    a->refused_token_count = 0;
}

struct choice action_choice(int action) { return (struct choice){.action = action, .skill = -1}; }

/* The action that changes least. */
struct choice safe_choice(enum scene scene) {
    switch (scene) {
    case SCENE_STAIRS: return action_choice(ACTION_STAY);
    case SCENE_CHOICE: return action_choice(ACTION_NO);
    case SCENE_MENU: return action_choice(ACTION_CLOSE);
    case SCENE_FIELD: return action_choice(ACTION_WAIT);
    default: return action_choice(ACTION_NEXT);
    }
}

/* A tile that was seen, open and can be walked to, or a row of the bag. */
static void random_argument(struct agent *a, struct choice *c) {
    const struct world *w = &a->seen.now;
    const struct monster *l = world_leader(w);
    enum skill_arguments kind = a->skills.skills[c->skill].arguments;
    if (kind == ARGUMENTS_ITEM) c->argument[0] = 1 + (int)random_below(&a->random, (uint32_t)(w->bag_count < MENU_SLOTS ? w->bag_count : MENU_SLOTS));
    if (kind != ARGUMENTS_TILE || !l) return;
    static const struct path_options plain;
    struct distance_field from;
    struct point tiles[MAP_HEIGHT * MAP_WIDTH];
    uint32_t n = 0;
    path_distances(w, &l->at, 1, &plain, &from);
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) {
            if (from.steps[y][x] != 0xFFFF) tiles[n++] = (struct point){(int16_t)x, (int16_t)y};
        }
    }
    struct point p = tiles[random_below(&a->random, n)];
    c->argument[0] = p.x, c->argument[1] = p.y;
}

static struct choice random_choice(struct agent *a, const struct offer *o, enum scene scene) {
    if (!o->count) return scene == SCENE_NONE ? action_choice(ACTION_WAIT) : safe_choice(scene); /* stopped before the game took input */
    bool skills = o->answers == ANSWER_SKILLS;
    int pick = (int)random_below(&a->random, (uint32_t)o->count), i = 0;
    for (;; i++) {
        if ((skills ? o->skills[i] : o->actions[i]) && pick-- == 0) break;
    }
    struct choice c = skills ? (struct choice){.action = -1, .skill = i} : action_choice(i);
    if (skills) random_argument(a, &c);
    return c;
}

/* A step that the ground allows, -1 when the dice or the scene say no. */
static int epsilon_step(struct agent *a, enum scene scene) {
    const struct monster *l = world_leader(&a->seen.now);
    if (scene != SCENE_FIELD || !l || !dice(a, a->options.epsilon)) return -1;
    int legal[8], n = 0;
    for (int d = 0; d < 8; d++) {
        if (tile_step_allowed(&a->seen.now, l->at, d) && !foe_at(&a->seen.now, l->at.x + direction_dx[d], l->at.y + direction_dy[d])) legal[n++] = d;
    }
    return n ? ACTION_WALK + legal[random_below(&a->random, (uint32_t)n)] : -1;
}

int prompt_make(struct agent *a, struct step *s, const struct sight *sight, const struct offer *offer, struct err *err) {
    const struct agent_options *o = &a->options;
    struct conversation *c = &a->conversation;
    if (!s->refused) conversation_make_room(c);
    a->after_refusal = s->refused && c->count && a->prompt.refused;
    if (o->recall && !s->recalled) {
        memset(&a->recalled, 0, sizeof a->recalled);
        double start = clock_seconds();
        o->recall(o->recall_user, s, &a->recalled);
        s->recall_ms += (clock_seconds() - start) * 1e3;
        s->recalled = &a->recalled;
    }
    struct prompt_view view = {
        .seen = &a->seen, .scene = sight->scene, .memory = &a->memory, .recalled = s->recalled, .picture_only = o->see == SEE_PICTURE,
        .without = o->policy == POLICY_MODEL && o->parts ? ~o->parts : 0, .unstick = s->stuck_level >= RUNG_PROMPT,
        .map = sight->map, .offer = offer, .skills = &a->skills, .rates = a->rates, .rate_count = a->rate_count,
        .refused = s->refused, .stuck = s->stuck, .skill_end = a->skill_end,
        .instead = a->instead, .conversation = c->limit ? c : NULL, .after_refusal = a->after_refusal,
    };
    if (prompt_template_fill(&a->prompt, &view, a->prompt_text, err) < 0) return err->code ? err->code : ERR_LIMIT;
    control_add_note(o->control, a->prompt_text, sizeof a->prompt_text);
    s->system = c->limit ? a->prompt.always : a->prompt.system[sight->scene];
    s->prompt = a->prompt_text;
    return 0;
}

static int ask_outside(struct agent *a, struct step *s, const struct offer *o, enum scene scene, struct err *err) {
    s->decided_by = BY_EXTERNAL;
    int action = a->options.external(a->options.external_user, s, o->actions);
    if (action < 0) return err_set(err, ERR_CANCELLED, "the process that decides has gone");
    a->choice = action_choice(action);
    if (action < ACTION_COUNT && o->actions[action]) return 0;
    reason_add(a, "the action given is not offered here");
    a->choice = safe_choice(scene), s->decided_by = BY_FALLBACK;
    return 0;
}

int agent_decide(struct agent *a, struct step *s, struct err *err) {
    const struct agent_options *o = &a->options;
    struct sight sight = {&a->seen, agent_map(a), &a->skills, scene_of(&a->hands.world)};
    enum scene scene = sight.scene;
    struct offer offer;
    int action = -1, taught = -1, code = 0;
    const char *why = "";
    *a->reason = 0;
    offer_make(&sight, o->acting == ACT_BY_STEPS ? ANSWER_ACTIONS : o->policy == POLICY_MODEL ? a->prompt.answers : ANSWER_SKILLS, &offer);
    offer.note = o->policy == POLICY_MODEL && (o->scratchpad || a->prompt.scratchpad);
    bool decided = o->policy == POLICY_MODEL && stuck_ladder(a, s, &sight);
    if ((o->policy == POLICY_MODEL || o->ask_oracle) && (code = prompt_make(a, s, &sight, &offer, err))) return code;
    for (const struct agent_events *v = o->events; subscriber(v); v++) {
        if (v->observed) v->observed(v->user, s);
    }
    if (o->policy == POLICY_ORACLE || o->ask_oracle || o->mix > 0) taught = oracle_decide(a->oracle, NULL, &a->seen, &why);
    if (o->ask_oracle) s->oracle_action = action_name[taught];

    if ((action = epsilon_step(a, scene)) >= 0) {
        a->choice = action_choice(action), s->decided_by = BY_RANDOM;
    } else if (o->policy == POLICY_ORACLE || dice(a, o->mix)) {
        a->choice = action_choice(taught), s->decided_by = BY_ORACLE;
        reason_add(a, why);
    } else if (o->policy == POLICY_MODEL) {
        if (!decided) code = model_choose(a, s, &sight, &offer, err);
    } else if (o->policy == POLICY_OMNISCIENT) {
        a->choice = action_choice(oracle_decide(a->omniscient, &a->hands.world, &a->seen, &why)), s->decided_by = BY_OMNISCIENT;
        reason_add(a, why);
    } else if (o->policy == POLICY_EXTERNAL) {
        code = ask_outside(a, s, &offer, scene, err);
    } else {
        a->choice = random_choice(a, &offer, scene), s->decided_by = BY_RANDOM;
    }
    choice_print(&a->choice, &a->skills, a->action_text, sizeof a->action_text);
    s->action = a->action_text;
    if (s->decided_by != BY_MODEL) note_instead(a, a->action_text);
    return code;
}
