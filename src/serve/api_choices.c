/* n answers to one prompt: the first on the worker's thread, the others on threads of their own, all sharing the prompt's pages. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "serve/api_room.h"

struct api_choice {
    struct api_job *job;
    struct qvl_session *s;
    struct qvl_generate g;
    const struct api_writer *writer;
    pthread_mutex_t *writing;
    struct api_answer *answer;
    int index;
    size_t handed;          /* of answer->tokens, those that a piece has taken along */
    size_t capacity;
    double begun, last;     /* of the last token */
    struct histogram between, first;
};

static void on_token(void *user, const struct qvl_token *t, bool thinking) {
    struct api_choice *c = user;
    struct api_answer *w = c->answer;
    double now = clock_seconds();
    histogram_add(w->generated ? &c->between : &c->first, now - c->last);
    c->last = now;
    w->generated++;
    if (thinking) {
        w->thought_count++;
        return;
    }
    if (w->token_count == c->capacity) {
        size_t want = c->capacity ? c->capacity * 2 : 64;
        struct qvl_token *more = realloc(w->tokens, want * sizeof *more);
        if (!more) return; /* the answer goes on without its log-probabilities */
        w->tokens = more;
        c->capacity = want;
    }
    w->tokens[w->token_count++] = *t;
}

static int on_text(void *user, const char *text, size_t n, bool thinking) {
    struct api_choice *c = user;
    struct api_answer *w = c->answer;
    buf_append(thinking ? &w->thinking : &w->text, text, n);
    if (!c->writer) return 0;
    pthread_mutex_lock(c->writing);
    int r = c->writer->piece(c->writer->user, c->index, text, n, thinking, w->tokens + c->handed, thinking ? 0 : w->token_count - c->handed);
    pthread_mutex_unlock(c->writing);
    if (!thinking) c->handed = w->token_count;
    return r;
}

static void *generate(void *user) {
    struct api_choice *c = user;
    struct qvl_result result;
    c->begun = c->last = clock_seconds();
    c->answer->code = qvl_generate(c->s, &c->g, &result, &c->answer->err);
    if (c->answer->code) return NULL;
    c->answer->finish = result.finish;
    c->answer->prompt_tokens = result.prompt_tokens;
    c->answer->cached_tokens = result.cached_tokens;
    c->answer->generated = result.token_count;
    qvl_result_free(&result);
    return NULL;
}

static void count(struct api_job *job, const struct api_choice *choices, int n) {
    struct api *a = job->a;
    pthread_mutex_lock(&a->lock);
    for (int i = 0; i < n; i++) {
        const struct api_answer *w = choices[i].answer;
        for (int b = 0; b <= HISTOGRAM_BOUNDS; b++) {
            a->metrics.first_token.count[b] += choices[i].first.count[b];
            a->metrics.between_tokens.count[b] += choices[i].between.count[b];
        }
        a->metrics.first_token.sum += choices[i].first.sum;
        a->metrics.between_tokens.sum += choices[i].between.sum;
        a->metrics.prompt_tokens += (uint64_t)w->prompt_tokens;
        a->metrics.cached_tokens += (uint64_t)w->cached_tokens;
        a->metrics.generated_tokens += w->generated;
        a->metrics.prompt_seconds += choices[i].first.sum;
        a->metrics.generate_seconds += choices[i].between.sum;
    }
    pthread_mutex_unlock(&a->lock);
}

/* Waits until the keys and values of so many tokens fit beside those of the requests at work. */
static int take_room(struct api_job *job, int64_t tokens, struct api_fault *f) {
    struct api *a = job->a;
    pthread_mutex_lock(&a->lock);
    if (tokens > a->tokens_total) tokens = a->tokens_total; /* alone then; the engine says if it is too much */
    while (a->tokens_held > 0 && a->tokens_held + tokens > a->tokens_total && !__atomic_load_n(&job->cancel, __ATOMIC_RELAXED))
        pthread_cond_wait(&a->room, &a->lock);
    bool cancelled = __atomic_load_n(&job->cancel, __ATOMIC_RELAXED);
    if (!cancelled) a->tokens_held += tokens;
    pthread_mutex_unlock(&a->lock);
    if (cancelled) return api_fail(f, 503, NULL, "cancelled while waiting for memory");
    return (int)tokens;
}

void api_give_room(struct api *a, int tokens) {
    pthread_mutex_lock(&a->lock);
    a->tokens_held -= tokens;
    pthread_cond_broadcast(&a->room);
    pthread_mutex_unlock(&a->lock);
}

static int measure(struct api_job *job, struct qvl_session *s, const struct api_generate *r, int64_t *tokens, struct api_fault *f) {
    enum { USUAL = 1024 }; /* room kept for an answer of no stated length */
    int32_t *ids;
    size_t n;
    struct err err = {0};
    if (qvl_session_ids(s, &ids, &n, &err)) return api_fail_engine(f, NULL, &err);
    free(ids);
    int64_t context = job->a->info.context, answer = r->g.max_tokens > 0 ? r->g.max_tokens : USUAL;
    if ((int64_t)n + 1 > context)
        return api_fail(f, 400, "messages", "the prompt has %zu tokens, the context of this server is %lld", n, (long long)context);
    if (answer > context - (int64_t)n) answer = context - (int64_t)n;
    *tokens = ((int64_t)n + answer) + (r->n - 1) * (answer + 64);
    return 0;
}

int api_hold_room(struct api_job *job, struct qvl_session *s, const struct api_generate *r, struct api_fault *f) {
    int64_t tokens;
    return measure(job, s, r, &tokens, f) ? -1 : take_room(job, tokens, f);
}

int api_generate_choices(struct api_job *job, struct qvl_session *s, const struct api_generate *r, const struct api_writer *writer,
                         struct api_answer *answers, struct api_fault *f) {
    struct api_choice choices[API_MAX_N] = {0};
    pthread_t threads[API_MAX_N];
    bool runs[API_MAX_N] = {0};
    pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;
    struct err err = {0};
    memset(answers, 0, (size_t)r->n * sizeof *answers);
    int held = api_hold_room(job, s, r, f), code = 0;
    if (held < 0) return -1;
    for (int i = 0; i < r->n; i++) {
        struct api_choice *c = &choices[i];
        *c = (struct api_choice){.job = job, .s = s, .g = r->g, .writer = writer, .writing = &writing, .answer = &answers[i], .index = i};
        c->g.sampling.seed += (uint64_t)i;
        c->g.no_append = true;
        c->g.on_token = on_token;
        c->g.on_text = on_text;
        c->g.user = c;
        c->g.cancel = &job->cancel;
        if (i > 0 && qvl_session_fork(s, &c->s, &err)) {
            answers[i].code = err.code;
            answers[i].err = err;
            continue;
        }
        if (i > 0) runs[i] = pthread_create(&threads[i], NULL, generate, c) == 0;
        if (i > 0 && !runs[i]) answers[i].code = err_set(&answers[i].err, ERR_MEMORY, "cannot start a thread");
    }
    generate(&choices[0]);
    for (int i = 1; i < r->n; i++) {
        if (runs[i]) pthread_join(threads[i], NULL);
        if (choices[i].s != s) qvl_session_free(choices[i].s);
    }
    api_give_room(job->a, held);
    count(job, choices, r->n);
    for (int i = 0; i < r->n && !code; i++)
        if (answers[i].code) code = api_fail_engine(f, NULL, &answers[i].err);
    if (!code && job->timed_out) code = api_fail(f, 503, NULL, "the answer took more than %g s", job->a->options.seconds);
    else if (!code && __atomic_load_n(&job->cancel, __ATOMIC_RELAXED)) code = api_fail(f, 503, NULL, "cancelled");
    pthread_mutex_destroy(&writing);
    return code;
}

void api_answers_free(struct api_answer *answers, int n) {
    for (int i = 0; i < n; i++) {
        buf_free(&answers[i].text);
        buf_free(&answers[i].thinking);
        free(answers[i].tokens);
    }
}

const char *api_finish_name(enum qvl_finish finish) { return finish == QVL_FINISH_LENGTH ? "length" : "stop"; }

void api_write_usage(struct buf *out, const struct api_answer *answers, int n, bool chat) {
    size_t generated = 0, thought = 0;
    for (int i = 0; i < n; i++) generated += answers[i].generated, thought += answers[i].thought_count;
    long long prompt = n ? (long long)answers[0].prompt_tokens : 0;
    buf_printf(out, "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%zu,\"total_tokens\":%lld,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%lld}",
               prompt, generated, prompt + (long long)generated, n ? (long long)answers[0].cached_tokens : 0);
    if (chat) buf_printf(out, ",\"completion_tokens_details\":{\"reasoning_tokens\":%zu}", thought);
    buf_char(out, '}');
}
