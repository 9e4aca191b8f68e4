/* Continuous batching without a thread of its own: a caller that finds the device free takes every waiting span with it into one
 * forward pass; a caller that finds it busy waits, and its span rides with the next pass. A lone caller computes on its own
 * thread with nothing in between. */
#include "engine/room.h"

enum { BATCH_ROWS = 1024, BATCH_SPANS = 256 };

struct batch_request {
    const struct span *span;
    struct batch_request *next;
    struct err err;
    int code;
    bool done;
};

void device_take(struct qvl_model *m) {
    pthread_mutex_lock(&m->lock);
    while (m->computing) pthread_cond_wait(&m->idle, &m->lock);
    m->computing = true;
    pthread_mutex_unlock(&m->lock);
}

void device_release(struct qvl_model *m) {
    pthread_mutex_lock(&m->lock);
    m->computing = false;
    pthread_cond_broadcast(&m->idle);
    pthread_mutex_unlock(&m->lock);
}

/* Takes waiting requests in order of arrival, as many as fit. Called with the lock held. */
static int take_requests(struct qvl_model *m, struct batch_request **taken, struct span *spans) {
    int count = 0, rows = 0;
    while (m->first && count < BATCH_SPANS && (count == 0 || rows + m->first->span->count <= BATCH_ROWS)) {
        struct batch_request *r = m->first;
        m->first = r->next;
        if (!m->first) m->last = NULL;
        rows += r->span->count;
        spans[count] = *r->span;
        taken[count++] = r;
    }
    return count;
}

static void compute(struct qvl_model *m, struct batch_request **taken, struct span *spans, int count) {
    struct err err = {0};
    int code = m->backend->forward(m->device, spans, count, &err);
    for (int i = 0; i < count; i++) {
        taken[i]->code = code;
        taken[i]->err = err;
        /* One that fails must not fail its neighbours. */
        if (code && count > 1) taken[i]->code = m->backend->forward(m->device, &spans[i], 1, &taken[i]->err);
    }
}

int batch_forward(struct qvl_model *m, const struct span *span, struct err *err) {
    struct batch_request mine = {.span = span}, *taken[BATCH_SPANS];
    struct span spans[BATCH_SPANS];
    pthread_mutex_lock(&m->lock);
    if (m->last) m->last->next = &mine;
    else m->first = &mine;
    m->last = &mine;
    while (!mine.done) {
        if (m->computing) {
            pthread_cond_wait(&m->idle, &m->lock);
            continue;
        }
        m->computing = true;
        int count = take_requests(m, taken, spans);
        pthread_mutex_unlock(&m->lock);
        compute(m, taken, spans, count);
        pthread_mutex_lock(&m->lock);
        for (int i = 0; i < count; i++) taken[i]->done = true;
        m->computing = false;
        pthread_cond_broadcast(&m->idle);
    }
    pthread_mutex_unlock(&m->lock);
    if (mine.code && err) *err = mine.err;
    return mine.code;
}
