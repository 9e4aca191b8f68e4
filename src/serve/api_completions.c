/* /v1/completions: prompts as text or token ids, several at once; echo with log-probabilities for those who score texts (lm-eval). */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "serve/api_room.h"

struct prompt_in {
    const char *text;  /* or NULL: ids */
    size_t bytes;
    int32_t *ids;      /* in the arena */
    size_t count;
};

struct completion {
    struct api_job *job;
    struct api_generate r;
    char id[48];
    int64_t created;
    bool begun;
    int prompt;                     /* the one at work */
    size_t offset[API_MAX_N];       /* characters streamed of each of its choices */
};

/* ---- prompts ---- */

static int read_ids(const struct api *a, const struct json *v, struct arena *arena, struct prompt_in *out, struct api_fault *f) {
    if (v->count == 0) return api_fail(f, 400, "prompt", "'prompt' holds an empty list of tokens");
    out->ids = arena_array(arena, v->count, sizeof *out->ids);
    out->count = v->count;
    if (!out->ids) return api_fail(f, 500, NULL, "out of memory for a prompt");
    for (uint32_t i = 0; i < v->count; i++) {
        const struct json *t = v->items[i];
        if (t->type != JSON_NUMBER || !t->is_integer || t->integer < 0 || t->integer >= a->info.vocab)
            return api_fail(f, 400, "prompt", "'prompt' holds something else than token ids from 0 to %d at %u", a->info.vocab - 1, i);
        out->ids[i] = (int32_t)t->integer;
    }
    return 0;
}

static int read_text(const struct json *v, struct prompt_in *out, struct api_fault *f) {
    if (v->count == 0) return api_fail(f, 400, "prompt", "'prompt' is empty");
    out->text = v->string;
    out->bytes = v->count;
    return 0;
}

static int read_prompts(const struct api *a, const struct json *body, struct arena *arena, struct prompt_in **out, int *count,
                        struct api_fault *f) {
    const struct json *v = json_get(body, "prompt");
    bool many = v && v->type == JSON_ARRAY && v->count && v->items[0]->type != JSON_NUMBER;
    *count = many ? (int)v->count : 1;
    if (!v || (v->type != JSON_STRING && v->type != JSON_ARRAY) || (v->type == JSON_ARRAY && v->count == 0))
        return api_fail(f, 400, "prompt", "'prompt' must be a text, a list of texts, a list of token ids or a list of such lists");
    if (many && v->count > API_MAX_PROMPTS)
        return api_fail(f, 400, "prompt", "'prompt' holds %u prompts, at most %d are taken", v->count, API_MAX_PROMPTS);
    *out = arena_array(arena, (size_t)*count, sizeof **out);
    if (!*out) return api_fail(f, 500, NULL, "out of memory for the prompts");
    for (int i = 0; i < *count; i++) {
        const struct json *p = many ? v->items[i] : v;
        if (p->type == JSON_STRING ? read_text(p, &(*out)[i], f)
                                   : p->type == JSON_ARRAY ? read_ids(a, p, arena, &(*out)[i], f)
                                                           : api_fail(f, 400, "prompt", "prompt %d is no text and no list of ids", i))
            return -1;
    }
    return 0;
}

/* Control tokens in the text count, as in every server of this endpoint: the caller writes the whole prompt. */
static int open_prompt(const struct api *a, const struct prompt_in *p, struct qvl_session **out, struct api_fault *f) {
    struct err err = {0};
    *out = NULL;
    int r = qvl_session_new(a->model, out, &err);
    if (!r) r = p->text ? qvl_session_raw(*out, p->text, p->bytes, true, &err) : qvl_session_raw_ids(*out, p->ids, p->count, &err);
    if (!r) return 0;
    qvl_session_free(*out);
    *out = NULL;
    return api_fail_engine(f, "prompt", &err);
}

/* ---- writing ---- */

static void write_piece(struct buf *b, const struct api *a, int32_t id) {
    size_t n;
    const char *bytes = qvl_token_bytes(a->model, id, &n);
    buf_json_string(b, bytes ? bytes : "", bytes ? n : 0);
}

static size_t characters(const struct api *a, int32_t id) {
    size_t n, count = 0;
    const char *bytes = qvl_token_bytes(a->model, id, &n);
    for (size_t i = 0; bytes && i < n; i++) count += ((unsigned char)bytes[i] & 0xc0) != 0x80;
    return count;
}

struct token_run {
    const struct qvl_token *tokens;
    size_t count;
};

/* "logprobs":{...} over runs of tokens; the first token of an echoed prompt has none. */
static void write_logprobs(struct buf *b, const struct completion *c, const struct token_run *runs, int run_count, bool echo, size_t offset) {
    const struct api *a = c->job->a;
    static const char *const names[] = {"\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[", "],\"text_offset\":["};
    if (!c->r.logprobs) {
        buf_str(b, "\"logprobs\":null");
        return;
    }
    buf_str(b, "\"logprobs\":{");
    for (int pass = 0; pass < 4; pass++) {
        bool first = true;
        buf_str(b, names[pass]);
        for (int r = 0; r < run_count; r++)
            for (size_t i = 0; i < runs[r].count; i++) {
                const struct qvl_token *t = &runs[r].tokens[i];
                bool none = echo && r == 0 && i == 0;
                if (!first) buf_char(b, ',');
                first = false;
                if (pass == 0) {
                    write_piece(b, a, t->id);
                } else if (pass == 3) {
                    buf_printf(b, "%zu", offset);
                    offset += characters(a, t->id);
                } else if (none) {
                    buf_str(b, "null");
                } else if (pass == 1) {
                    buf_json_number(b, (double)t->logprob);
                } else {
                    buf_char(b, '{');
                    for (int k = 0; k < t->top_count; k++) {
                        if (k) buf_char(b, ',');
                        write_piece(b, a, t->top_id[k]);
                        buf_char(b, ':');
                        buf_json_number(b, (double)t->top_logprob[k]);
                    }
                    buf_char(b, '}');
                }
            }
    }
    buf_str(b, "]}");
}

static void write_head(struct buf *b, const struct completion *c) {
    buf_printf(b, "{\"id\":\"%s\",\"object\":\"text_completion\",\"created\":%lld,\"model\":", c->id, (long long)c->created);
    buf_json_string(b, c->job->a->model_name, strlen(c->job->a->model_name));
    buf_str(b, ",\"system_fingerprint\":\"pmd-agent\",\"choices\":[");
}

static int piece(void *user, int index, const char *text, size_t n, bool thinking, const struct qvl_token *tokens, size_t count) {
    struct completion *c = user;
    struct buf b = {0};
    (void)thinking;
    if (!c->begun) http_begin(c->job->x, 200, "text/event-stream; charset=utf-8");
    c->begun = true;
    buf_str(&b, "data: ");
    write_head(&b, c);
    buf_printf(&b, "{\"index\":%d,\"text\":", c->prompt * c->r.n + index);
    buf_json_string(&b, text, n);
    buf_char(&b, ',');
    write_logprobs(&b, c, &(struct token_run){tokens, count}, 1, false, c->offset[index]);
    for (size_t i = 0; i < count; i++) c->offset[index] += characters(c->job->a, tokens[i].id);
    buf_str(&b, ",\"finish_reason\":null}]}\n\n");
    int r = b.failed ? -1 : http_write(c->job->x, b.data, b.len);
    buf_free(&b);
    return r;
}

/* The end of one prompt's streamed choices. */
static void end_choices(struct completion *c, const struct api_answer *answers) {
    struct buf b = {0};
    if (!c->begun) http_begin(c->job->x, 200, "text/event-stream; charset=utf-8");
    c->begun = true;
    for (int i = 0; i < c->r.n; i++) {
        buf_str(&b, "data: ");
        write_head(&b, c);
        buf_printf(&b, "{\"index\":%d,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"%s\"}]}\n\n", c->prompt * c->r.n + i,
                   api_finish_name(answers[i].finish));
    }
    if (!b.failed) http_write(c->job->x, b.data, b.len);
    buf_free(&b);
}

static void write_choice(struct buf *b, const struct completion *c, int index, const struct prompt_in *p, const struct qvl_token *scored,
                         size_t scored_count, const struct api_answer *w) {
    struct err err;
    buf_printf(b, "%s{\"index\":%d,\"text\":", index ? "," : "", index);
    struct buf text = {0};
    if (c->r.echo && p->text) buf_append(&text, p->text, p->bytes);
    if (c->r.echo && !p->text) {
        char *echo = NULL;
        if (!qvl_detokenize(c->job->a->model, p->ids, p->count, &echo, &err)) buf_str(&text, echo);
        free(echo);
    }
    if (w->text.len) buf_append(&text, w->text.data, w->text.len);
    buf_json_string(b, text.data ? text.data : "", text.len);
    b->failed = b->failed || text.failed;
    buf_free(&text);
    buf_char(b, ',');
    struct token_run runs[2] = {{scored, scored_count}, {w->tokens, w->token_count}};
    write_logprobs(b, c, c->r.echo ? runs : runs + 1, c->r.echo ? 2 : 1, c->r.echo, 0);
    buf_printf(b, ",\"finish_reason\":\"%s\"}", api_finish_name(w->finish));
}

/* ---- one prompt ---- */

static int run_prompt(struct completion *c, const struct prompt_in *p, struct buf *choices, struct api_answer *sum, struct api_fault *f) {
    struct qvl_session *s;
    struct qvl_token *scored = NULL;
    size_t scored_count = 0;
    struct err err = {0};
    struct api_answer answers[API_MAX_N] = {0};
    struct api_writer writer = {c, piece};
    if (open_prompt(c->job->a, p, &s, f)) return -1;
    int r = 0, held = 0;
    if (c->r.echo && c->r.logprobs && (held = api_hold_room(c->job, s, &c->r, f)) < 0) r = -1;
    if (!r && c->r.echo && c->r.logprobs && qvl_score(s, c->r.g.top_logprobs, &scored, &scored_count, &err)) r = api_fail_engine(f, "prompt", &err);
    if (held > 0) api_give_room(c->job->a, held);
    if (!r && c->r.g.max_tokens > 0) {
        r = api_generate_choices(c->job, s, &c->r, c->r.stream ? &writer : NULL, answers, f);
    } else if (!r) {
        int32_t *ids;
        size_t n = scored_count;
        if (!scored && qvl_session_ids(s, &ids, &n, &err)) r = api_fail_engine(f, "prompt", &err);
        else if (!scored) free(ids);
        for (int i = 0; i < c->r.n; i++) answers[i].prompt_tokens = (int64_t)n, answers[i].finish = QVL_FINISH_LENGTH;
    }
    if (!r && c->r.stream) end_choices(c, answers);
    for (int i = 0; !r && i < c->r.n; i++) {
        if (!c->r.stream) write_choice(choices, c, c->prompt * c->r.n + i, p, scored, scored_count, &answers[i]);
        sum->generated += answers[i].generated;
    }
    sum->prompt_tokens += answers[0].prompt_tokens;
    sum->cached_tokens += answers[0].cached_tokens;
    api_answers_free(answers, c->r.n);
    free(scored);
    qvl_session_free(s);
    return r;
}

static void respond(struct completion *c, const struct buf *choices, const struct api_answer *sum) {
    struct buf b = {0};
    struct http_exchange *x = c->job->x;
    if (c->r.stream) {
        if (c->r.include_usage) {
            buf_str(&b, "data: ");
            write_head(&b, c);
            buf_str(&b, "],");
            api_write_usage(&b, sum, 1, false);
            buf_str(&b, "}\n\n");
        }
        buf_str(&b, "data: [DONE]\n\n");
        if (!b.failed) http_write(x, b.data, b.len);
        http_end(x);
    } else {
        write_head(&b, c);
        buf_append(&b, choices->data, choices->len);
        buf_str(&b, "],");
        api_write_usage(&b, sum, 1, false);
        buf_char(&b, '}');
        if (b.failed || choices->failed) http_error(x, 500, "server_error", NULL, "out of memory for the answer");
        else http_respond(x, 200, "application/json", b.data, b.len);
    }
    buf_free(&b);
}

int api_completions(struct api_job *job, const struct json *body, struct arena *arena, struct api_fault *f) {
    struct api *a = job->a;
    struct completion *c = arena_alloc(arena, sizeof *c);
    struct prompt_in *prompts;
    struct buf choices = {0};
    struct api_answer sum = {0};
    int count;
    if (!c) return api_fail(f, 500, NULL, "out of memory");
    c->job = job;
    c->created = time(NULL);
    api_new_id(a, "cmpl-", c->id);
    if (api_read_generate(a, body, false, arena, &c->r, f) || read_prompts(a, body, arena, &prompts, &count, f)) return -1;
    if (c->r.stream && c->r.echo) return api_fail(f, 400, "echo", "'echo' is not supported together with 'stream'");
    if (!c->r.seeded) c->r.g.sampling.seed = api_random(a);
    int r = 0;
    for (c->prompt = 0; !r && c->prompt < count; c->prompt++) {
        memset(c->offset, 0, sizeof c->offset);
        r = run_prompt(c, &prompts[c->prompt], &choices, &sum, f);
        if (!r && __atomic_load_n(&job->cancel, __ATOMIC_RELAXED)) r = api_fail(f, 503, NULL, "cancelled");
    }
    if (!r) respond(c, &choices, &sum);
    else if (c->begun) {
        api_stream_error(job->x, f);
        r = 1;
    }
    buf_free(&choices);
    return r;
}
