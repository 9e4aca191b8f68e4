#include "agent/recall.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

struct recall {
    struct recall_options o;
    struct embedder *embedder; /* NULL: no vectors */
    struct keyframe_track track;
    struct scratchpad pad;
    struct store_step now;     /* of the step that is being decided; its strings are filled in when it is stored */
    bool looked;               /* now is about this step */
    int episode;
    uint32_t seed, steps;
    float *vector;             /* of the newest keyframe that has one */
    bool has_vector, fresh;    /* fresh: made at this step */
    struct memory_told told[RECALL_TOLD];
    int told_count;
    bool told_now, again;      /* again: a step on record that a resumed run lives again */
    double embed_ms, recall_ms;
    int code;
    struct err err;
    struct recall_totals totals;
};

int recall_new(const struct recall_options *o, struct recall **out, struct err *err) {
    *out = NULL;
    struct recall *r = calloc(1, sizeof *r);
    if (!r) return err_set(err, ERR_MEMORY, "out of memory for recalling");
    r->o = *o;
    int code = o->memory && o->model ? embedder_new(o->model, o->kind, &r->embedder, err) : 0;
    if (!code && r->embedder && !(r->vector = calloc((size_t)embedder_dims(r->embedder), sizeof *r->vector))) {
        code = err_set(err, ERR_MEMORY, "out of memory for recalling");
    }
    if (code) {
        recall_free(r);
        return code;
    }
    *out = r;
    return 0;
}

void recall_free(struct recall *r) {
    if (!r) return;
    embedder_free(r->embedder);
    free(r->vector);
    free(r);
}

void recall_set_run(struct recall *r, int64_t memory_run) { r->o.memory_run = memory_run; }

int recall_error(const struct recall *r, struct err *err) {
    if (r->code && err) *err = r->err;
    return r->code;
}

const struct scratchpad *recall_scratchpad(const struct recall *r) { return &r->pad; }
void recall_totals(const struct recall *r, struct recall_totals *out) { *out = r->totals; }

static void fail(struct recall *r) {
    r->code = r->err.code ? r->err.code : ERR_STATE;
    if (r->o.stop) *r->o.stop = true;
}

/* ---- at the observation ------------------------------------------------------------------------------------------------------------ */

static void look(struct recall *r, const struct step *s) {
    r->now = (struct store_step){.run = r->o.memory_run, .episode = r->episode, .number = s->number, .seed = r->seed, .first_frame = s->first_frame,
                                 .frame_hash = s->frame_hash, .scene = s->scene, .picture_hash = s->frame ? frame_picture_hash(s->frame) : 0};
    store_step_of_world(&s->seen->now, &r->now);
    keyframe_track_step(&r->track, &r->now);
    r->looked = true;
    r->again = r->o.record && run_lives_again(r->o.record);
    r->fresh = r->told_now = false;
    r->embed_ms = r->recall_ms = 0;
}

/* A picture that cannot be embedded ends the run: going on without would look like a model that remembers nothing. */
static int remember(struct recall *r, const struct step *s) {
    double start = clock_seconds();
    if (r->again) return memory_told_at(r->o.memory, r->o.memory_run, r->episode, s->number, r->told, RECALL_TOLD, &r->told_count, &r->err);
    if (r->embedder && r->o.kind != EMBED_THOUGHT) {
        if (embed_picture(r->embedder, s->frame, r->vector, &r->err)) return r->err.code;
        r->has_vector = r->fresh = true;
        r->totals.embedded++;
    }
    r->embed_ms = (clock_seconds() - start) * 1e3;
    start = clock_seconds();
    int code = memory_recall(r->o.memory, r->has_vector ? r->vector : NULL, r->o.memory_run, r->episode, r->told, RECALL_TOLD, &r->told_count, &r->err);
    r->recall_ms = (clock_seconds() - start) * 1e3;
    r->told_now = true;
    r->totals.keyframes++;
    r->totals.told += r->told_count;
    r->totals.embed_ms += r->embed_ms;
    r->totals.recall_ms += r->recall_ms;
    return code;
}

static void tell_memory(const struct memory_told *t, struct memory_line *l) {
    const struct store_memory *m = &t->memory;
    memory_told_text(t, l->text, sizeof l->text, l->from, sizeof l->from);
    snprintf(l->run, sizeof l->run, "%s", m->run_name);
    l->episode = m->episode;
    l->step = m->number;
    l->score = t->score;
    l->similarity = t->similarity;
    l->silos = t->silos;
    if (*m->picture && *m->run_folder) snprintf(l->picture, sizeof l->picture, "%s/%s", m->run_folder, m->picture);
}

static void tell_note(const struct scratchpad_line *n, struct memory_line *l) {
    snprintf(l->text, sizeof l->text, "note: \"%s\"", n->text);
    snprintf(l->from, sizeof l->from, "scratchpad, floor %d, step %u", n->floor, n->step);
}

void recall_tell(void *user, const struct step *s, struct memory_lines *out) {
    struct recall *r = user;
    if (r->code) return;
    bool asked = r->looked && r->now.number == s->number; /* the prompt is made again after a refusal */
    if (!asked) look(r, s);
    if (!asked && r->now.causes && r->o.memory && remember(r, s)) fail(r);
    out->keyframe = r->o.memory ? r->now.causes : 0;
    out->embed_ms = r->embed_ms;
    out->recall_ms = r->recall_ms;
    for (int i = 0; i < r->told_count && out->count < MEMORY_LINES; i++) tell_memory(&r->told[i], &out->lines[out->count++]);
    for (int i = 0; i < r->pad.count && out->count < MEMORY_LINES; i++) tell_note(&r->pad.line[i], &out->lines[out->count++]);
}

/* ---- when the step is done ------------------------------------------------------------------------------------------------------------ */

static void on_begin(void *user, uint32_t seed, struct emulator *e) {
    struct recall *r = user;
    (void)e;
    r->episode++;
    r->seed = seed;
    r->steps = 0;
    r->looked = r->has_vector = false;
    r->told_count = 0;
    r->pad.count = 0; /* notes are about this dungeon */
}

/* Thoughts exist after the answer; a step without any (decided by dice, say) has no vector. */
static int remember_thought(struct recall *r, const struct step *s) {
    if (!r->embedder || r->again || r->o.kind != EMBED_THOUGHT || !r->now.causes || !s->answer_token_count || !s->prompt_token_count) return 0;
    struct embed_answer a = {s->frame, s->prompt_tokens, s->answer_tokens, s->prompt_token_count, s->answer_token_count};
    struct err err;
    if (embed_thought(r->embedder, &a, r->vector, &err)) return err.code == ERR_ARGUMENT ? 0 : (r->err = err, err.code); /* no </think> in it */
    r->has_vector = r->fresh = true;
    r->totals.embedded++;
    return 0;
}

static int store(struct recall *r, const struct step *s) {
    struct store_step *n = &r->now;
    n->frame_hash = s->frame_hash;
    n->state_hash = s->state_hash;
    n->scene = s->scene;
    n->action = s->action;
    n->decided_by = (unsigned)s->decided_by < DECIDED_BY_COUNT ? decided_by_name[s->decided_by] : NULL;
    n->note = s->note;
    n->picture = run_last_picture(r->o.record);
    return memory_step(r->o.memory, n, r->fresh ? r->vector : NULL, r->told, r->told_now ? r->told_count : 0, &r->err);
}

static void on_step(void *user, const struct step *s) {
    struct recall *r = user;
    if (r->code) return;
    if (!r->looked || r->now.number != s->number) look(r, s); /* nobody asked what is remembered */
    if (r->o.scratchpad && s->note && *s->note) scratchpad_write(&r->pad, s->note, r->now.floor, s->number);
    r->steps++;
    if (r->o.memory && remember_thought(r, s)) return fail(r);
    if (!r->o.memory || !r->o.record || r->again) return; /* again: it is in the store */
    double start = clock_seconds();
    if (store(r, s)) fail(r);
    r->totals.store_ms += (clock_seconds() - start) * 1e3;
}

static void on_end(void *user, const struct episode_result *e) {
    struct recall *r = user;
    if (r->code || !r->o.memory || !r->o.record) return;
    const char *outcome = (unsigned)e->outcome <= OUTCOME_STUCK ? outcome_name[e->outcome] : "none";
    if (memory_episode_end(r->o.memory, r->o.memory_run, r->episode, r->steps, outcome, &r->err)) fail(r);
}

struct agent_events recall_events(struct recall *r) {
    return (struct agent_events){.user = r, .episode_begun = on_begin, .step_done = on_step, .episode_done = on_end};
}

int recall_resume(struct recall *r, const struct run_line *line, struct err *err) {
    struct store_step s;
    if (store_step_of_line(line, &s, err)) return err->code;
    if (s.episode != r->episode) {
        r->episode = s.episode;
        r->pad.count = 0;
    }
    keyframe_track_step(&r->track, &s);
    if (r->o.scratchpad && s.note && *s.note) scratchpad_write(&r->pad, s.note, s.floor, s.number);
    r->steps = s.number;
    return 0;
}
