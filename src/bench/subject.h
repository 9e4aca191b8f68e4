/* A model of a sweep: its checkpoint (found, or made of random numbers), its figures, and it loaded with room for the cells. */
#ifndef BENCH_SUBJECT_H
#define BENCH_SUBJECT_H

#include "bench/estimate.h"
#include "bench/sweep.h"

struct checkpoint_place {
    char folder[PATH_MAX];
    bool temporary;              /* to be removed */
};
/* hollow: random weights are not written, only their headers. */
int checkpoint_place_find(const struct sweep *s, const char *name, bool hollow, struct checkpoint_place *out, struct err *err);
void checkpoint_place_leave(struct checkpoint_place *p);

/* Headers alone. */
int subject_facts(const struct sweep *s, const char *name, struct model_facts *out, struct err *err);
/* Loads and warms up. cells: those that are to be measured; the budget for keys and values is that of the largest which fits, and
 * *kv_tokens what it holds. */
int subject_open(const struct sweep *s, const char *name, const struct cell *cells, size_t count, struct subject *out,
                 int64_t *kv_tokens, struct err *err);
void subject_close(struct subject *s);

#endif
