/* The games of one call of `play`: each has its emulator, its agent and its run, and they share the model, whose engine computes for all
 * that wait at a time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/play.h"
#include "base/clock.h"

static bool lives_again(const struct game *g) { return g->run.run && run_lives_again(g->run.run); }

/* What a person pressed in the next step on record, while the past is lived again. */
static void script_next(struct game *g, uint32_t number) {
    const struct run_past_step *s = lives_again(g) ? run_past_step(g->run.run, number) : NULL;
    if (s && !strcmp(s->decided_by, decided_by_name[BY_HUMAN])) control_script(g->control, s->presses, s->press_count);
}

static void game_begun(void *user, uint32_t seed, struct emulator *e) {
    struct game *g = user;
    (void)seed, (void)e;
    g->last = clock_seconds();
    script_next(g, 1);
}

/* Comes before the recorder: what is lived again is still known as such. */
static void game_step(void *user, const struct step *s) {
    struct game *g = user;
    /* From the end of the decision before, so that recording and all else is in it; watched, without drawing and keeping pace. */
    double now = clock_seconds(), ms = g->play->watched || g->play->board ? s->total_ms : (now - g->last) * 1e3;
    g->last = now;
    script_next(g, s->number + 1);
    if (lives_again(g)) return;
    samples_add(&g->decision_ms, ms);
    samples_add(&g->overhead_ms, ms - s->ask_ms - s->emulator_ms);
}

/* The last of the subscribers: it makes the game wait. */
static void game_waits(void *user, struct emulator *e) {
    struct game *g = user;
    int number = (int)(g - g->play->games);
    bool looked_at = g->play->board && dashboard_looks(g->play->board, number);
    if (!lives_again(g)) control_gate(g->control, emulator_frame_number(e), g->play->paced || looked_at, g->play->stop);
}
static void game_waits_between(void *user, const struct step *s) {
    struct game *g = user;
    if (!lives_again(g)) control_step_done(g->control, s->first_frame, g->play->stop);
}

static void fail(struct play *p, const struct err *err) {
    pthread_mutex_lock(&p->lock);
    if (!p->err.code) p->err = *err;
    *p->stop = true;
    pthread_mutex_unlock(&p->lock);
}

/* ---- the past of a resumed run -------------------------------------------------------------------------------------------------- */

static int32_t *copy_tokens(const int32_t *ids, int count) {
    int32_t *out = count ? malloc((size_t)count * sizeof *out) : NULL;
    for (int i = 0; out && i < count; i++) out[i] = ids[i];
    return out;
}

static int answer_on_record(void *user, const struct question *q, struct answer *out, struct err *err) {
    struct game *g = user;
    const struct run_past_step *s = lives_again(g) ? run_past_step(g->run.run, q->decision) : NULL;
    if (!s) return g->model.by.answer(g->model.by.user, q, out, err);
    bool refused = s->refused_answer && !q->again; /* the first of two answers */
    const char *text = refused ? s->refused_answer : s->answer;
    if (!text) return err_set(err, ERR_STATE, "no answer on record");
    /* A question that failed behind a conversation was asked again without it. */
    if (!refused && q->past && q->past->count != s->history) return err_set(err, ERR_STATE, "no answer behind %d exchanges on record", q->past->count);
    out->text = strdup(text);
    out->prompt_tokens = refused ? NULL : copy_tokens(s->prompt_tokens, out->prompt_token_count = s->prompt_token_count);
    out->answer_tokens = refused ? copy_tokens(s->refused_tokens, out->answer_token_count = s->refused_token_count)
                                 : copy_tokens(s->answer_tokens, out->answer_token_count = s->answer_token_count);
    if (refused) return out->text ? 0 : err_set(err, ERR_MEMORY, "out of memory for an answer on record");
    out->confidence = s->confidence;
    if (g->model.router) router_lived(g->model.router, s->model, s->confidence);
    if (s->model) snprintf(out->model, sizeof out->model, "%s", s->model);
    if (s->route_reason) snprintf(out->route_reason, sizeof out->route_reason, "%s", s->route_reason);
    return out->text ? 0 : err_set(err, ERR_MEMORY, "out of memory for an answer on record");
}

/* ---- playing ------------------------------------------------------------------------------------------------------------------- */

/* The seed of the next episode to play; false: none is left. One that was cut off goes first, in the game it belongs to. */
static bool next_seed(struct game *g, uint32_t *seed) {
    struct play *p = g->play;
    if (g->run.run && run_open_episode(g->run.run, seed)) return true;
    for (int i; (i = atomic_fetch_add(&p->next, 1)) < p->o.episodes;) {
        if (p->begun && p->begun[i]) continue;
        *seed = p->o.seed + (uint32_t)i;
        return true;
    }
    return false;
}

static int open_remote(const struct play *p, struct emulator **e, struct err *err) {
    char host[256];
    const char *colon = strrchr(p->o.remote, ':');
    snprintf(host, sizeof host, "%.*s", (int)(colon - p->o.remote), p->o.remote);
    return emulator_connect(host, atoi(colon + 1), p->rom.data, p->rom.len, e, err);
}

static int game_open(struct game *g, const struct agent_events *events, struct emulator **e, struct agent **a, struct err *err) {
    struct play *p = g->play;
    int code = p->o.remote ? open_remote(p, e, err) : emulator_open(p->rom.data, p->rom.len, NULL, e, err);
    if (!code && p->o.policy == POLICY_MODEL) code = play_model_game_open(&p->model, &p->o, &g->model, err);
    if (code) return code;
    g->by = (struct answerer){answer_on_record, g};
    struct agent_options options = {.policy = p->o.policy, .answerer = p->o.policy == POLICY_MODEL ? &g->by : NULL, .prompt_file = p->prompt_path,
                                    .picture = p->o.picture, .see = p->o.see, .upscale = p->o.upscale, .history = p->o.history, .perception_every = p->o.perception_every, .watchdog = p->o.watchdog, .acting = p->o.acting, .parts = p->o.parts, .skill_folder = p->o.skills, .max_decisions = p->o.max_decisions, .greedy = p->o.temperature <= 0,
                                    .temperature = p->o.temperature, .draw_all = p->watched, .stop = p->stop, .control = g->control,
                                    .events = events, .ask_oracle = p->o.ask_oracle};
    if (g->run.run) options.rates = run_skills_before(g->run.run, &options.rate_count); /* of a run that goes on */
    if (g->model.router) options.escalate = router_escalate, options.escalate_user = g->model.router;
    if (g->recall) options.recall = recall_tell, options.recall_user = g->recall, options.scratchpad = p->o.scratchpad;
    return agent_new(*e, &options, a, err);
}

static void *play_game(void *user) {
    struct game *g = user;
    struct play *p = g->play;
    struct agent_events events[8];
    int n = 0;
    events[n++] = (struct agent_events){.user = g, .episode_begun = game_begun, .step_done = game_step};
    if (g->run.run) events[n++] = run_events(&g->run);
    if (g->recall) events[n++] = recall_events(g->recall); /* after the recorder */
    if (g->film.video) events[n++] = video_events(&g->film);
    if (p->view && p->o.jobs == 1) events[n++] = term_view_events(p->view);
    if (p->board) events[n++] = dashboard_events(p->board, (int)(g - p->games));
    events[n++] = (struct agent_events){.user = g, .acted = game_waits, .step_done = game_waits_between};
    events[n] = (struct agent_events){0};
    struct emulator *e = NULL;
    struct agent *a = NULL;
    struct err err = {0};
    uint32_t seed;
    int code = game_open(g, events, &e, &a, &err);
    while (!code && !*p->stop && next_seed(g, &seed)) {
        struct episode_result result;
        if ((code = agent_play_episode(a, seed, &result, &err))) break;
        pthread_mutex_lock(&p->lock);
        totals_add(&p->totals, &result);
        if (p->view && p->o.jobs > 1) term_view_episode_done(p->view, &result);
        pthread_mutex_unlock(&p->lock);
    }
    if (code) fail(p, &err);
    agent_free(a);
    play_model_game_close(&g->model);
    if (e) emulator_close(e);
    return NULL;
}

int play_games(struct play *p, struct err *err) {
    double start = clock_seconds();
    int started = 0;
    if (p->o.jobs == 1) {
        play_game(&p->games[0]);
    } else {
        pthread_t threads[RUN_GAMES];
        while (started < p->o.jobs && pthread_create(&threads[started], NULL, play_game, &p->games[started]) == 0) started++;
        for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
        if (!started) return err_set(err, ERR_STATE, "no thread could be started");
    }
    p->seconds = clock_seconds() - start;
    for (int i = 0; i < p->o.jobs; i++) {
        p->decisions_here += (long long)p->games[i].decision_ms.count;
        samples_join(&p->totals.decision_ms, &p->games[i].decision_ms);
        samples_join(&p->totals.overhead_ms, &p->games[i].overhead_ms);
    }
    return 0;
}
