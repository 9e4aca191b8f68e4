/* Embeddings of what was seen: hidden states of the model, scaled to length 1.
 *   image    mean over the picture's tokens; the prompt has no part in it
 *   last     of the last token after the picture and a fixed question about it
 *   thought  of the last token before </think> of an answer (thinking models), behind the system text and its own turn: what a conversation
 *            holds between the two is left out
 * The first two are made from the picture alone. */
#ifndef AGENT_EMBED_H
#define AGENT_EMBED_H

#include "qwen3vl.h"

enum embed_kind { EMBED_IMAGE, EMBED_LAST, EMBED_THOUGHT, EMBED_KINDS };
extern const char *const embed_kind_name[EMBED_KINDS];

struct embedder; /* used by one thread at a time; the model may be shared */
/* Refuses `thought` for a model that does not think. */
int embedder_new(struct qvl_model *model, enum embed_kind kind, struct embedder **out, struct err *err);
void embedder_free(struct embedder *e);
enum embed_kind embedder_kind(const struct embedder *e);
int embedder_dims(const struct embedder *e);

/* Of a 240x160 picture; out has embedder_dims floats. */
int embed_picture(struct embedder *e, const uint8_t *rgb, float *out, struct err *err);
/* Of an answer, from the tokens of the prompt (with the picture) and of the answer. */
struct embed_answer {
    const uint8_t *rgb;
    const int32_t *prompt, *answer;
    int prompt_count, answer_count;
};
int embed_thought(struct embedder *e, const struct embed_answer *a, float *out, struct err *err);

#endif
