/* A sequence at work: a prompt that grows, and the KV pages of what has been computed of it. */
#ifndef ENGINE_SEQUENCE_H
#define ENGINE_SEQUENCE_H

#include "engine/prompt.h"

enum { SEQUENCE_ENDS = 4 };

struct sequence {
    struct qvl_model *m;
    struct prompt prompt;      /* own copy, grows by sequence_append */
    int32_t *pages;
    int page_count, page_capacity;
    int64_t computed;          /* tokens whose keys and values are in the pages */
    int64_t reused;            /* of these, taken from the cache when the sequence was opened */
    struct hash128 *chain;     /* chain[i]: key of the first i full pages; chain[0] is the model's identity */
    int64_t ends[SEQUENCE_ENDS]; /* lengths inside a page that were published, for the levels below */
    int end_count;
    bool logits_known;         /* logits holds the row of token computed - 1 */
    struct logits_row *logits; /* one reference held, NULL until one is needed; another's once it is known */
    int64_t counted_hits, counted_misses; /* in the statistics of the cache */
    double image_seconds, forward_seconds;
    int64_t forwards;
    const struct vision_features **held; /* (visual_count) features in use, NULL until needed */
};

/* Takes over *prompt. Nothing is computed yet: sequence_match looks for a known beginning. */
int sequence_open(struct sequence *s, struct qvl_model *m, struct prompt *prompt, struct err *err);
/* prefix_match.c: takes what the cache knows of the prompt as it now is, from whichever level; only on a sequence that has computed
 * nothing itself. */
int sequence_match(struct sequence *s, struct err *err);
/* Forgets what is computed from token `length` on. */
void sequence_rewind(struct sequence *s, int64_t length);
int sequence_append(struct sequence *s, const int32_t *ids, int64_t count, struct err *err);
/* The visual rows of some tokens as a span wants them. */
struct visual_rows {
    int32_t *row;
    float *values;             /* gathered, or NULL when one picture's features are used in place */
    const float *level[1 + CONFIG_MAX_DEEPSTACK];
    int levels;
    bool pinned;               /* in place, in memory that the device copies from straight */
};
/* One pass over tokens [computed, upto): sequence_prepare fills the span, the caller adds what it wants of the rows and has it
 * computed (batch_forward), sequence_commit takes note. Must not move in between. */
struct sequence_pass {
    struct span span;
    int64_t upto;
    struct visual_rows visual;
};
int sequence_prepare(struct sequence *s, int64_t upto, struct sequence_pass *pass, struct err *err);
/* After the pass, which took so long; done: it was computed. Also to be called when it was not. */
void sequence_commit(struct sequence *s, struct sequence_pass *pass, bool done, double seconds);
/* Where the next pass over what is not computed yet ends, when it may have `most` rows: with fixed cuts that does not matter; else at
 * the end of a page, or of the prompt. */
int64_t sequence_next(const struct sequence *s, int64_t most);
/* All three: what the caller wants of the rows, in one pass. */
int sequence_step(struct sequence *s, int64_t upto, const int *rows, int row_count, float *logits, float *hidden,
                  struct err *err);
/* Makes s->logits a row that nobody else has, for the next pass to fill. */
int sequence_own_logits(struct sequence *s, struct err *err);
/* Publishes the page that ends with token n - 1 as the end of a prompt, with that row's logits when they are at hand (shared from
 * now on). */
void sequence_publish(struct sequence *s, int64_t n, struct logits_row *logits);
/* Publishes what was computed, offers it to the levels below and lets the pages go. */
void sequence_close(struct sequence *s);


/* For prefix_match.c. Room for the page numbers of so many tokens; the key of tokens [32 * full, 32 * full + n) behind the pages
 * before them; the key of the page that ends with token n - 1. */
int sequence_reserve(struct sequence *s, int64_t tokens, struct err *err);
struct hash128 sequence_page_key(const struct sequence *s, int64_t full, int n);
struct hash128 sequence_end_key(const struct sequence *s, int64_t n);

#endif
