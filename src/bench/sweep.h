/* A sweep: every cell of a matrix on every model, appended to the result files one by one, so that an interrupted sweep goes on where
 * it stopped. */
#ifndef BENCH_SWEEP_H
#define BENCH_SWEEP_H

#include <limits.h>

#include "bench/matrix.h"
#include "bench/measure.h"

struct sweep {
    struct matrix matrix;
    const char *const *models;   /* (model_count) names as they stand in the results */
    int model_count;
    bool random_weights;         /* shapes from known_models; else find() */
    const char *weights_folder;  /* random weights are written below it and kept; NULL: a temporary folder, removed at once */
    const char *pictures;        /* folder of the frames */
    struct qvl_options load;
    struct measure_settings how; /* budget_s: most seconds of one cell */
    double max_wall_s;           /* no cell is begun that would end later; 0: none */
    const char *csv, *json;      /* result files, or NULL */
    bool resume;
    const char *version;
    /* The checkpoint folder of a model by name; app knows the Hub. */
    int (*find)(void *user, const char *name, char folder[PATH_MAX], struct err *err);
    void *user;
};

/* Fills results with every cell of the matrix that is measured by then, earlier runs included; *left: cells that the wall time did not
 * allow. Progress goes to stderr. */
int sweep_run(const struct sweep *s, struct results *results, size_t *left, struct err *err);
/* Prints the plan and what it should take. Loads no weights. */
int sweep_dry_run(const struct sweep *s, struct err *err);

#endif
