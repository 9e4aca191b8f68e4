/* Embeddings, tokens, models, health. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "serve/api_room.h"

/* ---- embeddings ---- */

static int embed_one(struct api_job *job, const struct json *input, float **out, int *size, int64_t *tokens, struct api_fault *f) {
    struct qvl_session *s = NULL;
    struct err err = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    int r = qvl_session_new(job->a->model, &s, &err);
    if (!r && input->type == JSON_STRING) {
        r = qvl_session_raw(s, input->string, input->count, false, &err);
    } else if (!r) {
        int32_t *given = malloc((input->count + 1) * sizeof *given);
        if (!given) r = err_set(&err, ERR_MEMORY, "out of memory for an input");
        for (uint32_t i = 0; !r && i < input->count; i++) {
            const struct json *t = input->items[i];
            bool fits = t->type == JSON_NUMBER && t->is_integer && t->integer >= 0 && t->integer < job->a->info.vocab;
            if (!fits) r = err_set(&err, ERR_ARGUMENT, "'input' holds something else than token ids from 0 to %d", job->a->info.vocab - 1);
            else given[i] = (int32_t)t->integer;
        }
        if (!r) r = qvl_session_raw_ids(s, given, input->count, &err);
        free(given);
    }
    if (!r) r = qvl_session_ids(s, &ids, &n, &err);
    if (!r) r = qvl_embed(s, QVL_EMBED_LAST, out, size, &err);
    *tokens += (int64_t)n;
    free(ids);
    qvl_session_free(s);
    return r ? api_fail_engine(f, "input", &err) : 0;
}

int api_embeddings(struct api_job *job, const struct json *body, struct arena *arena, struct api_fault *f) {
    const struct json *input = json_get(body, "input");
    const char *format = json_as_string(json_get(body, "encoding_format"), "float");
    int64_t dimensions, tokens = 0;
    (void)arena;
    if (api_read_integer(body, "dimensions", 1, 1 << 20, 0, &dimensions, f)) return -1;
    if (dimensions && dimensions != job->a->info.hidden)
        return api_fail(f, 400, "dimensions", "'dimensions' is %lld; this model has %d and they cannot be cut", (long long)dimensions,
                        job->a->info.hidden);
    if (strcmp(format, "float") && strcmp(format, "base64"))
        return api_fail(f, 400, "encoding_format", "'encoding_format' is '%.40s', expected float or base64", format);
    if (!input || (input->type != JSON_STRING && input->type != JSON_ARRAY) || input->count == 0)
        return api_fail(f, 400, "input", "'input' must be a text, a list of texts, a list of token ids or a list of such lists");
    bool many = input->type == JSON_ARRAY && input->items[0]->type != JSON_NUMBER;
    int count = many ? (int)input->count : 1;
    if (count > API_MAX_PROMPTS) return api_fail(f, 400, "input", "'input' holds %d inputs, at most %d are taken", count, API_MAX_PROMPTS);
    struct buf b = {0};
    int r = 0;
    buf_str(&b, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; !r && i < count; i++) {
        const struct json *one = many ? input->items[i] : input;
        float *v = NULL;
        int size;
        double sum = 0;
        if ((one->type != JSON_STRING && one->type != JSON_ARRAY) || one->count == 0)
            r = api_fail(f, 400, "input", "input %d is empty, or no text and no list of ids", i);
        else if (__atomic_load_n(&job->cancel, __ATOMIC_RELAXED)) r = api_fail(f, 503, NULL, "cancelled");
        else r = embed_one(job, one, &v, &size, &tokens, f);
        if (r) break;
        for (int k = 0; k < size; k++) sum += (double)v[k] * v[k];
        for (int k = 0; k < size && sum > 0; k++) v[k] = (float)(v[k] / sqrt(sum)); /* length 1, as OpenAI's are */
        buf_printf(&b, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i ? "," : "", i);
        if (!strcmp(format, "base64")) {
            buf_char(&b, '"');
            base64_encode(v, (size_t)size * sizeof *v, &b);
            buf_char(&b, '"');
        } else {
            for (int k = 0; k < size; k++) {
                buf_char(&b, k ? ',' : '[');
                buf_printf(&b, "%.9g", isfinite(v[k]) ? (double)v[k] : 0.0);
            }
            buf_char(&b, ']');
        }
        buf_char(&b, '}');
        free(v);
    }
    buf_str(&b, "],\"model\":");
    buf_json_string(&b, job->a->model_name, strlen(job->a->model_name));
    buf_printf(&b, ",\"usage\":{\"prompt_tokens\":%lld,\"total_tokens\":%lld}}", (long long)tokens, (long long)tokens);
    if (!r && b.failed) r = api_fail(f, 500, NULL, "out of memory for the answer");
    if (!r) http_respond(job->x, 200, "application/json", b.data, b.len);
    buf_free(&b);
    return r;
}

/* ---- tokens ---- */

int api_tokenize(struct api_job *job, const struct json *body, struct arena *arena, struct api_fault *f) {
    const struct json *text = json_get(body, "content") ? json_get(body, "content") : json_get(body, "prompt");
    bool special = json_as_bool(json_get(body, "parse_special"), true), pieces;
    struct qvl_session *s = NULL;
    struct err err = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    (void)arena;
    if (api_read_bool(body, "with_pieces", &pieces, f)) return -1;
    if (json_get(body, "messages")) {
        if (qvl_session_new(job->a->model, &s, &err)) return api_fail_engine(f, NULL, &err);
        int r = api_read_messages(job, body, s, f);
        if (!r && qvl_session_ids(s, &ids, &n, &err)) r = api_fail_engine(f, "messages", &err);
        qvl_session_free(s);
        if (r) return r;
    } else {
        if (!text || text->type != JSON_STRING)
            return api_fail(f, 400, "content", "give the text as 'content' (or 'prompt'), or 'messages'");
        if (qvl_tokenize(job->a->model, text->string, text->count, special, &ids, &n, &err)) return api_fail_engine(f, "content", &err);
    }
    struct buf b = {0};
    buf_str(&b, "{\"tokens\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) buf_char(&b, ',');
        if (!pieces) {
            buf_printf(&b, "%d", ids[i]);
            continue;
        }
        size_t k;
        const char *bytes = qvl_token_bytes(job->a->model, ids[i], &k);
        buf_printf(&b, "{\"id\":%d,\"piece\":", ids[i]);
        buf_json_string(&b, bytes ? bytes : "", bytes ? k : 0);
        buf_char(&b, '}');
    }
    buf_printf(&b, "],\"count\":%zu,\"max_model_len\":%lld}", n, (long long)job->a->info.context);
    free(ids);
    int r = b.failed ? api_fail(f, 500, NULL, "out of memory for the answer") : 0;
    if (!r) http_respond(job->x, 200, "application/json", b.data, b.len);
    buf_free(&b);
    return r;
}

int api_detokenize(struct api_job *job, const struct json *body, struct arena *arena, struct api_fault *f) {
    const struct json *list = json_get(body, "tokens");
    struct err err = {0};
    char *text = NULL;
    if (!list || list->type != JSON_ARRAY) return api_fail(f, 400, "tokens", "'tokens' must be a list of token ids");
    int32_t *ids = arena_array(arena, list->count + 1, sizeof *ids);
    if (!ids) return api_fail(f, 500, NULL, "out of memory for %u tokens", list->count);
    for (uint32_t i = 0; i < list->count; i++) {
        const struct json *t = list->items[i];
        if (t->type != JSON_NUMBER || !t->is_integer || t->integer < 0 || t->integer >= job->a->info.vocab)
            return api_fail(f, 400, "tokens", "'tokens' holds something else than ids from 0 to %d at %u", job->a->info.vocab - 1, i);
        ids[i] = (int32_t)t->integer;
    }
    if (qvl_detokenize(job->a->model, ids, list->count, &text, &err)) return api_fail_engine(f, "tokens", &err);
    struct buf b = {0};
    buf_str(&b, "{\"content\":");
    buf_json_string(&b, text, strlen(text));
    buf_str(&b, ",\"prompt\":");
    buf_json_string(&b, text, strlen(text));
    buf_char(&b, '}');
    free(text);
    int r = b.failed ? api_fail(f, 500, NULL, "out of memory for the answer") : 0;
    if (!r) http_respond(job->x, 200, "application/json", b.data, b.len);
    buf_free(&b);
    return r;
}

/* ---- models, health: on the service thread ---- */

static bool is_ready(struct api *a) {
    pthread_mutex_lock(&a->lock);
    bool ready = a->model != NULL;
    pthread_mutex_unlock(&a->lock);
    return ready;
}

void api_models(void *api, struct http_exchange *x) {
    struct api *a = api;
    struct buf b = {0};
    if (!is_ready(a)) {
        http_error(x, 503, "server_error", NULL, "the model is being loaded");
        return;
    }
    const char *path = http_request(x)->path, *one = strlen(path) > 11 ? path + 11 : NULL; /* behind "/v1/models/" */
    if (one && strcmp(one, a->model_name)) {
        http_error(x, 404, "invalid_request_error", "model", "the model '%.200s' is not here; this server has '%s'", one, a->model_name);
        return;
    }
    if (!one) buf_str(&b, "{\"object\":\"list\",\"data\":[");
    buf_str(&b, "{\"id\":");
    buf_json_string(&b, a->model_name, strlen(a->model_name));
    buf_printf(&b,
               ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"pmd-agent\",\"max_model_len\":%lld,"
               "\"capabilities\":[\"completion\",\"chat\",\"multimodal\",\"embedding\"],\"modalities\":[\"text\",\"image\"],"
               "\"meta\":{\"n_params\":%lld,\"n_vocab\":%d,\"n_embd\":%d,\"n_ctx_train\":%lld,\"storage\":",
               (long long)a->created, (long long)a->info.context, (long long)a->info.parameters, a->info.vocab, a->info.hidden,
               (long long)a->info.context);
    buf_json_string(&b, a->info.storage, strlen(a->info.storage));
    buf_printf(&b, ",\"device\":\"%s\",\"thinking\":%s}}", a->info.device, a->info.thinking ? "true" : "false");
    if (!one) buf_str(&b, "]}");
    if (b.failed) http_error(x, 500, "server_error", NULL, "out of memory");
    else http_respond(x, 200, "application/json", b.data, b.len);
    buf_free(&b);
}

void api_health(void *api, struct http_exchange *x) {
    static const char ok[] = "{\"status\":\"ok\"}";
    if (is_ready(api)) http_respond(x, 200, "application/json", ok, sizeof ok - 1);
    else http_error(x, 503, "unavailable_error", NULL, "Loading model");
}
