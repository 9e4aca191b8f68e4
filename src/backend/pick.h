/* From a row of logits to a token: the definition of struct pick, in plain C, for rows that lie in host memory and as the twin
 * that a device's own version is tested against. In the order of transformers: bias, penalties, temperature, top-k, top-p,
 * min-p, one draw.
 *
 * What a device must agree on, given the same logits: the greedy choice always; log-probabilities within 1e-4; the sampled choice
 * whenever neither the draw nor the edge of top-p or min-p lies within 1e-5 (as a share of the kept probability) of the border
 * between two tokens. Candidates are laid out likeliest first, lower id first among equals, and the draw falls on the token
 * whose share of [0, 1) it lies in. The result depends on the row and the request alone, not on what else is in the batch. */
#ifndef BACKEND_PICK_H
#define BACKEND_PICK_H

#include "backend/backend.h"

/* Bytes of working memory for pick_from_logits; any alignment of malloc. */
size_t pick_work_bytes(int vocab);
void pick_from_logits(const float *logits, int vocab, const struct pick *p, void *work, struct picked *out);

enum { PICK_RANKED = 64 };
/* The first of a row as it is, in order, and the logarithm of the sum of its exponentials: enough for most choices. */
struct pick_ranked {
    double norm;
    int count;              /* less than PICK_RANKED: all that are above -infinity */
    int32_t id[PICK_RANKED];
    float logit[PICK_RANKED];
};
/* norm: when it is known from somewhere, which saves a pass over the row; else NaN. */
void pick_rank(const float *logits, int vocab, double norm, struct pick_ranked *out);
/* What pick_from_logits would give for the row that r is of; false: only the row can tell (masks, biases, penalties, a top-k beyond
 * or too near the end of what is ranked). */
bool pick_from_ranked(const struct pick_ranked *r, const struct pick *p, struct picked *out);

/* The log-probability of id and the `top` likeliest tokens of a row as it is. */
void pick_score(const float *logits, int vocab, int32_t id, int top, struct picked *out);

#endif
