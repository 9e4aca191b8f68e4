/* The loop: observe, decide, act, publish; until the dungeon is cleared, the leader has fainted or the budget is used up. */
#include "agent/agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/ask.h"
#include "agent/ending.h"
#include "agent/hands.h"
#include "agent/home.h"
#include "agent/prompt.h"
#include "base/clock.h"

enum {
    SEED_WORD = 0x0203B458,   /* the stream of floor seeds, pmd-red.md 2.4: what stands there when START is pressed is the run's seed */
    BOOT_FRAMES = 40, BOOT_LIMIT = 1200, END_FRAMES = 60,
    DEFAULT_DECISIONS = 2000,
    IDLE_DECISIONS = 60,      /* without a turn or a new floor: stuck */
    DONOR_TRIES = 40,
};
static const uint32_t donor_seed = 0x9E3779B9;

struct agent {
    struct agent_options options;
    struct hands hands;
    struct prompt_template prompt;
    struct asker *asker;
    struct oracle *oracle;     /* decides, or teaches when options.ask_oracle is set */
    struct oracle *omniscient; /* decides */
    struct agent *donor;       /* plays another seed for PICTURE_OTHER_SEED; owns its emulator */
    struct emulator *own_emulator;
    uint64_t random;
    uint32_t seed, donor_runs;
    enum outcome donor_outcome;

    struct world_seen seen;
    struct prompt_memory memory;
    uint8_t picture[FRAME_PIXELS * 3], shown[FRAME_PIXELS * 3];
    char prompt_text[PROMPT_BYTES], reason[320];
    struct step step;
    struct answer answer;
    struct episode_result result;
    int idle, idle_turns, idle_floor;
};

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

static int donor_new(struct agent *a, struct err *err);

int agent_new(struct emulator *e, const struct agent_options *options, struct agent **out, struct err *err) {
    *out = NULL;
    if (options->policy < 0 || options->policy >= POLICY_COUNT) return err_set(err, ERR_ARGUMENT, "no such policy: %d", options->policy);
    if (options->policy == POLICY_MODEL && !options->model && !options->answerer) return err_set(err, ERR_ARGUMENT, "the policy \"model\" needs a model");
    if (options->policy == POLICY_EXTERNAL && !options->external) return err_set(err, ERR_ARGUMENT, "the policy \"external\" needs somebody to ask");
    struct agent *a = calloc(1, sizeof *a);
    if (!a) return err_set(err, ERR_MEMORY, "out of memory for an agent");
    int code = 0;
    a->options = *options;
    hands_open(&a->hands, e, options);
    if (options->policy == POLICY_MODEL || options->ask_oracle) {
        char path[4096];
        code = prompt_template_load(options->prompt_file ? options->prompt_file : home_file(HOME_PROMPT, path, sizeof path), &a->prompt, err);
    }
    if (!code && options->policy == POLICY_MODEL) {
        struct ask_options ask = {a->prompt.system, options->greedy || options->temperature <= 0, options->temperature, options->events,
                                  options->answerer};
        code = asker_new(options->model, &ask, &a->asker, err);
    }
    if (!code && !(a->oracle = oracle_new(false))) code = err_set(err, ERR_MEMORY, "out of memory for an oracle");
    if (!code && !(a->omniscient = oracle_new(true))) code = err_set(err, ERR_MEMORY, "out of memory for an oracle");
    if (!code && options->picture == PICTURE_OTHER_SEED) code = donor_new(a, err);
    if (code) {
        agent_free(a);
        return code;
    }
    *out = a;
    return 0;
}

void agent_free(struct agent *a) {
    if (!a) return;
    agent_free(a->donor);
    asker_free(a->asker);
    answer_free(&a->answer);
    oracle_free(a->oracle);
    oracle_free(a->omniscient);
    prompt_template_free(&a->prompt);
    if (a->own_emulator) emulator_close(a->own_emulator);
    free(a);
}

/* ---- an episode, step by step ------------------------------------------------------------------------------------------------ */

/* Resets, waits for the title screen and sets the seed; ends with the first frame of the first step. */
static int episode_begin(struct agent *a, uint32_t seed, struct err *err) {
    struct hands *h = &a->hands;
    hands_begin(h);
    world_seen_reset(&a->seen);
    prompt_forget(&a->memory);
    memset(&a->step, 0, sizeof a->step);
    memset(&a->result, 0, sizeof a->result);
    a->idle = a->idle_turns = a->idle_floor = 0;
    a->seed = a->result.seed = seed;
    a->random = seed ^ 0x5DEECE6600000000u;

    emulator_reset(h->e);
    for (int frames = 0; frames < BOOT_LIMIT; frames += BOOT_FRAMES) {
        hands_run(h, 0, BOOT_FRAMES, false);
        if (h->world.state == STATE_TITLE || hands_stopped(h)) break;
    }
    if (h->world.state != STATE_TITLE && !hands_stopped(h)) {
        return err_set(err, ERR_STATE, "%s (%s): no title screen after %d frames (state %s%s%s)", h->title, h->code, BOOT_LIMIT,
                       game_state_name[h->world.state], h->world.unread_count ? ": " : "", h->world.unread_count ? h->world.unread[0] : "");
    }
    emulator_write32(h->e, SEED_WORD, seed);
    for (const struct agent_events *v = a->options.events; subscriber(v); v++) {
        if (v->episode_begun) v->episode_begun(v->user, seed, h->e);
    }
    hands_run(h, 0, 1, true);
    return 0;
}

static void observe(struct agent *a, struct step *s) {
    struct hands *h = &a->hands;
    double start = clock_seconds(), decode = h->decode_seconds;
    enum scene scene = scene_of(&h->world);
    s->decode_ms = decode * 1e3; /* of all decodes since the observation before */
    h->decode_seconds = 0;
    world_seen_update(&a->seen, &h->world);
    prompt_observe(&a->memory, &a->seen.now, scene);
    s->first_frame = emulator_frame(h->e, a->picture);
    frame_hash(a->picture, s->frame_hash);
    emulator_state_hash(h->e, s->state_hash);
    s->frame = a->picture;
    s->world = &h->world;
    s->seen = &a->seen;
    s->scene = scene_name[scene];
    s->observe_ms = (clock_seconds() - start) * 1e3;
}

static const uint8_t *donor_picture(struct agent *a, bool field);

static void reason_add(struct agent *a, const char *text) {
    size_t n = strlen(a->reason);
    snprintf(a->reason + n, sizeof a->reason - n, "%s%s", n ? "; " : "", text);
}

static int ask_model(struct agent *a, struct step *s, enum scene scene, const bool offered[ACTION_COUNT]) {
    const uint8_t *picture = a->picture;
    if (a->options.picture == PICTURE_BLANK) picture = memset(a->shown, 0, sizeof a->shown);
    if (a->options.picture == PICTURE_OTHER_SEED) picture = donor_picture(a, scene == SCENE_FIELD);
    asker_ask(a->asker, picture, a->prompt_text, offered, a->seed, s->number, &a->answer);
    const struct answer *r = &a->answer;
    s->answer = r->text;
    s->prompt_tokens = r->prompt_tokens;
    s->prompt_token_count = r->prompt_token_count;
    s->answer_tokens = r->answer_tokens;
    s->answer_token_count = r->answer_token_count;
    s->confidence = r->confidence;
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

static int decide(struct agent *a, struct step *s, struct err *err) {
    const struct agent_options *o = &a->options;
    enum scene scene = scene_of(&a->hands.world);
    bool offered[ACTION_COUNT];
    int count = scene_offers(&a->seen.now, scene, offered), action = -1, taught = -1;
    const char *why = NULL;
    *a->reason = 0;
    if (o->policy == POLICY_MODEL || o->ask_oracle) {
        if (prompt_template_fill(&a->prompt, &a->seen, scene, &a->memory, a->prompt_text, err) < 0) return err->code ? err->code : ERR_LIMIT;
        s->prompt = a->prompt_text;
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

/* Nothing has moved for a long time: the same picture gets the same answer again and again. */
static bool idles(struct agent *a) {
    struct hands *h = &a->hands;
    a->idle = h->turns == a->idle_turns && h->floor == a->idle_floor ? a->idle + 1 : 0;
    a->idle_turns = h->turns;
    a->idle_floor = h->floor;
    return a->idle >= IDLE_DECISIONS;
}

static enum outcome step_outcome(struct agent *a, bool ready) {
    struct hands *h = &a->hands;
    enum outcome outcome = hands_outcome(h);
    char *cause = a->result.cause;
    size_t cap = sizeof a->result.cause;
    int budget = a->options.max_decisions > 0 ? a->options.max_decisions : DEFAULT_DECISIONS;
    if (outcome != OUTCOME_NONE) {
        if (outcome != OUTCOME_CLEARED) ending_cause(&h->world, outcome, h->floor, cause, cap);
        hands_run(h, 0, END_FRAMES, true); /* until the result is on the screen */
        return outcome;
    }
    if (hands_stopped(h)) return snprintf(cause, cap, "stopped"), OUTCOME_STOPPED;
    if (!ready || h->frames > EPISODE_FRAMES) {
        snprintf(cause, cap, "the game took no input (%s) on floor %d", game_state_name[h->world.state], h->floor);
        return OUTCOME_STUCK;
    }
    if (idles(a)) return snprintf(cause, cap, "no turn passed in %d decisions on floor %d", IDLE_DECISIONS, h->floor), OUTCOME_STUCK;
    if ((int)a->step.number >= budget) return snprintf(cause, cap, "%d decisions used up on floor %d", budget, h->floor), OUTCOME_OUT_OF_BUDGET;
    return OUTCOME_NONE;
}

/* One decision, from the picture to the moment when the next is due. */
static int episode_step(struct agent *a, enum outcome *outcome, struct err *err) {
    struct hands *h = &a->hands;
    struct step *s = &a->step;
    uint32_t number = s->number + 1;
    double start = clock_seconds(), emulator = h->emulator_seconds, watch = h->watch_seconds;
    *s = (struct step){.number = number};
    observe(a, s);
    int action = decide(a, s, err);
    if (action < 0) return action;
    double acting = clock_seconds();
    h->step = s;
    h->presses_full = false;
    struct world before = h->world; /* subscribers see the world that was decided on */
    const char *why = hands_act(h, action);
    if (why) reason_add(a, why);
    bool ready = hands_ready(h);
    *outcome = step_outcome(a, ready);
    h->step = NULL;
    prompt_did(&a->memory, action);
    s->reason = a->reason;
    s->world = &before;
    double end = clock_seconds() - (h->watch_seconds - watch); /* who watches is not part of the decision */
    s->act_ms = (end - acting) * 1e3;
    s->total_ms = (end - start) * 1e3;
    s->emulator_ms = (h->emulator_seconds - emulator) * 1e3;
    a->result.decided[s->decided_by]++;
    a->result.decisions++;
    for (const struct agent_events *v = a->options.events; subscriber(v); v++) {
        if (v->step_done) v->step_done(v->user, s);
    }
    answer_free(&a->answer);
    return 0;
}

int agent_play_episode(struct agent *a, uint32_t seed, struct episode_result *out, struct err *err) {
    double start = clock_seconds();
    int code = episode_begin(a, seed, err);
    if (code) return code;
    enum outcome outcome = OUTCOME_NONE;
    while (outcome == OUTCOME_NONE) {
        if ((code = episode_step(a, &outcome, err))) return code;
    }
    struct episode_result *r = &a->result;
    r->outcome = outcome;
    r->floor_reached = a->hands.floor;
    r->turns = a->hands.turns;
    r->emulator_seconds = a->hands.emulator_seconds;
    r->seconds = clock_seconds() - start;
    for (const struct agent_events *v = a->options.events; subscriber(v); v++) {
        if (v->episode_done) v->episode_done(v->user, r);
    }
    *out = *r;
    return 0;
}

/* ---- the picture of another seed ----------------------------------------------------------------------------------------------- */

static int donor_new(struct agent *a, struct err *err) {
    struct emulator *e;
    const struct memory_view *m = &a->hands.memory;
    if (!m->rom) return err_set(err, ERR_STATE, "the picture of another seed needs the ROM in memory");
    int code = emulator_open(m->rom, m->rom_bytes, NULL, &e, err);
    if (code) return code;
    struct agent_options o = {.policy = POLICY_ORACLE, .stop = a->options.stop};
    if ((code = agent_new(e, &o, &a->donor, err))) {
        emulator_close(e);
        return code;
    }
    a->donor->own_emulator = e;
    return 0;
}

/* The donor's next picture, of the field when ours is one. */
static const uint8_t *donor_picture(struct agent *a, bool field) {
    struct agent *d = a->donor;
    struct err err = {0};
    double before = d->hands.emulator_seconds;
    for (int i = 0; i < DONOR_TRIES && !hands_stopped(&a->hands); i++) {
        if (!d->step.number || a->donor_outcome != OUTCOME_NONE) {
            if (episode_begin(d, (a->seed ^ donor_seed) + d->donor_runs++, &err)) break;
            before = d->hands.emulator_seconds;
        }
        if (episode_step(d, &a->donor_outcome, &err)) break;
        if (!field || !strcmp(d->step.scene, scene_name[SCENE_FIELD])) break;
    }
    a->hands.emulator_seconds += d->hands.emulator_seconds - before;
    return d->picture;
}
