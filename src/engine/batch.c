/* Continuous batching without a thread of its own: whoever has the device takes the spans of all whose turn it is (turns.h) with him into one
 * forward pass. A lone caller computes on its own thread with nothing in between. */
#include "base/clock.h"
#include "engine/room.h"

enum { BATCH_SPANS = 256 }; /* of requests taken together; one request may have more */

struct batch_request {
    struct turn_request turn; /* first: the queue hands out its address */
    const struct span *spans;
    int count, rows;
    struct err err;
    int code;
};

/* Takes waiting requests, those for steps first, then with prompts those too, in order of arrival, as many as fit: *out are their spans, in
 * `gathered` when there are several. Called with the lock held. */
static int take_requests(struct qvl_model *m, bool prompts, struct turn_request **taken, struct span *gathered, const struct span **out, int *span_count) {
    int count = 0, rows = 0, n = 0;
    for (enum turn_kind kind = TURN_STEP; kind <= (prompts ? TURN_PROMPT : TURN_STEP); kind++) {
        for (struct turn_request *at = m->turns.first, *next; at; at = next) {
            struct batch_request *r = (struct batch_request *)at;
            next = at->next;
            if (at->kind != kind || (count && (n + r->count > BATCH_SPANS || rows + r->rows > BATCH_ROWS))) continue;
            if (!count) *out = r->spans;
            turns_take(&m->turns, at);
            rows += r->rows;
            if (n + r->count <= BATCH_SPANS) memcpy(gathered + n, r->spans, (size_t)r->count * sizeof *gathered);
            n += r->count;
            taken[count++] = at;
        }
    }
    if (count > 1) *out = gathered;
    *span_count = n;
    return count;
}

static void compute(struct qvl_model *m, struct turn_request **taken, int count, const struct span *spans, int span_count) {
    struct err err = {0};
    int code = m->backend->forward(m->device, spans, span_count, &err);
    for (int i = 0; i < count; i++) {
        struct batch_request *r = (struct batch_request *)taken[i];
        r->code = code;
        r->err = err;
        /* One that fails must not fail its neighbours. */
        if (code && count > 1) r->code = m->backend->forward(m->device, r->spans, r->count, &r->err);
    }
}

int batch_turn(struct qvl_model *m, bool prompts, struct turn_request *served[TURNS_SERVED]) {
    struct span gathered[BATCH_SPANS];
    const struct span *all = NULL;
    int n, count = take_requests(m, prompts, served, gathered, &all, &n);
    pthread_mutex_unlock(&m->lock);
    double start = clock_seconds();
    int64_t rows = 0;
    for (int i = 0; i < count; i++) rows += ((struct batch_request *)served[i])->rows;
    compute(m, served, count, all, n);
    pthread_mutex_lock(&m->lock);
    m->passes.seconds += clock_seconds() - start;
    m->passes.count++;
    m->passes.rows += rows;
    m->passes.spans += n;
    return count;
}

/* A request is one for a step when any of its spans is one: who decodes does not wait for being gathered. */
static enum turn_kind kind_of(const struct span *spans, int count) {
    for (int i = 0; i < count; i++)
        if (spans[i].count <= BACKEND_PAGE_TOKENS) return TURN_STEP;
    return TURN_PROMPT;
}

int batch_forward(struct qvl_model *m, const struct span *spans, int count, struct err *err) {
    struct batch_request mine = {.turn = {.kind = kind_of(spans, count), .who = pthread_self()}, .spans = spans, .count = count};
    for (int i = 0; i < count; i++) mine.rows += spans[i].count;
    turns_serve(m, &mine.turn);
    if (mine.code && err) *err = mine.err;
    return mine.code;
}
