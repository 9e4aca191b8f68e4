#include "agent/ask_engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "agent/hands.h"
#include "base/clock.h"

struct engine_answerer {
    struct qvl_model *model;
    struct qvl_session *session; /* the question's */
    struct qvl_session *past;    /* system text and exchanges of a conversation, which questions go on from; NULL: none yet */
    const struct conversation *of; /* what past is of ... */
    char *system;
    int64_t first, end;          /* ... and the numbers of its first exchange and of the one behind its last */
    struct engine_answerer_options options;
    bool thinking;
};

/* One answer being generated. */
struct attempt {
    struct qvl_generate *g;
    const struct qvl_model *model;
    const struct question *q;
    bool quiet;             /* its text goes to nobody */
    double log_probability; /* of the tokens that were a choice, thoughts left out */
};

int engine_answerer_new(struct qvl_model *model, const struct engine_answerer_options *o, struct engine_answerer **out, struct err *err) {
    struct engine_answerer *a = calloc(1, sizeof *a);
    *out = NULL;
    if (!a) return err_set(err, ERR_MEMORY, "out of memory for a session");
    a->model = model;
    if (o) a->options = *o;
    if (a->options.think_tokens <= 0) a->options.think_tokens = ENGINE_THINK_TOKENS;
    if (a->options.best_of < 1) a->options.best_of = 1;
    if (a->options.best_of > VOTE_MAX) a->options.best_of = VOTE_MAX;
    struct qvl_info info;
    qvl_model_info(model, &info);
    a->thinking = info.thinking;
    int code = qvl_session_new(model, &a->session, err);
    if (code) return free(a), code;
    *out = a;
    return 0;
}

void engine_answerer_free(struct engine_answerer *a) {
    if (!a) return;
    qvl_session_free(a->session);
    qvl_session_free(a->past);
    free(a->system);
    free(a);
}

static int on_text(void *user, const char *text, size_t n, bool thinking) {
    const struct attempt *t = user;
    (void)thinking;
    if (!t->quiet) question_token(t->q, text, n);
    return 0;
}

/* A thought that has used up its time is closed like one that has used up its tokens, and the answer follows. */
static void on_token(void *user, const struct qvl_token *token, bool thinking) {
    struct attempt *t = user;
    if (!thinking && !token->forced) t->log_probability += token->logprob;
    size_t n;
    const char *text = t->quiet ? NULL : qvl_token_bytes(t->model, token->id, &n);
    if (text) question_piece(t->q, text, n, expf(token->logprob), token->forced);
    if (thinking && t->q->deadline > 0 && question_now(t->q) >= t->q->deadline) t->g->think_tokens = 1;
}

static int add_turn(struct qvl_session *s, const uint8_t *rgb, int width, int height, const char *text, struct err *err) {
    struct qvl_part parts[2] = {{.rgb = rgb, .width = width ? width : FRAME_WIDTH, .height = height ? height : FRAME_HEIGHT}, {.text = text}};
    return qvl_session_message(s, QVL_USER, parts + !rgb, rgb ? 2 : 1, err);
}

/* Do these tokens say the reply in this model's vocabulary? Another rung of a ladder may have answered: models of one family share
 * theirs, others need not. Behind the reply there may be an end token. */
static bool tokens_say(const struct qvl_model *m, const struct exchange *e) {
    enum { END_BYTES = 16 };
    struct buf b = {0};
    bool known = e->reply_tokens != NULL;
    for (int i = 0; i < e->reply_token_count && known; i++) {
        size_t n;
        const char *text = qvl_token_bytes(m, e->reply_tokens[i], &n);
        known = text != NULL;
        if (known) buf_append(&b, text, n);
    }
    size_t n = strlen(e->reply), end = 0;
    for (known = known && !b.failed && b.len >= n; known && end <= END_BYTES; end++) {
        if (end + n > b.len || !memcmp(b.data + b.len - end - n, e->reply, n)) break;
    }
    known = known && end <= END_BYTES && end + n <= b.len;
    buf_free(&b);
    return known;
}

/* Brings a->past up to the conversation: usually by the one exchange that was added since. */
static int follow(struct engine_answerer *a, const struct question *q, struct err *err) {
    const struct conversation *c = q->past;
    bool goes_on = a->past && a->of == c && a->first == c->first && a->end <= c->first + c->count && !strcmp(a->system, q->system);
    int code = 0;
    if (!a->past) code = qvl_session_new(a->model, &a->past, err);
    if (!code && !goes_on) {
        struct qvl_part system = {.text = q->system};
        char *copy = strdup(q->system);
        free(a->system);
        a->system = copy;
        a->of = NULL; /* until it is whole */
        qvl_session_clear(a->past);
        code = copy ? qvl_session_message(a->past, QVL_SYSTEM, &system, 1, err) : err_set(err, ERR_MEMORY, "out of memory for a session");
        a->first = a->end = c->first;
    }
    for (; !code && a->end < c->first + c->count; a->end++) {
        const struct exchange *e = &c->list[a->end - c->first];
        code = add_turn(a->past, e->rgb, e->width, e->height, e->text, err);
        bool exact = tokens_say(a->model, e);
        if (!code) code = qvl_session_reply(a->past, e->reply, exact ? e->reply_tokens : NULL, exact ? (size_t)e->reply_token_count : 0, err);
    }
    a->of = code ? NULL : c;
    return code;
}

static int build_session(struct engine_answerer *a, const struct question *q, struct answer *out, struct err *err) {
    struct qvl_part system = {.text = q->system};
    int code = 0;
    if (q->past && q->past->count) {
        struct qvl_session *fork;
        code = follow(a, q, err);
        if (!code) code = qvl_session_fork(a->past, &fork, err);
        if (code) return code;
        qvl_session_free(a->session);
        a->session = fork;
    } else {
        qvl_session_clear(a->session);
        code = qvl_session_message(a->session, QVL_SYSTEM, &system, 1, err);
    }
    if (!code) code = add_turn(a->session, q->rgb, q->width, q->height, q->prompt, err);
    size_t count = 0;
    if (!code) code = qvl_session_ids(a->session, &out->prompt_tokens, &count, err);
    out->prompt_token_count = (int)count;
    return code;
}

/* number: 0 is the answer that would be given alone; the others are drawn by chance, each with a seed of its own. */
static void attempt_init(struct engine_answerer *a, struct attempt *t, struct qvl_generate *g, const struct question *q, int number) {
    int think = a->thinking ? a->options.think_tokens : 0;
    *t = (struct attempt){.g = g, .model = a->model, .q = q, .quiet = number > 0 || !q->events};
    *g = (struct qvl_generate){
        .sampling = {.greedy = q->greedy && number == 0, .temperature = q->temperature, .seed = q->seed + (uint64_t)number * 0x9E3779B97F4A7C15u},
        .max_tokens = ENGINE_ANSWER_TOKENS + think,
        .think_tokens = think,
        .json_schema = q->schema,
        .no_append = true,
        .on_text = on_text,
        .on_token = on_token,
        .user = t,
    };
}

/* The last tokens with their probabilities; the ones before are a long thought. */
static char *pieces_of(const struct attempt *t, const struct qvl_result *r) {
    enum { MOST = 300 };
    struct buf b = {0};
    size_t first = r->token_count > MOST ? r->token_count - MOST : 0;
    buf_char(&b, '[');
    for (size_t i = first; i < r->token_count; i++) {
        size_t n;
        const char *text = qvl_token_bytes(t->model, r->tokens[i].id, &n);
        if (!text) continue;
        if (b.len > 1) buf_char(&b, ',');
        buf_char(&b, '[');
        buf_json_string(&b, text, n);
        buf_printf(&b, ",%.4g%s]", exp((double)r->tokens[i].logprob), r->tokens[i].forced ? ",true" : "");
    }
    buf_char(&b, ']');
    if (b.failed) buf_free(&b);
    return b.data;
}

static void take_answer(const struct attempt *t, struct qvl_result *r, struct answer *out) {
    out->pieces = pieces_of(t, r);
    out->text = r->text;
    r->text = NULL;
    out->confidence = (float)exp(t->log_probability);
    out->answer_tokens = r->token_count ? malloc(r->token_count * sizeof *out->answer_tokens) : NULL;
    for (size_t i = 0; out->answer_tokens && i < r->token_count; i++) out->answer_tokens[out->answer_token_count++] = r->tokens[i].id;
}

static void take_costs(const struct qvl_result *r, struct answer *out) {
    /* Where the schema leaves one answer only, the engine computes nothing. */
    bool computed = r->image_seconds + r->prefill_seconds + r->decode_seconds > 0;
    if (computed) out->computed_tokens += r->prompt_tokens - r->cached_tokens + (int64_t)r->token_count;
    out->image_ms += r->image_seconds * 1e3;
    out->prefill_ms += r->prefill_seconds * 1e3;
    out->generate_ms += r->decode_seconds * 1e3;
}

static int answer_once(struct engine_answerer *a, const struct question *q, struct answer *out, struct err *err) {
    struct attempt t;
    struct qvl_generate g;
    struct qvl_result r = {0};
    attempt_init(a, &t, &g, q, 0);
    int code = qvl_generate(a->session, &g, &r, err);
    if (code) return err_context(err, "the model failed");
    take_answer(&t, &r, out);
    take_costs(&r, out);
    out->cached_tokens = r.cached_tokens;
    qvl_result_free(&r);
    return 0;
}

/* Forks share every page of the prompt, and one forward pass a step computes for all of them. */
static int answer_best(struct engine_answerer *a, const struct question *q, struct answer *out, struct err *err) {
    int n = a->options.best_of, forks = 0, code = 0, winner = -1;
    struct attempt t[VOTE_MAX];
    struct qvl_session *sessions[VOTE_MAX] = {NULL};
    struct qvl_generate generates[VOTE_MAX] = {0};
    struct qvl_result r[VOTE_MAX] = {0};
    struct ballot ballots[VOTE_MAX] = {0};
    struct err *errors = calloc((size_t)n, sizeof *errors);
    if (!errors) return err_set(err, ERR_MEMORY, "out of memory for %d answers", n);
    while (forks < n && !(code = qvl_session_fork(a->session, &sessions[forks], err))) {
        attempt_init(a, &t[forks], &generates[forks], q, forks);
        forks++;
    }
    /* One that fails leaves the others alone: it has no vote. */
    if (!code) qvl_generate_many(sessions, generates, r, errors, forks);
    for (int i = 0; i < forks; i++) {
        ballots[i] = (struct ballot){r[i].text, t[i].log_probability};
        qvl_session_free(sessions[i]);
    }
    if (!code) winner = vote_count(ballots, n, a->options.sum_vote, out->votes, &out->vote_count);
    if (!code && winner < 0) code = err_set(err, errors[0].code, "none of %d answers came: %.800s", n, errors[0].message);
    for (int i = 0; i < forks; i++) take_costs(&r[i], out);
    if (!code) {
        out->cached_tokens = r[0].cached_tokens;
        take_answer(&t[winner], &r[winner], out);
    }
    for (int i = 0; i < forks; i++) qvl_result_free(&r[i]);
    free(errors);
    return code ? err_context(err, "the model failed") : 0;
}

static int engine_answer(void *user, const struct question *q, struct answer *out, struct err *err) {
    struct engine_answerer *a = user;
    int code = build_session(a, q, out, err);
    if (code) return err_context(err, "the model failed");
    return a->options.best_of > 1 ? answer_best(a, q, out, err) : answer_once(a, q, out, err);
}

struct answerer engine_answerer_door(struct engine_answerer *a) { return (struct answerer){engine_answer, a}; }
