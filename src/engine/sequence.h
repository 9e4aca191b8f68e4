/* A sequence at work: a prompt that grows, and the KV pages of what has been computed of it. */
#ifndef ENGINE_SEQUENCE_H
#define ENGINE_SEQUENCE_H

#include "engine/prompt.h"

struct sequence {
    struct qvl_model *m;
    struct prompt prompt;      /* own copy, grows by sequence_append */
    int32_t *pages;
    int page_count, page_capacity;
    int64_t computed;          /* tokens whose keys and values are in the pages */
    int64_t reused;            /* of these, taken from the cache when the sequence was opened */
    struct hash128 *chain;     /* chain[i]: key of the first i full pages; chain[0] is the model's identity */
    bool logits_known;         /* logits holds the row of token computed - 1 */
    float *logits;             /* (vocab) */
    double image_seconds, forward_seconds;
    int64_t forwards;
    const int *cancel;         /* non-zero: sequence_run stops with ERR_CANCELLED before its next pass; NULL: never */
    const struct vision_features **held; /* (visual_count) features in use, NULL until needed */
};

/* Takes over *prompt. Nothing is computed yet: sequence_match looks for a known beginning. */
int sequence_open(struct sequence *s, struct qvl_model *m, struct prompt *prompt, struct err *err);
/* Takes what the cache knows of the prompt as it now is; only on a sequence of which nothing is computed. */
int sequence_match(struct sequence *s, struct err *err);
/* Forgets what is computed from token `length` on. */
void sequence_rewind(struct sequence *s, int64_t length);
int sequence_append(struct sequence *s, const int32_t *ids, int64_t count, struct err *err);
/* Computes everything that is not computed yet; afterwards s->logits belongs to the last token. publish_at: also publish the page
 * that ends at this token (a prompt's end inside a page), 0 = none. */
int sequence_run(struct sequence *s, int64_t publish_at, struct err *err);
/* Computes tokens [s->computed, upto) with what the caller wants of the rows, in one pass; upto - computed at most PREFILL_CHUNK.
 */
int sequence_step(struct sequence *s, int64_t upto, const int *rows, int row_count, float *logits, float *hidden,
                  struct err *err);
/* Publishes the page that ends with token n - 1 as the end of a prompt. */
void sequence_publish(struct sequence *s, int64_t n);
/* Publishes what was computed and lets the pages go. */
void sequence_close(struct sequence *s);

#endif
