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
    struct ask_options options;
    char *system;
    struct answerer by;
    struct qvl_session *session; /* the engine's; NULL when another answers */
    bool thinking;
};

static int engine_answer(void *user, const struct question *q, struct answer *out, struct err *err);

int asker_new(struct qvl_model *model, const struct ask_options *o, struct asker **out, struct err *err) {
    struct asker *a = calloc(1, sizeof *a);
    *out = NULL;
    if (!a || !(a->system = strdup(o->system))) {
        free(a);
        return err_set(err, ERR_MEMORY, "out of memory for a session");
    }
    a->options = *o;
    if (o->answerer) {
        a->by = *o->answerer;
    } else {
        struct qvl_info info;
        qvl_model_info(model, &info);
        a->thinking = info.thinking;
        a->by = (struct answerer){engine_answer, a};
        int code = qvl_session_new(model, &a->session, err);
        if (code) return asker_free(a), code;
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

void action_schema(const bool offered[ACTION_COUNT], struct buf *out) {
    buf_str(out, "{\"type\":\"object\",\"properties\":{\"action\":{\"type\":\"string\",\"enum\":[");
    for (int i = 0, first = 1; i < ACTION_COUNT; i++) {
        if (offered[i]) buf_printf(out, "%s\"%s\"", first ? "" : ",", action_name[i]), first = 0;
    }
    buf_str(out, "]}},\"required\":[\"action\"],\"additionalProperties\":false}");
}

void question_token(const struct question *q, const char *text, size_t n) {
    for (const struct agent_events *v = q->events; subscriber(v); v++) {
        if (v->token) v->token(v->user, text, n);
    }
}

int action_of_answer(const char *text, const bool offered[ACTION_COUNT], char *reason, size_t cap) {
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

static int on_text(void *user, const char *text, size_t n, bool thinking) {
    (void)thinking;
    question_token(user, text, n);
    return 0;
}

static int generate(struct asker *a, const struct question *q, struct answer *out, struct qvl_result *result, struct err *err) {
    struct qvl_part system = {.text = q->system};
    struct qvl_part user[2] = {{.rgb = q->rgb, .width = q->width ? q->width : FRAME_WIDTH, .height = q->height ? q->height : FRAME_HEIGHT},
                               {.text = q->prompt}};
    qvl_session_clear(a->session);
    int code = qvl_session_message(a->session, QVL_SYSTEM, &system, 1, err);
    if (!code) code = qvl_session_message(a->session, QVL_USER, user + !q->rgb, q->rgb ? 2 : 1, err);
    size_t count = 0;
    if (!code) code = qvl_session_ids(a->session, &out->prompt_tokens, &count, err);
    if (code) return code;
    out->prompt_token_count = (int)count;
    struct qvl_generate g = {
        .sampling = {.greedy = q->greedy, .temperature = q->temperature, .seed = q->seed},
        .max_tokens = a->thinking ? ANSWER_TOKENS + THINK_TOKENS : ANSWER_TOKENS,
        .think_tokens = a->thinking ? THINK_TOKENS : 0,
        .json_schema = q->schema,
        .no_append = true,
        .on_text = q->events ? on_text : NULL,
        .user = (void *)q,
    };
    return qvl_generate(a->session, &g, result, err);
}

static int engine_answer(void *user, const struct question *q, struct answer *out, struct err *err) {
    struct asker *a = user;
    struct qvl_result r = {0};
    int code = generate(a, q, out, &r, err);
    if (code) return err_context(err, "the model failed");
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
    qvl_result_free(&r);
    return 0;
}

void asker_question(struct asker *a, const struct question *question, struct answer *out) {
    *out = (struct answer){.action = -1};
    struct question q = *question;
    struct err err = {0};
    double start = clock_seconds();
    if (!q.system) q.system = a->system;
    q.greedy = a->options.greedy;
    q.temperature = a->options.temperature;
    q.events = a->options.events;
    int code = a->by.answer(a->by.user, &q, out, &err);
    out->total_ms = (clock_seconds() - start) * 1e3;
    if (code) snprintf(out->reason, sizeof out->reason, "%.290s", err.message);
    else if (!out->text) answer_remark(out, "the model gave no answer");
    if (code) answer_free(out);
}

void answer_remark(struct answer *a, const char *text) {
    size_t n = strlen(a->reason);
    if (*text) snprintf(a->reason + n, sizeof a->reason - n, "%s%s", n ? "; " : "", text);
}

void asker_ask(struct asker *a, const uint8_t *rgb, const char *prompt, const bool offered[ACTION_COUNT], uint32_t seed, uint32_t decision,
               struct answer *out) {
    struct buf schema = {0};
    char problem[200] = "";
    action_schema(offered, &schema);
    struct question q = {.prompt = prompt, .rgb = rgb, .schema = schema.data, .seed = (uint64_t)seed << 32 | decision, .decision = decision};
    if (schema.failed) *out = (struct answer){.action = -1, .reason = "out of memory for a schema"};
    else asker_question(a, &q, out);
    buf_free(&schema);
    if (out->text) out->action = action_of_answer(out->text, offered, problem, sizeof problem);
    answer_remark(out, problem);
}
