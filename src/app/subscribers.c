#include "app/subscribers.h"

static void keep_error(volatile bool *stop, int *code, int result) {
    if (result == 0 || *code) return;
    *code = result;
    if (stop) *stop = true;
}

static void run_on_begin(void *user, uint32_t seed, struct emulator *e) {
    struct run_subscriber *s = user;
    s->emulator = e;
    if (!s->code) keep_error(s->stop, &s->code, run_episode_begin(s->run, seed, e, &s->err));
}

static void run_on_step(void *user, const struct step *step) {
    struct run_subscriber *s = user;
    if (!s->code) keep_error(s->stop, &s->code, run_step(s->run, step, &s->err));
}

static void run_on_end(void *user, const struct episode_result *r) {
    struct run_subscriber *s = user;
    if (!s->code) keep_error(s->stop, &s->code, run_episode_end(s->run, r, s->emulator, &s->err));
    s->emulator = NULL;
}

struct agent_events run_events(struct run_subscriber *s) {
    return (struct agent_events){.user = s, .episode_begun = run_on_begin, .step_done = run_on_step, .episode_done = run_on_end};
}

static void video_on_begin(void *user, uint32_t seed, struct emulator *e) {
    struct video_subscriber *s = user;
    (void)seed;
    video_cut(s->video);
    if (!s->code) keep_error(s->stop, &s->code, video_add(s->video, e, &s->err));
}

static void video_on_act(void *user, struct emulator *e) {
    struct video_subscriber *s = user;
    if (!s->code) keep_error(s->stop, &s->code, video_add(s->video, e, &s->err));
}

struct agent_events video_events(struct video_subscriber *s) {
    return (struct agent_events){.user = s, .episode_begun = video_on_begin, .acted = video_on_act};
}

static void view_on_begin(void *user, uint32_t seed, struct emulator *e) { term_view_episode_begun(user, seed, e); }
static void view_on_act(void *user, struct emulator *e) { term_view_acted(user, e); }
static void view_on_step(void *user, const struct step *s) { term_view_step(user, s); }
static void view_on_end(void *user, const struct episode_result *r) { term_view_episode_done(user, r); }

struct agent_events term_view_events(struct term_view *v) {
    return (struct agent_events){.user = v, .episode_begun = view_on_begin, .acted = view_on_act, .step_done = view_on_step, .episode_done = view_on_end};
}
