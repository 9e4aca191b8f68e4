#include "app/openai_answer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"

struct openai_token {
    size_t end; /* bytes of text up to and with this token */
    double logprob;
};

void openai_answer_free(struct openai_answer *a) {
    buf_free(&a->text);
    buf_free(&a->tokens);
    buf_free(&a->line);
    buf_free(&a->event);
}

/* ---- the server's words for an error ------------------------------------------------------------------------------------------- */

/* {"error": {"message": ..}}, {"error": ".."}, {"message": ..} or {"detail": ..}: all are in use. */
static const char *error_message(const struct json *root) {
    const struct json *error = json_get(root, "error");
    const char *text = json_as_string(json_get(error, "message"), json_as_string(error, NULL));
    if (!text && error && error->type == JSON_OBJECT) text = "an error without a message";
    if (!text) text = json_as_string(json_get(root, "message"), json_as_string(json_get(root, "detail"), NULL));
    return text;
}

static void copy_line(char *out, size_t cap, const char *text) {
    snprintf(out, cap, "%s", text);
    for (char *p = out; *p; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f) *p = ' '; /* what goes to a terminal holds no control characters */
    }
}

void openai_error_text(const char *body, size_t n, char *out, size_t cap) {
    struct arena arena = {0};
    const struct json *root = n ? json_parse(body, n, "body", &arena, NULL) : NULL;
    const char *text = error_message(root);
    *out = 0;
    if (text) copy_line(out, cap, text);
    arena_free(&arena);
}

/* ---- the parts of an answer ---------------------------------------------------------------------------------------------------- */

static void take_logprobs(struct openai_answer *a, const struct json *list) {
    for (uint32_t i = 0; list && list->type == JSON_ARRAY && i < list->count; i++) {
        const struct json *text = json_get(list->items[i], "token"), *bytes = json_get(list->items[i], "bytes");
        a->token_bytes += bytes && bytes->type == JSON_ARRAY ? bytes->count : text && text->type == JSON_STRING ? text->count : 0;
        struct openai_token t = {a->token_bytes, json_as_number(json_get(list->items[i], "logprob"), -INFINITY)};
        buf_append(&a->tokens, &t, sizeof t);
    }
}

/* A chunk of the stream (part "delta") or the whole answer (part "message"). */
static int take(struct openai_answer *a, const char *json, size_t n, const char *part, struct err *err) {
    struct arena arena = {0};
    const struct json *root = json_parse(json, n, "the server's answer", &arena, err);
    if (!root) return arena_free(&arena), ERR_FORMAT;
    int code = 0;
    const struct json *usage = json_get(root, "usage"), *choices = json_get(root, "choices");
    a->prompt_tokens = json_as_integer(json_get(usage, "prompt_tokens"), a->prompt_tokens);
    a->completion_tokens = json_as_integer(json_get(usage, "completion_tokens"), a->completion_tokens);
    a->cached_tokens = json_as_integer(json_get(json_get(usage, "prompt_tokens_details"), "cached_tokens"), a->cached_tokens);
    const struct json *error = json_get(root, "error");
    if (!choices || choices->type != JSON_ARRAY || (error && error->type != JSON_NULL)) {
        char words[300];
        const char *message = error_message(root);
        copy_line(words, sizeof words, message ? message : "");
        code = message ? err_set(err, ERR_NETWORK, "the server reports: %s", words)
                       : err_set(err, ERR_FORMAT, "the server's answer has no list \"choices\"");
    } else if (choices->count) { /* the chunk with the usage has none */
        const struct json *choice = choices->items[0], *content = json_get(json_get(choice, part), "content");
        const char *finish = json_as_string(json_get(choice, "finish_reason"), NULL);
        if (content && content->type == JSON_STRING && content->count) {
            if (a->first_text == 0) a->first_text = clock_seconds();
            buf_append(&a->text, content->string, content->count);
            if (a->question) question_token(a->question, content->string, content->count);
        }
        take_logprobs(a, json_get(json_get(choice, "logprobs"), "content"));
        if (finish && *finish) a->finished = true, a->cut_off = !strcmp(finish, "length");
        if (a->text.failed || a->tokens.failed) code = err_set(err, ERR_MEMORY, "out of memory for the server's answer");
    }
    arena_free(&arena);
    return code;
}

int openai_answer_body(struct openai_answer *a, const char *data, size_t n, struct err *err) {
    a->finished = true; /* some servers name no finish_reason; the body has its length */
    return take(a, data, n, "message", err);
}

/* ---- server-sent events (HTML standard, 9.2.6) --------------------------------------------------------------------------------- */

static int end_event(struct openai_answer *a, struct err *err) {
    int code = 0;
    if (a->event.len && !strcmp(a->event.data, "[DONE]")) a->finished = true;
    else if (a->event.len) code = take(a, a->event.data, a->event.len, "delta", err);
    buf_clear(&a->event);
    return code;
}

static int end_line(struct openai_answer *a, struct err *err) {
    struct buf *l = &a->line;
    int code = 0;
    if (l->len && l->data[l->len - 1] == '\r') l->data[--l->len] = 0;
    if (!l->len) {
        code = end_event(a, err);
    } else if (!strncmp(l->data, "data:", 5)) { /* comments and other fields carry nothing for us */
        const char *value = l->data + 5 + (l->data[5] == ' ');
        if (a->event.len) buf_char(&a->event, '\n');
        buf_append(&a->event, value, l->len - (size_t)(value - l->data));
    }
    buf_clear(l);
    return code;
}

int openai_answer_stream(struct openai_answer *a, const char *data, size_t n, struct err *err) {
    while (n) {
        const char *end = memchr(data, '\n', n);
        size_t part = end ? (size_t)(end - data) : n;
        buf_append(&a->line, data, part);
        int code = end ? end_line(a, err) : 0;
        if (code) return code;
        if (a->line.failed || a->event.failed) return err_set(err, ERR_MEMORY, "out of memory for the server's answer");
        data += part + (end != NULL);
        n -= part + (end != NULL);
    }
    return 0;
}

int openai_answer_end(struct openai_answer *a, struct err *err) {
    int code = a->line.len ? end_line(a, err) : 0; /* the last blank line is often left out */
    if (!code) code = end_event(a, err);
    if (code) return code;
    if (!a->finished) return err_set(err, ERR_NETWORK, "the server's answer broke off after %zu bytes of text", a->text.len);
    if (a->cut_off) return err_set(err, ERR_LIMIT, "the answer was cut off at the limit of tokens: %.60s", a->text.len ? a->text.data : "");
    if (!a->text.len) return err_set(err, ERR_FORMAT, "the server's answer has no text");
    return 0;
}

/* ---- confidence ---------------------------------------------------------------------------------------------------------------- */

float openai_answer_confidence(const struct openai_answer *a) {
    const struct openai_token *t = (const void *)a->tokens.data;
    size_t count = a->tokens.len / sizeof *t;
    const char *text = a->text.data, *key = text ? strstr(text, "\"action\"") : NULL;
    const char *colon = key ? strchr(key + 8, ':') : NULL, *from = colon ? strchr(colon, '"') : NULL, *to = from ? strchr(from + 1, '"') : NULL;
    if (!to || a->token_bytes < (size_t)(to - text)) return 0; /* no log-probabilities, or of another text */
    double sum = 0;
    for (size_t i = 0, begin = 0; i < count; begin = t[i++].end) {
        if (t[i].end > (size_t)(from + 1 - text) && begin < (size_t)(to - text)) sum += t[i].logprob;
    }
    return (float)exp(sum);
}
