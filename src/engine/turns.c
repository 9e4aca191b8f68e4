#include "engine/turns.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/room.h"

static const double company_most = 0.5;                       /* of a step, or of the last turn where no step is known */
static const double company_cpu = 0.15, company_cpu_most = 1e-3; /* where the device is the processor: others have use for it; seconds */
static const double turns_price = 0.5;                         /* steps */

static bool due(const struct turns *t) {
    if (t->begun[TURN_PROMPT] || t->begun[TURN_PICTURE] || !t->waiting[TURN_STEP] || !t->gather) return true;
    return t->lost >= turns_price * t->step_seconds || t->passed_by >= TURNS_PASSED_BY;
}

enum turn_kind turns_next(const struct turns *t, double now, double *until) {
    int fresh = t->waiting[TURN_PROMPT] + t->waiting[TURN_PICTURE];
    if (!fresh && !t->waiting[TURN_STEP]) return TURN_NOBODY;
    int here = fresh + t->waiting[TURN_STEP];
    double step = t->step_seconds > 0 ? t->step_seconds : t->last_seconds, worth = step * t->returning / here, most = company_most * step;
    if (!t->gather) most = company_cpu * step < company_cpu_most ? company_cpu * step : company_cpu_most;
    *until = t->ended + (worth < most ? worth : most);
    if (t->returning > 0 && now < *until) return TURN_WAIT;
    if (!fresh || !due(t)) return TURN_STEP;
    if (t->begun[TURN_PROMPT] || !t->waiting[TURN_PICTURE]) return TURN_PROMPT;
    return TURN_PICTURE;
}

/* Takes him off the list of those expected; kind: what he was served with last, TURN_NOBODY: he was not there. */
static enum turn_kind welcome(struct turns *t, pthread_t who) {
    for (int i = 0; i < t->served_count; i++) {
        if (!pthread_equal(t->served[i].who, who)) continue;
        enum turn_kind kind = t->served[i].kind;
        t->returning -= !t->served[i].late;
        t->served[i] = t->served[--t->served_count];
        return kind;
    }
    return TURN_NOBODY;
}

void turns_arrive(struct turns *t, struct turn_request *r) {
    enum turn_kind before = welcome(t, r->who);
    r->begun = before == TURN_PROMPT || before == TURN_PICTURE;
    r->taken = false;
    atomic_store(&r->done, false);
    r->next = NULL;
    if (t->last) t->last->next = r;
    else t->first = r;
    t->last = r;
    t->waiting[r->kind]++;
    t->begun[r->kind] += r->begun;
}

void turns_take(struct turns *t, struct turn_request *r) {
    struct turn_request **at = &t->first, *before = NULL;
    while (*at != r) before = *at, at = &(*at)->next;
    *at = r->next;
    if (t->last == r) t->last = before;
    r->taken = true;
    t->waiting[r->kind]--;
    t->begun[r->kind] -= r->begun;
}

static void expect(struct turns *t, const struct turn_request *r) {
    if (t->served_count == TURNS_SERVED) { /* somebody has gone without a word */
        t->returning -= !t->served[0].late;
        t->served[0] = t->served[--t->served_count];
    }
    t->served[t->served_count++] = (struct turn_guest){.who = r->who, .kind = r->kind};
    t->returning++;
}

void turns_ended(struct turns *t, enum turn_kind kind, struct turn_request *const *served, int count, double started, double ended) {
    int fresh = t->waiting[TURN_PROMPT] + t->waiting[TURN_PICTURE];
    for (int i = 0; i < t->served_count; i++) t->served[i].late = true;
    t->returning = 0;
    for (int i = 0; i < count; i++) expect(t, served[i]);
    double since = t->ended > 0 && ended - t->ended < 2 * (ended - started) ? t->ended : started; /* with the moment before it, unless nothing was going on then */
    t->ended = ended;
    t->last_seconds = ended - started;
    if (kind == TURN_STEP) {
        t->step_seconds = t->last_seconds;
        t->lost = fresh ? t->lost + (ended - since) * fresh / (fresh + count) : 0;
        t->passed_by = fresh ? t->passed_by + 1 : 0;
    } else {
        t->lost = 0;
        t->passed_by = 0;
    }
}

bool turns_leave(struct turns *t, pthread_t who) {
    int before = t->returning;
    welcome(t, who);
    return t->returning < before && t->returning == 0 && !t->busy && t->first;
}

/* ---- threads ----
 *
 * Between two steps everybody who decodes is woken, does a little and comes back, while the device stands still. So a waiter who has been served
 * goes on without the model's lock, for which all the others would queue too, and one call wakes all who waited for that kind of turn: they sleep
 * on a word that counts its turns. */

static void sleep_on(_Atomic uint32_t *word, uint32_t seen, double seconds) {
    struct timespec t = {.tv_nsec = (long)(seconds * 1e9) + 1};
    if (t.tv_nsec > 999999999) t.tv_nsec = 999999999;
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, seconds > 0 ? &t : NULL, NULL, 0);
}

static void wake(_Atomic uint32_t *word, int most) {
    atomic_fetch_add(word, 1);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, most, NULL, NULL, 0);
}

/* A step of many takes as long as the one before, and waking a sleeping core takes a good part of what everybody has to do between two steps. So
 * shortly before its end those who wait for it stay awake, as long as there are cores for that. */
static const double awake_before = 2e-4, awake_after = 3e-4; /* seconds, of the expected end */
static void await_step(struct turns *t, const struct turn_request *r, uint32_t seen, double expected) {
    double sleep = expected - awake_before - clock_seconds();
    if (sleep > 0) sleep_on(&t->ended_turns[r->kind], seen, sleep);
    if (atomic_fetch_add(&t->awake, 1) < t->awake_most)
        while (!atomic_load(&r->done) && clock_seconds() < expected + awake_after)
#if defined(__x86_64__)
            for (int i = 0; i < 8; i++) __builtin_ia32_pause();
#else
            ;
#endif
    atomic_fetch_sub(&t->awake, 1);
}

/* The lock is held; it is not during the turn. */
static void run_turn(struct qvl_model *m, enum turn_kind kind, double now) {
    struct turns *t = &m->turns;
    struct turn_request *served[TURNS_SERVED];
    t->busy = true;
    t->expected = kind == TURN_STEP && t->step_seconds > 0 ? now + t->step_seconds : 0;
    int count = kind == TURN_PICTURE ? features_turn(m, served) : batch_turn(m, kind == TURN_PROMPT, served);
    turns_ended(t, kind, served, count, now, clock_seconds());
    t->busy = false;
    bool kinds[TURN_KINDS] = {false};
    for (int i = 0; i < count; i++) {
        kinds[served[i]->kind] = true;
        atomic_store(&served[i]->done, true); /* from here on he may be gone */
    }
    pthread_mutex_unlock(&m->lock);
    for (int k = 0; k < TURN_KINDS; k++)
        if (kinds[k]) wake(&t->ended_turns[k], INT_MAX);
    pthread_mutex_lock(&m->lock);
}

void turns_serve(struct qvl_model *m, struct turn_request *r) {
    struct turns *t = &m->turns;
    pthread_mutex_lock(&m->lock);
    turns_arrive(t, r);
    while (!atomic_load(&r->done)) {
        double now = clock_seconds(), until = now;
        enum turn_kind kind = t->busy ? TURN_NOBODY : turns_next(t, now, &until);
        if (kind < TURN_KINDS) {
            run_turn(m, kind, now);
            continue;
        }
        uint32_t seen = atomic_load(&t->ended_turns[r->kind]);
        double expected = t->busy && r->taken && t->awake_most ? t->expected : 0;
        pthread_mutex_unlock(&m->lock);
        if (expected > 0) await_step(t, r, seen, expected);
        if (atomic_load(&r->done)) return;
        sleep_on(&t->ended_turns[r->kind], seen, until - now);
        if (atomic_load(&r->done)) return;
        pthread_mutex_lock(&m->lock);
    }
    /* Has led the last turn itself: somebody must look whose turn it is when nobody comes back. */
    bool others = !t->busy && t->first;
    enum turn_kind kind = others ? t->first->kind : TURN_STEP;
    pthread_mutex_unlock(&m->lock);
    if (others) wake(&t->ended_turns[kind], 1);
}

void turns_goodbye(struct qvl_model *m) {
    struct turns *t = &m->turns;
    pthread_mutex_lock(&m->lock);
    bool look = turns_leave(t, pthread_self());
    enum turn_kind kind = look ? t->first->kind : TURN_STEP;
    pthread_mutex_unlock(&m->lock);
    if (look) wake(&t->ended_turns[kind], 1);
}
