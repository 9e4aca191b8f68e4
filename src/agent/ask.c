#include "agent/ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/ask_engine.h"
#include "agent/hands.h"
#include "base/clock.h"
#include "base/json.h"

struct asker {
    struct ask_options options;
    char *system;
    struct answerer by;
    struct engine_answerer *engine; /* NULL when another answers */
};

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
        int code = engine_answerer_new(model, NULL, &a->engine, err);
        if (code) return asker_free(a), code;
        a->by = engine_answerer_door(a->engine);
    }
    *out = a;
    return 0;
}

void asker_free(struct asker *a) {
    if (!a) return;
    engine_answerer_free(a->engine);
    free(a->system);
    free(a);
}

void answer_free(struct answer *a) {
    free(a->text);
    free(a->pieces);
    a->pieces = NULL;
    free(a->prompt_tokens);
    free(a->answer_tokens);
    a->text = NULL;
    a->prompt_tokens = a->answer_tokens = NULL;
}

void action_note_schema(const bool offered[ACTION_COUNT], int note, struct buf *out) {
    buf_str(out, "{\"type\":\"object\",\"properties\":{\"action\":{\"type\":\"string\",\"enum\":[");
    for (int i = 0, first = 1; i < ACTION_COUNT; i++) {
        if (offered[i]) buf_printf(out, "%s\"%s\"", first ? "" : ",", action_name[i]), first = 0;
    }
    buf_str(out, "]}");
    if (note) buf_printf(out, ",\"note\":{\"type\":\"string\",\"maxLength\":%d}", note);
    buf_str(out, "},\"required\":[\"action\"],\"additionalProperties\":false}");
}

void action_schema(const bool offered[ACTION_COUNT], struct buf *out) { action_note_schema(offered, 0, out); }

void question_token(const struct question *q, const char *text, size_t n) {
    for (const struct agent_events *v = q->events; subscriber(v); v++) {
        if (v->token) v->token(v->user, text, n);
    }
}

double question_now(const struct question *q) { return q->now ? q->now() : clock_seconds(); }

void question_piece(const struct question *q, const char *text, size_t n, float probability, bool forced) {
    for (const struct agent_events *v = q->events; subscriber(v); v++) {
        if (v->piece) v->piece(v->user, text, n, probability, forced);
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
