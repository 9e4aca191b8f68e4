#include "agent/embed.h"

#include <stdlib.h>
#include <string.h>

#include "emulator/emulator.h"
#include "memory/vector_math.h"

const char *const embed_kind_name[EMBED_KINDS] = {"image", "last", "thought"};
static const char question[] = "Where is this, what is near, and what should be done?";

struct embedder {
    struct qvl_model *model;
    enum embed_kind kind;
    struct qvl_session *session;
    int dims;
    int32_t image_token, turn_token; /* turn_token: <|im_start|>; -1: the vocabulary has none */
};

int embedder_new(struct qvl_model *model, enum embed_kind kind, struct embedder **out, struct err *err) {
    *out = NULL;
    struct qvl_info info;
    qvl_model_info(model, &info);
    if (kind == EMBED_THOUGHT && !info.thinking) {
        return err_set(err, ERR_ARGUMENT, "%s does not think: embeddings of the kind \"thought\" need a Thinking model; use image or last", info.folder);
    }
    struct embedder *e = calloc(1, sizeof *e);
    if (!e) return err_set(err, ERR_MEMORY, "out of memory for embeddings");
    *e = (struct embedder){.model = model, .kind = kind, .dims = info.hidden};
    int32_t *ids = NULL;
    size_t count = 0;
    int code = qvl_session_new(model, &e->session, err);
    if (!code) code = qvl_tokenize(model, "<|image_pad|>", 13, true, &ids, &count, err);
    if (!code && count != 1) code = err_set(err, ERR_FORMAT, "%s: the tokenizer has no single <|image_pad|> token", info.folder);
    if (!code) e->image_token = ids[0];
    free(ids);
    ids = NULL;
    if (!code) code = qvl_tokenize(model, "<|im_start|>", 12, true, &ids, &count, err);
    if (!code) e->turn_token = count == 1 ? ids[0] : -1;
    free(ids);
    if (code) {
        embedder_free(e);
        return code;
    }
    *out = e;
    return 0;
}

void embedder_free(struct embedder *e) {
    if (!e) return;
    qvl_session_free(e->session);
    free(e);
}

enum embed_kind embedder_kind(const struct embedder *e) { return e->kind; }
int embedder_dims(const struct embedder *e) { return e->dims; }

static int embed(struct embedder *e, enum qvl_embedding kind, float *out, struct err *err) {
    float *v = NULL;
    int size = 0, code = qvl_embed(e->session, kind, &v, &size, err);
    if (!code && size != e->dims) code = err_set(err, ERR_STATE, "an embedding of %d floats, expected %d", size, e->dims);
    if (!code && !vector_normalise(v, (size_t)size)) code = err_set(err, ERR_STATE, "the model's hidden state is zero or not finite: no embedding");
    if (!code) memcpy(out, v, (size_t)size * sizeof *out);
    free(v);
    return code;
}

int embed_picture(struct embedder *e, const uint8_t *rgb, float *out, struct err *err) {
    struct qvl_part parts[2] = {{.rgb = rgb, .width = FRAME_WIDTH, .height = FRAME_HEIGHT}, {.text = question}};
    bool last = e->kind == EMBED_LAST;
    qvl_session_clear(e->session);
    int code = qvl_session_message(e->session, QVL_USER, parts, last ? 2 : 1, err);
    return code ? code : embed(e, last ? QVL_EMBED_LAST : QVL_EMBED_IMAGE, out, err);
}

/* Ids as they were sent hold one image token per patch; a session takes one for the picture. */
static int add_ids(struct embedder *e, const int32_t *ids, int count, struct err *err) {
    int32_t *once = malloc((size_t)(count > 0 ? count : 1) * sizeof *once);
    size_t n = 0;
    if (!once) return err_set(err, ERR_MEMORY, "out of memory for %d tokens", count);
    for (int i = 0; i < count; i++) {
        if (ids[i] != e->image_token || n == 0 || once[n - 1] != e->image_token) once[n++] = ids[i];
    }
    int code = qvl_session_raw_ids(e->session, once, n, err);
    free(once);
    return code;
}

/* A prompt is its system text, earlier exchanges of a conversation, the newest turn and the opened answer. *head: where the exchanges begin,
 * *turn: where the newest turn does; both the same when there are none. */
static void newest_turn(const struct embedder *e, const struct embed_answer *a, int *head, int *turn) {
    int turns = 0, before_last = 0, last = 0;
    *head = *turn = 0;
    for (int i = 0; i < a->prompt_count; i++) {
        if (a->prompt[i] != e->turn_token) continue;
        if (turns++ == 1) *head = i;
        before_last = last, last = i;
    }
    *turn = turns > 2 ? before_last : *head;
}

/* Earlier exchanges are left out: their pictures are not at hand when memory is made again of a run, and what is embedded is this thought. */
int embed_thought(struct embedder *e, const struct embed_answer *a, float *out, struct err *err) {
    if (!a->prompt_count || !a->answer_count) return err_set(err, ERR_ARGUMENT, "no tokens of prompt and answer are known: no embedding of a thought");
    struct qvl_part picture = {.rgb = a->rgb, .width = FRAME_WIDTH, .height = FRAME_HEIGHT};
    int head, turn, code = 0;
    bool shown = false;
    newest_turn(e, a, &head, &turn);
    for (int i = turn; i < a->prompt_count; i++) shown |= a->prompt[i] == e->image_token;
    qvl_session_clear(e->session);
    if (shown) code = qvl_session_raw_picture(e->session, &picture, err);
    if (!code && head) code = add_ids(e, a->prompt, head, err);
    if (!code) code = add_ids(e, a->prompt + turn, a->prompt_count - turn, err);
    if (!code) code = add_ids(e, a->answer, a->answer_count, err);
    return code ? code : embed(e, QVL_EMBED_THOUGHT, out, err);
}
