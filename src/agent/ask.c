#include "agent/ask.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/hands.h"
#include "base/clock.h"
#include "base/json.h"

enum { ANSWER_TOKENS = 40, THINK_TOKENS = 256 };

struct asker {
    struct qvl_session *session;
    struct qvl_model *model;
    struct ask_options options;
    char *system;
    bool thinking;
};

int asker_new(struct qvl_model *model, const struct ask_options *o, struct asker **out, struct err *err) {
    struct asker *a = calloc(1, sizeof *a);
    *out = NULL;
    if (!a || !(a->system = strdup(o->system))) {
        free(a);
        return err_set(err, ERR_MEMORY, "out of memory for a session");
    }
    a->options = *o;
    a->model = model;
    struct qvl_info info;
    qvl_model_info(model, &info);
    a->thinking = info.thinking;
    int code = qvl_session_new(model, &a->session, err);
    if (code) {
        free(a->system);
        free(a);
        return code;
    }
    *out = a;
    return 0;
}

void asker_free(struct asker *a) {
    if (!a) return;
    qvl_session_free(a->session);
    free(a->system);
    free(a);
}

void answer_free(struct answer *a) {
    free(a->text);
    free(a->prompt_tokens);
    free(a->answer_tokens);
    a->text = NULL;
    a->prompt_tokens = a->answer_tokens = NULL;
}

static void write_schema(const bool offered[ACTION_COUNT], struct buf *out) {
    buf_str(out, "{\"type\":\"object\",\"properties\":{\"action\":{\"enum\":[");
    for (int i = 0, first = 1; i < ACTION_COUNT; i++) {
        if (offered[i]) buf_printf(out, "%s\"%s\"", first ? "" : ",", action_name[i]), first = 0;
    }
    buf_str(out, "]}},\"required\":[\"action\"],\"additionalProperties\":false}");
}

static int on_text(void *user, const char *text, size_t n, bool thinking) {
    const struct asker *a = user;
    (void)thinking;
    for (const struct agent_events *v = a->options.events; subscriber(v); v++) {
        if (v->token) v->token(v->user, text, n);
    }
    return 0;
}

/* The action that the answer names, -1 with a reason. */
static int parse_answer(const char *text, const bool offered[ACTION_COUNT], char *reason, size_t cap) {
    struct arena arena = {0};
    struct err err = {0};
    const struct json *root = json_parse(text, strlen(text), "answer", &arena, &err);
    const char *name = json_as_string(json_get(root, "action"), NULL);
    int action = name ? action_by_name(name) : -1;
    if (!root) snprintf(reason, cap, "the answer is no JSON: %.120s", err.message);
    else if (!name) snprintf(reason, cap, "the answer has no text \"action\"");
    else if (action < 0) snprintf(reason, cap, "the answer names no action: %.60s", name);
    else if (!offered[action]) snprintf(reason, cap, "%s is not offered here", name), action = -1;
    arena_free(&arena);
    return action;
}

static int ask(struct asker *a, const uint8_t *rgb, const char *prompt, const char *schema, uint64_t seed, struct answer *out,
               struct qvl_result *result, struct err *err) {
    struct qvl_part system = {.text = a->system};
    struct qvl_part user[2] = {{.rgb = rgb, .width = FRAME_WIDTH, .height = FRAME_HEIGHT}, {.text = prompt}};
    qvl_session_clear(a->session);
    int code = qvl_session_message(a->session, QVL_SYSTEM, &system, 1, err);
    if (!code) code = qvl_session_message(a->session, QVL_USER, user, 2, err);
    size_t count = 0;
    if (!code) code = qvl_session_ids(a->session, &out->prompt_tokens, &count, err);
    if (code) return code;
    out->prompt_token_count = (int)count;
    struct qvl_generate g = {
        .sampling = {.greedy = a->options.greedy, .temperature = a->options.temperature, .seed = seed},
        .max_tokens = a->thinking ? ANSWER_TOKENS + THINK_TOKENS : ANSWER_TOKENS,
        .think_tokens = a->thinking ? THINK_TOKENS : 0,
        .json_schema = schema,
        .no_append = true,
        .on_text = a->options.events ? on_text : NULL,
        .user = a,
    };
    return qvl_generate(a->session, &g, result, err);
}

void asker_ask(struct asker *a, const uint8_t *rgb, const char *prompt, const bool offered[ACTION_COUNT], uint64_t seed, struct answer *out) {
    *out = (struct answer){.action = -1};
    struct buf schema = {0};
    struct qvl_result r = {0};
    struct err err = {0};
    double start = clock_seconds();
    write_schema(offered, &schema);
    int code = schema.failed ? err_set(&err, ERR_MEMORY, "out of memory for a schema") : ask(a, rgb, prompt, schema.data, seed, out, &r, &err);
    out->total_ms = (clock_seconds() - start) * 1e3;
    buf_free(&schema);
    if (code) {
        snprintf(out->reason, sizeof out->reason, "the model failed: %.170s", err.message);
        return;
    }
    out->text = r.text;
    r.text = NULL;
    double log_probability = 0;
    out->answer_tokens = r.token_count ? malloc(r.token_count * sizeof *out->answer_tokens) : NULL;
    for (size_t i = 0; i < r.token_count; i++) {
        if (out->answer_tokens) out->answer_tokens[out->answer_token_count++] = r.tokens[i].id;
        if (!r.tokens[i].forced && !a->thinking) log_probability += r.tokens[i].logprob;
    }
    out->confidence = a->thinking ? 0 : (float)exp(log_probability);
    out->cached_tokens = r.cached_tokens;
    /* Where the schema leaves one answer only, the engine computes nothing. */
    bool computed = r.image_seconds + r.prefill_seconds + r.decode_seconds > 0;
    out->computed_tokens = computed ? r.prompt_tokens - r.cached_tokens + (int64_t)r.token_count : 0;
    out->image_ms = r.image_seconds * 1e3;
    out->prefill_ms = r.prefill_seconds * 1e3;
    out->generate_ms = r.decode_seconds * 1e3;
    if (out->text) out->action = parse_answer(out->text, offered, out->reason, sizeof out->reason);
    else snprintf(out->reason, sizeof out->reason, "the model gave no answer");
    qvl_result_free(&r);
}
