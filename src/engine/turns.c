#include "engine/turns.h"

#include <time.h>

#include "base/clock.h"
#include "engine/room.h"

static const double company_part = 0.15, company_most = 1e-3; /* of the last turn; seconds */
static const double turns_price = 1;                          /* steps */

static bool due(const struct turns *t) {
    if (t->begun[TURN_PROMPT] || t->begun[TURN_PICTURE] || !t->waiting[TURN_STEP] || !t->gather) return true;
    return t->lost >= turns_price * t->step_seconds || t->passed_by >= TURNS_PASSED_BY;
}

enum turn_kind turns_next(const struct turns *t, double now, double *until) {
    int fresh = t->waiting[TURN_PROMPT] + t->waiting[TURN_PICTURE];
    if (!fresh && !t->waiting[TURN_STEP]) return TURN_NOBODY;
    double part = company_part * t->last_seconds;
    *until = t->ended + (part < company_most ? part : company_most);
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
    r->done = false;
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

/* ---- threads ---- */

static void wait_until(struct qvl_model *m, struct turn_request *r, double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)(seconds * 1e9) + 1;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_cond_timedwait(&r->wake, &m->lock, &until);
}

void turns_serve(struct qvl_model *m, struct turn_request *r) {
    struct turns *t = &m->turns;
    while (!r->done) {
        double now = clock_seconds(), until = now;
        enum turn_kind kind = t->busy ? TURN_NOBODY : turns_next(t, now, &until);
        if (kind == TURN_WAIT) {
            wait_until(m, r, until - now);
        } else if (kind == TURN_NOBODY) {
            pthread_cond_wait(&r->wake, &m->lock);
        } else {
            struct turn_request *served[TURNS_SERVED];
            t->busy = true;
            double started = now;
            int count = kind == TURN_PICTURE ? features_turn(m, served) : batch_turn(m, kind == TURN_PROMPT, served);
            turns_ended(t, kind, served, count, started, clock_seconds());
            t->busy = false;
            for (int i = 0; i < count; i++) {
                served[i]->done = true;
                if (served[i] != r) pthread_cond_signal(&served[i]->wake);
            }
        }
    }
    if (!t->busy && t->first) pthread_cond_signal(&t->first->wake); /* somebody must look whose turn it is when nobody else comes */
}

void turns_goodbye(struct qvl_model *m) {
    pthread_mutex_lock(&m->lock);
    if (turns_leave(&m->turns, pthread_self())) pthread_cond_signal(&m->turns.first->wake);
    pthread_mutex_unlock(&m->lock);
}
