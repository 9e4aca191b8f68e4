/* The loop: observe, decide, act, publish; until the dungeon is cleared, the leader has fainted or the budget is used up. */
#include "agent/room.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/ending.h"
#include "agent/human.h"
#include "agent/home.h"
#include "base/clock.h"
#include "record/counts.h"

enum {
    SEED_WORD = 0x0203B458,   /* the stream of floor seeds, pmd-red.md 2.4: what stands there when START is pressed is the run's seed */
    BOOT_FRAMES = 40, BOOT_LIMIT = 1200, END_FRAMES = 60,
    DEFAULT_DECISIONS = 2000,
    IDLE_DECISIONS = 60,      /* without a turn or a new floor: stuck */
    WATCHDOG_RETURNS = 3,     /* an episode */
    SAVE_DECISIONS = 50,      /* from one state kept to the next on the same floor */
};
int agent_new(struct emulator *e, const struct agent_options *options, struct agent **out, struct err *err) {
    *out = NULL;
    if (options->policy < 0 || options->policy >= POLICY_COUNT) return err_set(err, ERR_ARGUMENT, "no such policy: %d", options->policy);
    if (options->policy == POLICY_MODEL && !options->model && !options->answerer) return err_set(err, ERR_ARGUMENT, "the policy \"model\" needs a model");
    if (options->policy == POLICY_EXTERNAL && !options->external) return err_set(err, ERR_ARGUMENT, "the policy \"external\" needs somebody to ask");
    if (options->history < 0 || options->history > HISTORY_MAX) return err_set(err, ERR_ARGUMENT, "a history of %d exchanges: expected 0 to %d", options->history, HISTORY_MAX);
    struct agent *a = calloc(1, sizeof *a);
    if (!a) return err_set(err, ERR_MEMORY, "out of memory for an agent");
    int code = 0;
    a->options = *options;
    for (int i = 0; i < options->rate_count; i++) count_skill(a->rates, &a->rate_count, options->rates[i].name, options->rates[i].used, options->rates[i].succeeded);
    hands_open(&a->hands, e, options);
    a->hands.seen = &a->seen;
    if (options->policy == POLICY_MODEL || options->ask_oracle) {
        char path[4096];
        code = prompt_template_load(options->prompt_file ? options->prompt_file : home_file(HOME_PROMPT, path, sizeof path), &a->prompt, err);
    }
    if (!code && (options->acting == ACT_BY_SKILLS || options->parts & PART_STUCK)) {
        char path[4096];
        code = skill_set_load(options->skill_folder ? options->skill_folder : home_file(HOME_SKILLS, path, sizeof path), a->prompt.skills, &a->skills, err);
    }
    if (!code && a->prompt.always) code = prompt_template_catalogue(&a->prompt, options->acting == ACT_BY_SKILLS ? &a->skills : NULL, err);
    if (!code && options->policy == POLICY_MODEL) {
        struct ask_options ask = {a->prompt.system[SCENE_NONE], options->greedy || options->temperature <= 0, options->temperature, options->events,
                                  options->answerer};
        code = asker_new(options->model, &ask, &a->asker, err);
    }
    if (!code && options->perception_every > 0 && a->asker) code = perceiver_open(&a->perceiver, NULL, a->asker, err);
    if (!code && options->upscale > 1) {
        size_t n = (size_t)(options->upscale < UPSCALE_MAX ? options->upscale : UPSCALE_MAX);
        a->options.upscale = (int)n;
        if (!(a->large = malloc(n * n * FRAME_PIXELS * 3))) code = err_set(err, ERR_MEMORY, "out of memory for a larger picture");
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
    refusal_free(a);
    conversation_forget(&a->conversation);
    oracle_free(a->oracle);
    oracle_free(a->omniscient);
    prompt_template_free(&a->prompt);
    buf_free(&a->saved);
    perceiver_close(&a->perceiver);
    free(a->large);
    if (a->own_emulator) emulator_close(a->own_emulator);
    free(a);
}

/* ---- an episode, step by step ------------------------------------------------------------------------------------------------ */

/* Resets, waits for the title screen and sets the seed; ends with the first frame of the first step. */
int episode_begin(struct agent *a, uint32_t seed, struct err *err) {
    struct hands *h = &a->hands;
    hands_begin(h);
    world_seen_reset(&a->seen);
    prompt_forget(&a->memory);
    conversation_begin(&a->conversation, a->options.policy == POLICY_MODEL ? a->options.history : 0);
    *a->instead = 0;
    map_memory_reset(&a->map);
    stuck_reset(&a->stuck);
    a->escalated = false;
    *a->skill_end = 0;
    buf_clear(&a->saved);
    a->turns_before = 0;
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
    if (emulator_failed(h->e, err)) return err->code;
    if (h->world.state != STATE_TITLE && !hands_stopped(h)) {
        return err_set(err, ERR_STATE, "%s (%s): no title screen after %d frames (state %s%s%s)", h->title, h->code, BOOT_LIMIT,
                       game_state_name[h->world.state], h->world.unread_count ? ": " : "", h->world.unread_count ? h->world.unread[0] : "");
    }
    emulator_write32(h->e, SEED_WORD, seed);
    for (const struct agent_events *v = a->options.events; subscriber(v); v++) {
        if (v->episode_begun) v->episode_begun(v->user, seed, h->e);
    }
    hands_run(h, 0, 1, true);
    return emulator_failed(h->e, err);
}

static void observe(struct agent *a, struct step *s) {
    struct hands *h = &a->hands;
    double start = clock_seconds(), decode = h->decode_seconds;
    enum scene scene = scene_of(&h->world);
    s->decode_ms = decode * 1e3; /* of all decodes since the observation before */
    h->decode_seconds = 0;
    world_seen_update(&a->seen, &h->world);
    map_memory_update(&a->map, &a->seen);
    memcpy(&a->observed, &a->seen, sizeof a->observed);
    prompt_observe(&a->memory, &a->seen.now, scene);
    s->first_frame = emulator_frame(h->e, a->picture);
    frame_hash(a->picture, s->frame_hash);
    emulator_state_hash(h->e, s->state_hash);
    s->frame = a->picture;
    s->world = &h->world;
    s->seen = &a->observed;
    s->scene = scene_name[scene];
    s->observe_ms = (clock_seconds() - start) * 1e3;
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
        if (h->world.state == STATE_GROUND) snprintf(cause, cap, "on the ground (town, base or a scene), which is not played yet");
        else snprintf(cause, cap, "the game took no input (%s) on floor %d", game_state_name[h->world.state], h->floor);
        return OUTCOME_STUCK;
    }
    if (a->step.decided_by == BY_HUMAN) a->idle = 0; /* a person may take his time */
    else if (idles(a)) return snprintf(cause, cap, "no turn passed in %d decisions on floor %d", IDLE_DECISIONS, h->floor), OUTCOME_STUCK;
    if ((int)a->step.number >= budget) return snprintf(cause, cap, "%d decisions used up on floor %d", budget, h->floor), OUTCOME_OUT_OF_BUDGET;
    return OUTCOME_NONE;
}

/* Single acts inside a skill are remembered like the model's own, where it knows nothing else. */
static void skill_did(void *user, int act) {
    struct agent *a = user;
    bool steps = a->options.acting == ACT_BY_STEPS || a->prompt.answers == ANSWER_STEPS;
    if (steps && act < ACTION_COUNT) prompt_did(&a->memory, action_name[act]);
}

/* Does what was chosen; true: the game takes input again. */
static bool act(struct agent *a, struct step *s) {
    struct hands *h = &a->hands;
    if (a->choice.action >= 0) {
        const char *why = hands_act(h, a->choice.action);
        if (why) reason_add(a, why);
        snprintf(a->skill_end, sizeof a->skill_end, "%s", why ? why : "");
        prompt_did(&a->memory, action_name[a->choice.action]);
        return hands_ready(h);
    }
    const struct skill *k = &a->skills.skills[a->choice.skill];
    struct skill_room room = {h, &a->seen, agent_map(a), skill_did, a};
    struct skill_result r;
    skill_first_act(k, &a->seen, room.map, scene_of(&h->world), a->choice.argument, &a->plan);
    s->plan = &a->plan;
    skill_run(k, &room, a->choice.argument, &r);
    if (a->options.acting == ACT_BY_SKILLS && a->prompt.answers == ANSWER_SKILLS) prompt_did(&a->memory, a->action_text);
    snprintf(a->skill_end, sizeof a->skill_end, "%s", r.words);
    s->skill_end = a->skill_end;
    count_skill(a->result.skills, &a->result.skill_count, k->name, 1, r.success);
    count_skill(a->rates, &a->rate_count, k->name, 1, r.success);
    if (s->decided_by == BY_STUCK) stuck_forced(&a->stuck, h->turns);
    return r.ready;
}

/* One decision, from the picture to the moment when the next is due. */
int episode_step(struct agent *a, enum outcome *outcome, struct err *err) {
    struct hands *h = &a->hands;
    struct step *s = &a->step;
    uint32_t number = s->number + 1;
    double start = clock_seconds(), emulator = h->emulator_seconds, watch = h->watch_seconds;
    *s = (struct step){.number = number};
    path_seconds(); /* from here on */
    observe(a, s);
    bool human = control_human(a->options.control);
    if (human) s->action = HUMAN_ACTION, s->decided_by = BY_HUMAN, note_instead(a, "a person at the keys");
    int code = human ? 0 : agent_decide(a, s, err);
    if (code) return code;
    double acting = clock_seconds();
    h->step = s;
    h->presses_full = false;
    struct world before = h->world; /* subscribers see the world that was decided on */
    int turns = h->turns;
    bool ready = human ? human_act(h, a->options.control, a->reason, sizeof a->reason) || hands_ready(h) : act(a, s);
    *outcome = step_outcome(a, ready);
    h->step = NULL;
    if (emulator_failed(h->e, err)) return err->code; /* a remote one: the step did not come to its end */
    a->result.turns_by[s->decided_by] += h->turns - turns;
    s->reason = a->reason;
    s->world = &before;
    double end = clock_seconds() - (h->watch_seconds - watch); /* who watches is not part of the decision */
    s->act_ms = (end - acting) * 1e3;
    s->total_ms = (end - start) * 1e3;
    s->emulator_ms = (h->emulator_seconds - emulator) * 1e3;
    s->path_ms = path_seconds() * 1e3;
    a->result.decided[s->decided_by]++;
    a->result.decisions++;
    for (const struct agent_events *v = a->options.events; subscriber(v); v++) {
        if (v->step_done) v->step_done(v->user, s);
    }
    answer_free(&a->answer);
    refusal_free(a);
    return 0;
}

/* ---- the watchdog ---------------------------------------------------------------------------------------------------------------- */

/* Keeps the state of a free field in which something has just moved: at every new floor, and now and then. */
static void keep_state(struct agent *a) {
    if (!a->options.watchdog || scene_of(&a->hands.world) != SCENE_FIELD || a->idle) return;
    if (a->saved.len && a->saved_floor == a->hands.floor && a->step.number < a->saved_at + SAVE_DECISIONS) return;
    buf_clear(&a->saved);
    if (emulator_state_save(a->hands.e, &a->saved, NULL)) buf_clear(&a->saved);
    a->saved_at = a->step.number;
    a->saved_floor = a->hands.floor;
}

static void finish_result(struct agent *a, enum outcome outcome, double start) {
    struct episode_result *r = &a->result;
    r->outcome = outcome;
    r->floor_reached = a->hands.floor;
    r->turns = a->hands.turns - a->turns_before;
    r->emulator_seconds = a->hands.emulator_seconds;
    r->seconds = clock_seconds() - start;
    for (const struct agent_events *v = a->options.events; subscriber(v); v++) {
        if (v->episode_done) v->episode_done(v->user, r);
    }
}

/* Out of a soft-lock to the state that was kept. For those who watch the episode ends here as stuck and another begins, with a start state of
 * its own: so a run stays a row of presses that can be played again. 1: it went back, 0: it may not, negative: err. */
static int go_back(struct agent *a, enum outcome outcome, int returns, double start, struct err *err) {
    struct hands *h = &a->hands;
    if (!a->options.watchdog || outcome != OUTCOME_STUCK || !a->saved.len || returns >= WATCHDOG_RETURNS) return 0;
    a->result.returns = true;
    finish_result(a, outcome, start);
    int code = emulator_state_load(h->e, a->saved.data, a->saved.len, err);
    if (code) return code;
    a->turns_before = h->turns;
    a->step.number = a->saved_at = 0;
    a->idle = 0;
    stuck_reset(&a->stuck);
    conversation_forget(&a->conversation); /* what it tells has not happened */
    *a->instead = 0;
    memset(&a->result, 0, sizeof a->result);
    a->result.seed = a->seed;
    for (const struct agent_events *v = a->options.events; subscriber(v); v++) {
        if (v->episode_begun) v->episode_begun(v->user, a->seed, h->e);
    }
    hands_run(h, 0, 1, true);
    return 1;
}

int agent_play_episode(struct agent *a, uint32_t seed, struct episode_result *out, struct err *err) {
    double start = clock_seconds();
    struct episode_result before = {0}; /* of parts that ended in a soft-lock */
    int code = episode_begin(a, seed, err);
    if (code) return code;
    for (int returns = 0;; returns++) {
        enum outcome outcome = OUTCOME_NONE;
        while (outcome == OUTCOME_NONE) {
            keep_state(a);
            if ((code = episode_step(a, &outcome, err))) return code;
        }
        struct episode_result part = a->result;
        part.turns = a->hands.turns - a->turns_before;
        if ((code = go_back(a, outcome, returns, start, err)) < 0) return code;
        if (code) {
            episode_result_join(&before, &part);
            continue;
        }
        a->result.parts.restored = returns;
        finish_result(a, outcome, start);
        break;
    }
    *out = a->result;
    episode_result_join(out, &before);
    return 0;
}
