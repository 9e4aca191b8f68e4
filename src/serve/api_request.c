/* Fields of a request body: read, checked, or refused by name. What is not known is ignored, as OpenAI's clients expect of servers;
 * what is known to change the answer and is not implemented is refused. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/api_room.h"

int api_fail(struct api_fault *f, int status, const char *param, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(f->err.message, sizeof f->err.message, format, args);
    va_end(args);
    f->status = status;
    f->type = NULL;
    snprintf(f->param, sizeof f->param, "%s", param ? param : "");
    return -1;
}

int api_fail_engine(struct api_fault *f, const char *param, const struct err *err) {
    bool theirs = err->code == ERR_ARGUMENT || err->code == ERR_FORMAT || err->code == ERR_LIMIT;
    return api_fail(f, theirs ? 400 : 500, param, "%s", err->message);
}

const char *api_fault_type(const struct api_fault *f) {
    return f->type ? f->type : f->status >= 500 ? "server_error" : "invalid_request_error";
}

static const char *kind(const struct json *v) {
    static const char *const names[] = {"null", "a boolean", "a number", "a string", "an array", "an object"};
    return v ? names[v->type] : "nothing";
}

static const struct json *field(const struct json *body, const char *name) {
    const struct json *v = json_get(body, name);
    return v && v->type != JSON_NULL ? v : NULL;
}

static double number_of(const struct json *v) { return v->is_integer ? (double)v->integer : v->number; }

int api_read_number(const struct json *body, const char *name, double low, double high, double otherwise, double *out,
                    struct api_fault *f) {
    const struct json *v = field(body, name);
    *out = otherwise;
    if (!v) return 0;
    if (v->type != JSON_NUMBER) return api_fail(f, 400, name, "'%s' is %s, expected a number", name, kind(v));
    *out = number_of(v);
    if (*out >= low && *out <= high) return 0;
    return api_fail(f, 400, name, "'%s' is %g, expected %g to %g", name, *out, low, high);
}

int api_read_integer(const struct json *body, const char *name, int64_t low, int64_t high, int64_t otherwise, int64_t *out,
                     struct api_fault *f) {
    const struct json *v = field(body, name);
    *out = otherwise;
    if (!v) return 0;
    if (v->type != JSON_NUMBER || !v->is_integer)
        return api_fail(f, 400, name, "'%s' is %s, expected an integer from %lld to %lld", name,
                        v->type == JSON_NUMBER ? "no integer of 64 bits" : kind(v), (long long)low, (long long)high);
    *out = v->integer;
    if (*out >= low && *out <= high) return 0;
    return api_fail(f, 400, name, "'%s' is %lld, expected %lld to %lld", name, (long long)*out, (long long)low, (long long)high);
}

int api_read_bool(const struct json *body, const char *name, bool *out, struct api_fault *f) {
    const struct json *v = field(body, name);
    *out = v && v->type == JSON_BOOL && v->boolean;
    if (!v || v->type == JSON_BOOL) return 0;
    return api_fail(f, 400, name, "'%s' is %s, expected true or false", name, kind(v));
}

void api_write_json(struct buf *out, const struct json *v) {
    switch (v->type) {
    case JSON_NULL: buf_str(out, "null"); break;
    case JSON_BOOL: buf_str(out, v->boolean ? "true" : "false"); break;
    case JSON_NUMBER:
        if (v->is_integer) buf_printf(out, "%lld", (long long)v->integer);
        else buf_json_number(out, v->number);
        break;
    case JSON_STRING: buf_json_string(out, v->string, v->count); break;
    case JSON_ARRAY:
        buf_char(out, '[');
        for (uint32_t i = 0; i < v->count; i++) {
            if (i) buf_char(out, ',');
            api_write_json(out, v->items[i]);
        }
        buf_char(out, ']');
        break;
    case JSON_OBJECT:
        buf_char(out, '{');
        for (uint32_t i = 0; i < v->count; i++) {
            if (i) buf_char(out, ',');
            buf_json_string(out, v->members[i].key, v->members[i].key_len);
            buf_char(out, ':');
            api_write_json(out, v->members[i].value);
        }
        buf_char(out, '}');
    }
}

/* ---- generation ---- */

/* Is this value the same as not asking? */
static bool is_neutral(const struct json *v) {
    if (v->type == JSON_ARRAY || v->type == JSON_OBJECT) return v->count == 0;
    if (v->type == JSON_BOOL) return !v->boolean;
    if (v->type == JSON_STRING) return v->count == 0 || !strcmp(v->string, "none") || !strcmp(v->string, "auto");
    return v->type == JSON_NULL;
}

static int refuse_unsupported(const struct json *body, bool chat, struct api_fault *f) {
    static const char *const both[] = {"best_of_sequences", "use_beam_search", "guided_regex", "guided_grammar", "guided_choice",
                                       "grammar", "bad_words", "allowed_token_ids", "prompt_logprobs", NULL};
    static const char *const chat_only[] = {"tools", "functions", "audio", "web_search_options", "prediction", NULL};
    static const char *const text_only[] = {"suffix", NULL};
    const char *const *lists[] = {both, chat ? chat_only : text_only};
    for (int l = 0; l < 2; l++)
        for (int i = 0; lists[l][i]; i++) {
            const struct json *v = field(body, lists[l][i]);
            if (v && !is_neutral(v)) return api_fail(f, 400, lists[l][i], "'%s' is not supported by this server", lists[l][i]);
        }
    int64_t best;
    if (api_read_integer(body, "best_of", 1, 1, 1, &best, f)) return -1;
    const struct json *m = field(body, "modalities");
    for (uint32_t i = 0; m && m->type == JSON_ARRAY && i < m->count; i++)
        if (strcmp(json_as_string(m->items[i], ""), "text")) return api_fail(f, 400, "modalities", "only 'text' is generated");
    return 0;
}

static int read_stop(const struct json *body, struct api_generate *out, struct api_fault *f) {
    const struct json *v = field(body, "stop");
    if (!v) return 0;
    const struct json *one[] = {v};
    uint32_t count = v->type == JSON_ARRAY ? v->count : 1;
    const struct json *const *list = v->type == JSON_ARRAY ? (const struct json *const *)v->items : one;
    if (count > API_MAX_STOP) return api_fail(f, 400, "stop", "'stop' has %u strings, at most %d are taken", count, API_MAX_STOP);
    for (uint32_t i = 0; i < count; i++) {
        if (list[i]->type != JSON_STRING || list[i]->count == 0 || strlen(list[i]->string) != list[i]->count)
            return api_fail(f, 400, "stop", "'stop' must be a string or a list of strings, none of them empty or with NULs");
        out->stop[i] = list[i]->string;
    }
    out->g.stop = out->stop;
    out->g.stop_count = (int)count;
    return 0;
}

static int read_bias(struct api *a, const struct json *body, struct api_generate *out, struct api_fault *f) {
    const struct json *v = field(body, "logit_bias");
    if (!v) return 0;
    if (v->type != JSON_OBJECT) return api_fail(f, 400, "logit_bias", "'logit_bias' is %s, expected an object of token ids", kind(v));
    if (v->count > API_MAX_BIAS)
        return api_fail(f, 400, "logit_bias", "'logit_bias' names %u tokens, at most %d are taken", v->count, API_MAX_BIAS);
    for (uint32_t i = 0; i < v->count; i++) {
        const struct json *b = v->members[i].value;
        char *end;
        long id = strtol(v->members[i].key, &end, 10);
        if (!v->members[i].key[0] || *end || id < 0 || id >= a->info.vocab)
            return api_fail(f, 400, "logit_bias", "'logit_bias' names token '%.40s', expected ids from 0 to %d", v->members[i].key,
                            a->info.vocab - 1);
        if (b->type != JSON_NUMBER || !(number_of(b) >= -100 && number_of(b) <= 100))
            return api_fail(f, 400, "logit_bias", "'logit_bias' of token %ld is no number from -100 to 100", id);
        double bias = number_of(b);
        /* OpenAI's documentation: -100 bans, 100 forces. */
        out->bias[i] = (struct qvl_bias){(int32_t)id, bias <= -100 ? -1e9f : bias >= 100 ? 1e9f : (float)bias};
    }
    out->g.bias = out->bias;
    out->g.bias_count = (int)v->count;
    return 0;
}

static int read_format(struct api *a, const struct json *body, struct arena *arena, struct api_generate *out, struct api_fault *f) {
    const struct json *v = field(body, "response_format"), *guided = field(body, "guided_json"), *schema = NULL;
    const char *where = "response_format";
    if (v) {
        const char *type = json_as_string(json_get(v, "type"), "");
        if (!strcmp(type, "json_schema")) {
            schema = json_get(json_get(v, "json_schema"), "schema");
            if (!schema || schema->type != JSON_OBJECT)
                return api_fail(f, 400, where, "'response_format.json_schema.schema' is %s, expected an object", kind(schema));
        } else if (!strcmp(type, "json_object"))
            return api_fail(f, 400, where, "'response_format' of type json_object is not supported: give the shape as json_schema");
        else if (strcmp(type, "text"))
            return api_fail(f, 400, where, "'response_format.type' is '%.40s', expected text or json_schema", type);
    } else if (guided) {
        where = "guided_json";
        schema = guided;
        if (schema->type != JSON_OBJECT) return api_fail(f, 400, where, "'guided_json' is %s, expected an object", kind(schema));
    }
    if (!schema) return 0;
    struct buf text = {0};
    struct err err = {0};
    api_write_json(&text, schema);
    out->g.json_schema = text.failed ? NULL : arena_string(arena, text.data, text.len);
    buf_free(&text);
    if (!out->g.json_schema) return api_fail(f, 500, NULL, "out of memory for a schema");
    if (qvl_check_schema(a->model, out->g.json_schema, &err)) return api_fail_engine(f, where, &err);
    return 0;
}

static int read_logprobs(const struct json *body, bool chat, struct api_generate *out, struct api_fault *f) {
    int64_t top;
    if (!chat) {
        if (api_read_integer(body, "logprobs", 0, 20, -1, &top, f)) return -1;
        out->logprobs = top >= 0;
        out->g.top_logprobs = top > 0 ? (int)top : 0;
        return 0;
    }
    if (api_read_bool(body, "logprobs", &out->logprobs, f) || api_read_integer(body, "top_logprobs", 0, 20, 0, &top, f)) return -1;
    if (top > 0 && !out->logprobs) return api_fail(f, 400, "top_logprobs", "'top_logprobs' needs 'logprobs': true");
    out->g.top_logprobs = (int)top;
    return 0;
}

int api_read_generate(struct api *a, const struct json *body, bool chat, struct arena *arena, struct api_generate *out,
                      struct api_fault *f) {
    struct qvl_sampling *q = &out->g.sampling;
    double temperature, top_p, min_p, repetition, presence, frequency;
    int64_t top_k, seed, n, tokens, completion, think;
    bool echo;
    if (refuse_unsupported(body, chat, f)) return -1;
    const char *name = json_as_string(json_get(body, "model"), NULL);
    const struct json *given = field(body, "model");
    if (given && !name) return api_fail(f, 400, "model", "'model' is %s, expected a string", kind(given));
    if (name && name[0] && strcmp(name, a->model_name) && strcmp(name, "default"))
        return api_fail(f, 404, "model", "the model '%.200s' is not here; this server has '%s'", name, a->model_name);
    if (api_read_number(body, "temperature", 0, 100, -1, &temperature, f) || api_read_number(body, "top_p", 0, 1, -1, &top_p, f) ||
        api_read_number(body, "min_p", 0, 1, 0, &min_p, f) || api_read_integer(body, "top_k", -1, 1 << 30, -2, &top_k, f) ||
        api_read_number(body, "repetition_penalty", 0.01, 100, 0, &repetition, f) ||
        api_read_number(body, "presence_penalty", -100, 100, 0, &presence, f) ||
        api_read_number(body, "frequency_penalty", -100, 100, 0, &frequency, f) ||
        api_read_integer(body, "seed", INT64_MIN, INT64_MAX, 0, &seed, f) || api_read_integer(body, "n", 1, API_MAX_N, 1, &n, f) ||
        api_read_integer(body, "max_tokens", 0, 1 << 30, -1, &tokens, f) ||
        api_read_integer(body, "max_completion_tokens", 1, 1 << 30, -1, &completion, f) ||
        api_read_integer(body, "think_tokens", 0, 1 << 30, 0, &think, f) || api_read_bool(body, "stream", &out->stream, f) ||
        api_read_bool(body, "echo", &echo, f))
        return -1;
    out->echo = echo && !chat;
    if (completion >= 0) tokens = completion;
    if (tokens == 0 && !out->echo) return api_fail(f, 400, "max_tokens", "'max_tokens' is 0: nothing to generate");
    out->g.max_tokens = tokens >= 0 ? (int)tokens : chat ? 0 : 16; /* 16: OpenAI's default for text completions */
    q->greedy = temperature == 0;
    q->temperature = temperature > 0 ? (float)temperature : 0;
    q->top_p = top_p < 0 ? 0 : top_p == 0 ? 1e-9f : (float)top_p;
    q->min_p = (float)min_p;
    q->top_k = top_k == -2 ? 0 : top_k <= 0 ? a->info.vocab : top_k > a->info.vocab ? a->info.vocab : (int)top_k;
    q->repetition_penalty = (float)repetition;
    q->presence_penalty = (float)presence;
    q->frequency_penalty = (float)frequency;
    out->seeded = field(body, "seed") != NULL;
    q->seed = (uint64_t)seed;
    out->n = (int)n;
    out->g.think_tokens = (int)think;
    const struct json *options = field(body, "stream_options");
    if (options && !out->stream) return api_fail(f, 400, "stream_options", "'stream_options' needs 'stream': true");
    if (options && api_read_bool(options, "include_usage", &out->include_usage, f)) return -1;
    if (read_stop(body, out, f) || read_bias(a, body, out, f) || read_logprobs(body, chat, out, f)) return -1;
    return read_format(a, body, arena, out, f);
}
