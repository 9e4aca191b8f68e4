/* Who decides what: the model, a yardstick, dice, or what stands in when an answer cannot be used. */
#include "agent/room.h"

#include <stdio.h>
#include <string.h>

#include "agent/control.h"
#include "agent/explore.h"

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
    snprintf(a->reason + n, sizeof a->reason - n, "%s%s", n ? "; " : "", text);
}

static int ask_model(struct agent *a, struct step *s, enum scene scene, const bool offered[ACTION_COUNT]) {
    const uint8_t *picture = a->picture;
    if (a->options.picture == PICTURE_BLANK) picture = memset(a->shown, 0, sizeof a->shown);
    if (a->options.picture == PICTURE_OTHER_SEED) picture = donor_picture(a, scene == SCENE_FIELD);
    struct answer *r = &a->answer;
    struct buf schema = {0};
    char problem[200] = "";
    action_schema(offered, &schema);
    struct question q = {.prompt = a->prompt_text, .rgb = picture, .schema = schema.data, .seed = (uint64_t)a->seed << 32 | s->number,
                         .decision = s->number, .step = s};
    if (schema.failed) *r = (struct answer){.action = -1, .reason = "out of memory for a schema"};
    else asker_question(a->asker, &q, r);
    buf_free(&schema);
    if (r->text) r->action = action_of_answer(r->text, offered, problem, sizeof problem);
    answer_remark(r, problem);
    s->answer = r->text;
    s->prompt_tokens = r->prompt_tokens;
    s->prompt_token_count = r->prompt_token_count;
    s->answer_tokens = r->answer_tokens;
    s->answer_token_count = r->answer_token_count;
    s->confidence = r->confidence;
    s->model = *r->model ? r->model : NULL;
    s->route_reason = *r->route_reason ? r->route_reason : NULL;
    s->votes = r->votes;
    s->vote_count = r->vote_count;
    s->cached_tokens = r->cached_tokens;
    s->ask_ms = r->total_ms;
    s->image_ms = r->image_ms;
    s->prefill_ms = r->prefill_ms;
    s->generate_ms = r->generate_ms;
    a->result.model_seconds += r->total_ms / 1e3;
    a->result.tokens += r->computed_tokens;
    if (*r->reason) reason_add(a, r->reason);
    return r->action;
}

/* What is done when the model's answer cannot be used: the action that changes least. */
static int fallback(enum scene scene) {
    switch (scene) {
    case SCENE_STAIRS: return ACTION_STAY;
    case SCENE_CHOICE: return ACTION_NO;
    case SCENE_MENU: return ACTION_CLOSE;
    case SCENE_FIELD: return ACTION_WAIT;
    default: return ACTION_NEXT;
    }
}

static int random_action(struct agent *a, const bool offered[ACTION_COUNT], int count) {
    if (!count) return ACTION_WAIT; /* stopped before the game took input */
    int pick = (int)random_below(&a->random, (uint32_t)count), action = 0;
    for (; action < ACTION_COUNT; action++) {
        if (offered[action] && pick-- == 0) break;
    }
    return action;
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

int agent_decide(struct agent *a, struct step *s, struct err *err) {
    const struct agent_options *o = &a->options;
    enum scene scene = scene_of(&a->hands.world);
    bool offered[ACTION_COUNT];
    int count = scene_offers(&a->seen.now, scene, offered), action = -1, taught = -1;
    const char *why = NULL;
    *a->reason = 0;
    if (o->policy == POLICY_MODEL || o->ask_oracle) {
        if (o->recall) {
            a->recalled.count = 0;
            o->recall(o->recall_user, s, &a->recalled);
            s->recalled = &a->recalled;
        }
        struct prompt_view view = {&a->seen, scene, &a->memory, s->recalled};
        if (prompt_template_fill(&a->prompt, &view, a->prompt_text, err) < 0) return err->code ? err->code : ERR_LIMIT;
        control_add_note(o->control, a->prompt_text, sizeof a->prompt_text);
        s->system = a->prompt.system;
        s->prompt = a->prompt_text;
    }
    for (const struct agent_events *v = o->events; subscriber(v); v++) {
        if (v->observed) v->observed(v->user, s);
    }
    if (o->policy == POLICY_ORACLE || o->ask_oracle || o->mix > 0) taught = oracle_decide(a->oracle, NULL, &a->seen, &why);
    if (o->ask_oracle) s->oracle_action = action_name[taught];

    if ((action = epsilon_step(a, scene)) >= 0) {
        s->decided_by = BY_RANDOM;
    } else if (o->policy == POLICY_ORACLE || dice(a, o->mix)) {
        action = taught, s->decided_by = BY_ORACLE;
        reason_add(a, why);
    } else if (o->policy == POLICY_MODEL) {
        s->decided_by = BY_MODEL;
        action = ask_model(a, s, scene, offered);
        if (a->answer.give_up) return err_set(err, ERR_NETWORK, "%s", a->answer.reason);
        if (action < 0) action = fallback(scene), s->decided_by = BY_FALLBACK;
    } else if (o->policy == POLICY_OMNISCIENT) {
        action = oracle_decide(a->omniscient, &a->hands.world, &a->seen, &why), s->decided_by = BY_OMNISCIENT;
        reason_add(a, why);
    } else if (o->policy == POLICY_EXTERNAL) {
        s->decided_by = BY_EXTERNAL;
        action = o->external(o->external_user, s, offered);
        if (action < 0) return err_set(err, ERR_CANCELLED, "the process that decides has gone");
        if (action >= ACTION_COUNT || !offered[action]) {
            reason_add(a, "the action given is not offered here");
            action = fallback(scene), s->decided_by = BY_FALLBACK;
        }
    } else {
        action = random_action(a, offered, count), s->decided_by = BY_RANDOM;
    }
    s->action = action_name[action];
    return action;
}
