/* Continuous batching without a thread of its own: a caller that finds the device free takes every waiting span with it into one
 * forward pass; a caller that finds it busy waits, and its spans ride with the next pass. A lone caller computes on its own
 * thread with nothing in between.
 *
 * After a pass its callers each have a little to do on the processor before they come with their next token. The first to be back must
 * not leave with a pass of its own, which would take about as long as one for all: it waits for the others, for a small part of what the
 * last pass took. */
#include <time.h>

#include "base/clock.h"
#include "engine/room.h"

enum { BATCH_SPANS = 256 }; /* of requests taken together; one request may have more */

struct batch_request {
    const struct span *spans;
    int count, rows;
    struct batch_request *next;
    struct err err;
    int code;
    bool done;
};

/* Takes waiting requests in order of arrival, as many as fit: *out are their spans, in `gathered` when there are several. Called
 * with the lock held. */
static int take_requests(struct qvl_model *m, struct batch_request **taken, struct span *gathered, const struct span **out,
                         int *span_count) {
    int count = 0, rows = 0, n = 0;
    *out = m->first->spans;
    while (m->first && (count == 0 || (n + m->first->count <= BATCH_SPANS && rows + m->first->rows <= BATCH_ROWS))) {
        struct batch_request *r = m->first;
        m->first = r->next;
        if (!m->first) m->last = NULL;
        rows += r->rows;
        if (n + r->count <= BATCH_SPANS) memcpy(gathered + n, r->spans, (size_t)r->count * sizeof *gathered);
        n += r->count;
        taken[count++] = r;
    }
    if (count > 1) *out = gathered;
    *span_count = n;
    return count;
}

static void compute(struct qvl_model *m, struct batch_request **taken, int count, const struct span *spans, int span_count) {
    struct err err = {0};
    int code = m->backend->forward(m->device, spans, span_count, &err);
    for (int i = 0; i < count; i++) {
        taken[i]->code = code;
        taken[i]->err = err;
        /* One that fails must not fail its neighbours. */
        if (code && count > 1) taken[i]->code = m->backend->forward(m->device, taken[i]->spans, taken[i]->count, &taken[i]->err);
    }
}

static const double wait_part = 0.15, wait_most = 1e-3; /* of the last pass; seconds */

/* Waits on m->idle when answers are being made whose spans are not here yet; false: it is time to go. The lock is held. */
static bool waits_for_others(struct qvl_model *m) {
    struct batch_clock *c = &m->clock;
    int here = m->features.waiting_count;
    for (const struct batch_request *r = m->first; r; r = r->next) here += r->count;
    double part = wait_part * c->last_seconds, left = c->ended + (part < wait_most ? part : wait_most) - clock_seconds();
    if (left <= 0 || here >= __atomic_load_n(&m->answers, __ATOMIC_RELAXED)) return false;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)(left * 1e9) + 1;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_cond_timedwait(&m->idle, &m->lock, &until);
    return true;
}

static void note_pass(struct batch_clock *c, double started, int64_t rows, int spans) {
    c->ended = clock_seconds();
    c->last_seconds = c->ended - started;
    c->seconds += c->last_seconds;
    c->passes++;
    c->rows += rows;
    c->spans += spans;
}

int batch_forward(struct qvl_model *m, const struct span *spans, int count, struct err *err) {
    struct batch_request mine = {.spans = spans, .count = count}, *taken[BATCH_SPANS];
    struct span gathered[BATCH_SPANS];
    for (int i = 0; i < count; i++) mine.rows += spans[i].count;
    pthread_mutex_lock(&m->lock);
    if (m->last) m->last->next = &mine;
    else m->first = &mine;
    m->last = &mine;
    while (!mine.done) {
        if (m->computing) {
            pthread_cond_wait(&m->idle, &m->lock);
            continue;
        }
        if (waits_for_others(m)) continue;
        m->computing = true;
        m->features.passed_by += m->features.waiting != NULL;
        const struct span *all;
        int n, requests = take_requests(m, taken, gathered, &all, &n);
        pthread_mutex_unlock(&m->lock);
        double start = clock_seconds();
        int64_t rows = 0;
        for (int i = 0; i < requests; i++) rows += taken[i]->rows;
        compute(m, taken, requests, all, n);
        pthread_mutex_lock(&m->lock);
        note_pass(&m->clock, start, rows, n);
        for (int i = 0; i < requests; i++) taken[i]->done = true;
        m->computing = false;
        pthread_cond_broadcast(&m->idle);
    }
    pthread_mutex_unlock(&m->lock);
    if (mine.code && err) *err = mine.err;
    return mine.code;
}
