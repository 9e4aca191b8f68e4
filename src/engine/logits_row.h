/* Rows of logits that outlive their pass: the prefix cache keeps the last row of a prompt, so that the same prompt again needs no pass.
 * A row is filled once (by the backend, straight into it), then shared and only read. Rows come from slabs of the backend's host memory
 * (pinned, where a device has its own), and go back to a list of free ones: pinning takes longer than a decode step.
 *
 * Callers hold the model's lock, except where said. */
#ifndef ENGINE_LOGITS_ROW_H
#define ENGINE_LOGITS_ROW_H

#include "backend/backend.h"
#include "backend/pick.h"

struct logits_row {
    int refs;
    bool ranked;
    double norm;              /* logarithm of the sum of exponentials, where a device told it; else NaN */
    struct pick_ranked first; /* valid iff ranked */
    float *values;            /* (vocab) */
    struct logits_row *next;  /* among the free ones */
};

struct logits_slab;
struct logits_rows {
    const struct backend *backend;
    struct backend_model *device;
    size_t row_bytes;
    struct logits_row *free;
    struct logits_slab *slabs;
};

void logits_rows_init(struct logits_rows *p, const struct backend *backend, struct backend_model *device, int vocab);
/* No row may be in use. */
void logits_rows_free(struct logits_rows *p);

/* Memory for so many at once, now: none is taken later until they are used up. */
void logits_rows_reserve(struct logits_rows *p, int rows);
/* A row with one reference and no values; NULL: out of memory. */
struct logits_row *logits_row_take(struct logits_rows *p);
void logits_row_hold(struct logits_row *r);
void logits_row_drop(struct logits_rows *p, struct logits_row *r); /* r may be NULL */

#endif
