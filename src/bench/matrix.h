/* The cells of a sweep: models x task x context x batch x best-of. */
#ifndef BENCH_MATRIX_H
#define BENCH_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum task { TASK_TEXT, TASK_PICTURE_SIMPLE, TASK_PICTURE_COMPLEX, TASK_MIXED, TASK_COUNT };
extern const char *const task_names[TASK_COUNT];

struct cell {
    int model;              /* index of the sweep's list */
    enum task task;
    double picture_share;   /* TASK_MIXED: of the prompt's tokens */
    int64_t context;        /* tokens of one sequence: prompt and answer */
    int batch, best_of;     /* different prompts; answers to each */
};

enum { MATRIX_LIST = 32 };
struct matrix {
    int64_t contexts[MATRIX_LIST], batches[MATRIX_LIST], best_of[MATRIX_LIST];
    double shares[MATRIX_LIST];
    enum task tasks[TASK_COUNT];
    int context_count, batch_count, best_count, share_count, task_count; /* 0: not given */
    bool full;
};

/* "1024,8192", "1k-32k" (powers of two), with k for 1,024. what names the option in errors. */
int matrix_parse_whole(const char *what, const char *text, int64_t low, int64_t high, int64_t *out, int *count, struct err *err);
int matrix_parse_shares(const char *what, const char *text, double *out, int *count, struct err *err);
int matrix_parse_tasks(const char *text, struct matrix *m, struct err *err);

/* All cells, grouped by model. With no list given and not full: the named set "standard", seven cells a model. A list that is not
 * given has one entry (1,024 tokens, batch 1, best of 1, text), with full everything. malloc'ed. */
int matrix_cells(const struct matrix *m, int models, struct cell **out, size_t *count, struct err *err);
/* "standard", "full" or "chosen". */
const char *matrix_name(const struct matrix *m);

#endif
