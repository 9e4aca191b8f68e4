#include "agent/router.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

static const double keep = 0.8;          /* of the old mean, with each new measurement */
static const double reserve_part = 0.15; /* of a decision's time, kept for the answer behind a thought */

const struct router_settings router_defaults = {
    .fixed = -1, .ask_again_below = 0.4f, .up_below = 0.5f, .down_above = 0.9f, .hold = 8, .decision_ms = 0,
    .scene_rung = {[SCENE_NONE] = -1, [SCENE_TITLE] = 0, [SCENE_FIELD] = -1, [SCENE_DIALOGUE] = 0, [SCENE_CHOICE] = -1, [SCENE_STAIRS] = -1, [SCENE_MENU] = 0}};

struct rung {
    char name[96];
    struct calibration calibration;
    double load_ms, cost;
    double warm_ms, switch_ms; /* for one question alone; 0: not measured */
    int waiting;               /* questions there now */
    long decisions;
};

struct ladder {
    struct router_settings settings;
    struct rung rungs[ROUTER_RUNGS];
    int count;
    bool (*loaded)(void *user, int rung);
    void *loaded_user;
    double (*now)(void);
    pthread_mutex_t lock; /* times and queues */
};

struct router {
    struct ladder *ladder;
    struct answerer by[ROUTER_RUNGS];
    int rung;       /* where confidence has brought it */
    int last;       /* asked last, -1 none yet */
    int since;      /* decisions since the last change for confidence's sake */
    float sure;     /* mean of the last answers, calibrated; 0: nothing known */
};

int ladder_new(const struct router_settings *s, const struct router_rung *rungs, int count, bool (*loaded)(void *user, int rung), void *user,
               double (*now)(void), struct ladder **out, struct err *err) {
    *out = NULL;
    if (count < 1 || count > ROUTER_RUNGS) return err_set(err, ERR_ARGUMENT, "a ladder of %d models: expected 1 to %d", count, ROUTER_RUNGS);
    if (s->fixed >= count) return err_set(err, ERR_ARGUMENT, "the fixed model is number %d of a ladder of %d", s->fixed + 1, count);
    struct ladder *l = calloc(1, sizeof *l);
    if (!l) return err_set(err, ERR_MEMORY, "out of memory for a ladder");
    l->settings = *s;
    l->count = count;
    l->loaded = loaded;
    l->loaded_user = user;
    l->now = now ? now : clock_seconds;
    for (int i = 0; i < count; i++) {
        l->rungs[i] = (struct rung){.calibration = rungs[i].calibration, .load_ms = rungs[i].load_ms, .cost = rungs[i].cost};
        snprintf(l->rungs[i].name, sizeof l->rungs[i].name, "%s", rungs[i].name);
    }
    pthread_mutex_init(&l->lock, NULL);
    *out = l;
    return 0;
}

void ladder_free(struct ladder *l) {
    if (!l) return;
    pthread_mutex_destroy(&l->lock);
    free(l);
}

int ladder_count(const struct ladder *l) { return l->count; }
const char *ladder_name(const struct ladder *l, int rung) { return l->rungs[rung].name; }

void ladder_times(struct ladder *l, int rung, double *warm_ms, double *switch_ms, long *decisions) {
    pthread_mutex_lock(&l->lock);
    *warm_ms = l->rungs[rung].warm_ms;
    *switch_ms = l->rungs[rung].switch_ms;
    *decisions = l->rungs[rung].decisions;
    pthread_mutex_unlock(&l->lock);
}

int router_new(struct ladder *l, const struct answerer *answerers, struct router **out, struct err *err) {
    struct router *r = *out = calloc(1, sizeof *r);
    if (!r) return err_set(err, ERR_MEMORY, "out of memory for a router");
    r->ladder = l;
    memcpy(r->by, answerers, (size_t)l->count * sizeof *answerers);
    r->last = -1;
    r->since = l->settings.hold;
    return 0;
}

void router_free(struct router *r) { free(r); }

/* ---- what a rung costs ---------------------------------------------------------------------------------------------------------- */

/* Of one question alone. One that was never asked is taken from the nearest below that was, in proportion. Called with the lock held. */
static double alone_ms(const struct ladder *l, int rung, bool warm) {
    const struct rung *g = &l->rungs[rung];
    if (warm && g->warm_ms > 0) return g->warm_ms;
    if (g->switch_ms > 0) return g->switch_ms;
    if (g->warm_ms > 0) return g->warm_ms;
    for (int i = rung - 1; i >= 0; i--) {
        const struct rung *b = &l->rungs[i];
        double ms = b->switch_ms > b->warm_ms ? b->switch_ms : b->warm_ms;
        if (ms > 0) return b->cost > 0 && g->cost > 0 ? ms * g->cost / b->cost : ms;
    }
    return 0;
}

/* Milliseconds until a question asked now would be answered there. */
static double expected_ms(struct router *r, int rung) {
    struct ladder *l = r->ladder;
    pthread_mutex_lock(&l->lock);
    const struct rung *g = &l->rungs[rung];
    double alone = alone_ms(l, rung, rung == r->last);
    double ms = alone * (1 + g->waiting);
    pthread_mutex_unlock(&l->lock);
    if (l->loaded && !l->loaded(l->loaded_user, rung)) ms += g->load_ms;
    return ms;
}

static int queue_change(struct ladder *l, int rung, int by) {
    pthread_mutex_lock(&l->lock);
    int before = l->rungs[rung].waiting;
    l->rungs[rung].waiting += by;
    pthread_mutex_unlock(&l->lock);
    return before;
}

/* A question that took ms while `others` were there too. */
static void measured(struct ladder *l, int rung, bool warm, double ms, int others) {
    double alone = ms / (1 + others);
    pthread_mutex_lock(&l->lock);
    struct rung *g = &l->rungs[rung];
    double *mean = warm ? &g->warm_ms : &g->switch_ms;
    *mean = *mean > 0 ? keep * *mean + (1 - keep) * alone : alone;
    g->decisions++;
    pthread_mutex_unlock(&l->lock);
}

/* ---- the choice ---------------------------------------------------------------------------------------------------------------- */

static void __attribute__((format(printf, 3, 4))) say(char *why, size_t cap, const char *format, ...) {
    size_t n = strlen(why);
    va_list args;
    if (n && n + 2 < cap) n += (size_t)snprintf(why + n, cap - n, "; ");
    va_start(args, format);
    if (n < cap) vsnprintf(why + n, cap - n, format, args);
    va_end(args);
}

/* Moves the rung that confidence asks for, at most one up or down. */
static void follow_confidence(struct router *r, char *why, size_t cap) {
    const struct router_settings *s = &r->ladder->settings;
    int to = r->rung;
    if (r->sure > 0 && r->sure < s->up_below && r->rung + 1 < r->ladder->count) to++;
    else if (r->sure > s->down_above && r->rung > 0) to--;
    if (to == r->rung) return;
    if (r->since < s->hold) {
        say(why, cap, "confidence %.0f %%, held for %d more", (double)r->sure * 100, s->hold - r->since);
        return;
    }
    say(why, cap, "confidence %.0f %% %s %.0f %%", (double)r->sure * 100, to > r->rung ? "below" : "above", (double)(to > r->rung ? s->up_below : s->down_above) * 100);
    r->rung = to;
    r->since = 0;
    r->sure = 0; /* the other model's own answers count from here */
}

static int within_time(struct router *r, int want, char *why, size_t cap) {
    double limit = r->ladder->settings.decision_ms;
    for (; limit > 0 && want > 0; want--) {
        double ms = expected_ms(r, want);
        if (ms <= limit) break;
        say(why, cap, "%s would take %.0f of %.0f ms", r->ladder->rungs[want].name, ms, limit);
    }
    return want;
}

int router_choose(struct router *r, enum scene scene, const char *stuck, int stuck_level, char *why, size_t cap) {
    const struct router_settings *s = &r->ladder->settings;
    int top = r->ladder->count - 1;
    *why = 0;
    if (s->fixed >= 0) return say(why, cap, "fixed"), s->fixed;
    if (top == 0) return say(why, cap, "the only one"), 0;
    follow_confidence(r, why, cap);
    int want = r->rung, own = s->scene_rung[scene];
    if (stuck_level > 0) {
        want = want + stuck_level < top ? want + stuck_level : top;
        say(why, cap, "stuck (%s, %d)", stuck ? stuck : "nothing comes of it", stuck_level);
    } else if (own >= 0 && own <= top && own != want) {
        double there = expected_ms(r, own), here = expected_ms(r, want);
        if (own > want || there <= here) {
            want = own;
            say(why, cap, "scene %s", scene_name[scene]);
        } else {
            say(why, cap, "scene %s, but the switch to %s would take %.0f ms, staying %.0f", scene_name[scene], r->ladder->rungs[own].name, there, here);
        }
    }
    want = within_time(r, want, why, cap);
    if (!*why) say(why, cap, r->last < 0 ? "start" : "stays");
    return want;
}

/* ---- asking -------------------------------------------------------------------------------------------------------------------- */

static int ask_rung(struct router *r, int rung, const struct question *question, double end, struct answer *out, struct err *err) {
    struct ladder *l = r->ladder;
    struct question q = *question;
    double limit = l->settings.decision_ms / 1e3, start = l->now();
    q.now = l->now;
    if (limit > 0) q.deadline = end - reserve_part * limit;
    bool loaded = !l->loaded || l->loaded(l->loaded_user, rung);
    int others = queue_change(l, rung, 1);
    int code = r->by[rung].answer(r->by[rung].user, &q, out, err);
    queue_change(l, rung, -1);
    /* The first question to a model that had to be loaded tells the cost of loading, not of a question. */
    if (!code && loaded) measured(l, rung, rung == r->last, (l->now() - start) * 1e3, others);
    r->last = rung;
    return code;
}

/* The costs of an answer that was asked again belong to the decision. */
static void add_costs(struct answer *to, const struct answer *first) {
    to->computed_tokens += first->computed_tokens;
    to->image_ms += first->image_ms;
    to->prefill_ms += first->prefill_ms;
    to->generate_ms += first->generate_ms;
}

/* raw 1: there was no choice, so it says nothing about the model. */
static void note_confidence(struct router *r, float raw, float sure) {
    if (raw <= 0 || raw >= 1) return;
    r->sure = r->sure > 0 ? (float)keep * r->sure + (1 - (float)keep) * sure : sure;
}

static int router_answer(void *user, const struct question *q, struct answer *out, struct err *err) {
    struct router *r = user;
    struct ladder *l = r->ladder;
    const struct router_settings *s = &l->settings;
    double end = l->now() + s->decision_ms / 1e3;
    char why[sizeof out->route_reason];
    enum scene scene = SCENE_NONE;
    for (int i = 0; q->step && q->step->scene && i < SCENE_COUNT; i++) {
        if (!strcmp(q->step->scene, scene_name[i])) scene = i;
    }
    int rung = router_choose(r, scene, q->step ? q->step->stuck : NULL, q->step ? q->step->stuck_level : 0, why, sizeof why);
    int code = ask_rung(r, rung, q, end, out, err);
    while (code && !out->give_up && rung > 0) { /* a smaller model is better than none */
        say(why, sizeof why, "%s failed (%.80s)", l->rungs[rung].name, err->message);
        answer_free(out);
        *out = (struct answer){.action = -1};
        code = ask_rung(r, --rung, q, end, out, err);
    }
    float sure = code ? 0 : calibration_apply(&l->rungs[rung].calibration, out->confidence);
    if (rung == r->rung) note_confidence(r, out->confidence, sure);
    while (!code && s->fixed < 0 && sure > 0 && sure < s->ask_again_below && rung + 1 < l->count) {
        double left = (end - l->now()) * 1e3, needs = expected_ms(r, rung + 1);
        if (s->decision_ms > 0 && needs > left) {
            say(why, sizeof why, "%.0f %% sure, no time to ask %s (%.0f of %.0f ms left)", (double)sure * 100, l->rungs[rung + 1].name, needs, left);
            break;
        }
        struct answer better = {.action = -1};
        say(why, sizeof why, "%s was %.0f %% sure", l->rungs[rung].name, (double)sure * 100);
        struct err ignored;
        if (ask_rung(r, rung + 1, q, end, &better, &ignored)) { /* what is there already is kept */
            answer_free(&better);
            say(why, sizeof why, "%s failed", l->rungs[rung + 1].name);
            break;
        }
        add_costs(&better, out);
        answer_free(out);
        *out = better;
        rung++;
        sure = calibration_apply(&l->rungs[rung].calibration, out->confidence);
    }
    r->since++;
    out->calibrated = l->rungs[rung].calibration.count ? sure : 0;
    snprintf(out->model, sizeof out->model, "%s", l->rungs[rung].name);
    snprintf(out->route_reason, sizeof out->route_reason, "%s", why);
    return code;
}

struct answerer router_door(struct router *r) { return (struct answerer){router_answer, r}; }

bool router_escalate(void *user, const struct step *s, char *why, size_t cap) {
    struct router *r = user;
    int top = r->ladder->count - 1;
    if (s->stuck_level <= 0) return true; /* the game goes on */
    if (r->ladder->settings.fixed >= 0 || r->rung >= top) return snprintf(why, cap, "no model above %s", r->ladder->rungs[r->rung].name), false;
    snprintf(why, cap, "%s is asked", r->ladder->rungs[r->rung + s->stuck_level < top ? r->rung + s->stuck_level : top].name);
    return true;
}

void router_lived(struct router *r, const char *model, float confidence) {
    struct ladder *l = r->ladder;
    char why[200] = "";
    if (l->settings.fixed < 0) follow_confidence(r, why, sizeof why);
    r->since++;
    for (int i = 0; model && i < l->count; i++) {
        if (strcmp(l->rungs[i].name, model)) continue;
        r->last = i;
        if (i == r->rung) note_confidence(r, confidence, calibration_apply(&l->rungs[i].calibration, confidence));
    }
}
