/* /v1/chat/completions. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "serve/api_room.h"

struct chat {
    struct api_job *job;
    struct api_generate r;
    char id[48];
    int64_t created;
    bool begun, role_sent[API_MAX_N];
};

static void write_token(struct buf *b, const struct qvl_model *m, int32_t id, float logprob) {
    size_t n;
    const char *bytes = qvl_token_bytes(m, id, &n);
    buf_str(b, "\"token\":");
    buf_json_string(b, bytes ? bytes : "", bytes ? n : 0);
    buf_str(b, ",\"logprob\":");
    buf_json_number(b, logprob < -9999 ? -9999.0 : (double)logprob); /* as OpenAI's API writes "never" */
    buf_str(b, ",\"bytes\":[");
    for (size_t i = 0; bytes && i < n; i++) buf_printf(b, "%s%u", i ? "," : "", (unsigned char)bytes[i]);
    buf_char(b, ']');
}

/* "logprobs":... of a choice or of a piece of one */
static void write_logprobs(struct buf *b, const struct chat *c, const struct qvl_token *tokens, size_t count) {
    const struct qvl_model *m = c->job->a->model;
    if (!c->r.logprobs) {
        buf_str(b, "\"logprobs\":null");
        return;
    }
    buf_str(b, "\"logprobs\":{\"content\":[");
    for (size_t i = 0; i < count; i++) {
        buf_str(b, i ? ",{" : "{");
        write_token(b, m, tokens[i].id, tokens[i].logprob);
        buf_str(b, ",\"top_logprobs\":[");
        for (int k = 0; k < tokens[i].top_count; k++) {
            buf_str(b, k ? ",{" : "{");
            write_token(b, m, tokens[i].top_id[k], tokens[i].top_logprob[k]);
            buf_char(b, '}');
        }
        buf_str(b, "]}");
    }
    buf_str(b, "],\"refusal\":null}");
}

static void write_head(struct buf *b, const struct chat *c, const char *object) {
    buf_printf(b, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", c->id, object, (long long)c->created);
    buf_json_string(b, c->job->a->model_name, strlen(c->job->a->model_name));
    buf_str(b, ",\"system_fingerprint\":\"pmd-agent\",\"choices\":[");
}

/* ---- streaming ---- */

static int send_event(struct chat *c, struct buf *b) {
    buf_str(b, "\n\n");
    int r = b->failed ? -1 : http_write(c->job->x, b->data, b->len);
    buf_free(b);
    return r;
}

static void begin(struct chat *c) {
    if (c->begun) return;
    http_begin(c->job->x, 200, "text/event-stream; charset=utf-8");
    c->begun = true;
}

static void write_chunk(struct buf *b, struct chat *c, int index, const char *name, const char *text, size_t n,
                        const struct qvl_token *tokens, size_t count, const char *finish) {
    buf_str(b, "data: ");
    write_head(b, c, "chat.completion.chunk");
    buf_printf(b, "{\"index\":%d,\"delta\":{", index);
    if (!c->role_sent[index]) buf_str(b, name ? "\"role\":\"assistant\"," : "\"role\":\"assistant\",\"content\":\"\"");
    c->role_sent[index] = true;
    if (name) {
        buf_printf(b, "\"%s\":", name);
        buf_json_string(b, text, n);
    }
    buf_str(b, "},");
    write_logprobs(b, c, tokens, count);
    if (finish) buf_printf(b, ",\"finish_reason\":\"%s\"}]", finish);
    else buf_str(b, ",\"finish_reason\":null}]");
    buf_str(b, c->r.include_usage ? ",\"usage\":null}" : "}");
}

static int piece(void *user, int index, const char *text, size_t n, bool thinking, const struct qvl_token *tokens, size_t count) {
    struct chat *c = user;
    struct buf b = {0};
    begin(c);
    write_chunk(&b, c, index, thinking ? "reasoning_content" : "content", text, n, tokens, count, NULL);
    return send_event(c, &b);
}

static void end_stream(struct chat *c, const struct api_answer *answers) {
    struct buf b = {0};
    begin(c);
    for (int i = 0; i < c->r.n; i++) {
        if (!c->role_sent[i]) { /* nothing was said */
            write_chunk(&b, c, i, NULL, "", 0, NULL, 0, NULL);
            buf_str(&b, "\n\n");
        }
        write_chunk(&b, c, i, NULL, "", 0, NULL, 0, api_finish_name(answers[i].finish));
        buf_str(&b, "\n\n");
    }
    if (c->r.include_usage) {
        buf_str(&b, "data: ");
        write_head(&b, c, "chat.completion.chunk");
        buf_str(&b, "],");
        api_write_usage(&b, answers, c->r.n, true);
        buf_str(&b, "}\n\n");
    }
    buf_str(&b, "data: [DONE]");
    send_event(c, &b);
    http_end(c->job->x);
}

/* ---- whole ---- */

static void respond(struct chat *c, const struct api_answer *answers) {
    struct buf b = {0};
    write_head(&b, c, "chat.completion");
    for (int i = 0; i < c->r.n; i++) {
        const struct api_answer *w = &answers[i];
        buf_printf(&b, "%s{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":", i ? "," : "", i);
        buf_json_string(&b, w->text.data ? w->text.data : "", w->text.len);
        if (w->thinking.len) {
            buf_str(&b, ",\"reasoning_content\":");
            buf_json_string(&b, w->thinking.data, w->thinking.len);
        }
        buf_str(&b, ",\"refusal\":null},");
        write_logprobs(&b, c, w->tokens, w->token_count);
        buf_printf(&b, ",\"finish_reason\":\"%s\"}", api_finish_name(w->finish));
    }
    buf_str(&b, "],");
    api_write_usage(&b, answers, c->r.n, true);
    buf_char(&b, '}');
    if (b.failed) http_error(c->job->x, 500, "server_error", NULL, "out of memory for the answer");
    else http_respond(c->job->x, 200, "application/json", b.data, b.len);
    buf_free(&b);
}

int api_chat(struct api_job *job, const struct json *body, struct arena *arena, struct api_fault *f) {
    struct api *a = job->a;
    struct chat *c = arena_alloc(arena, sizeof *c);
    struct api_answer answers[API_MAX_N];
    struct qvl_session *s = NULL;
    struct err err = {0};
    if (!c) return api_fail(f, 500, NULL, "out of memory");
    c->job = job;
    c->created = time(NULL);
    api_new_id(a, "chatcmpl-", c->id);
    if (api_read_generate(a, body, true, arena, &c->r, f)) return -1;
    if (!c->r.seeded) c->r.g.sampling.seed = api_random(a);
    if (qvl_session_new(a->model, &s, &err)) return api_fail_engine(f, NULL, &err);
    struct api_writer writer = {c, piece};
    int r = api_read_messages(job, body, s, f);
    if (!r) {
        r = api_generate_choices(job, s, &c->r, c->r.stream ? &writer : NULL, answers, f);
        if (!r && c->r.stream) end_stream(c, answers);
        else if (!r) respond(c, answers);
        else if (c->begun) {
            api_stream_error(job->x, f);
            r = 1;
        }
        api_answers_free(answers, c->r.n);
    }
    qvl_session_free(s);
    return r;
}
