/* The models that are loaded: at most so many at once, the least recently used goes when room or memory is needed, never one in use.
 * Callers that want the same folder share one load and wait for it together. Usable from several threads. */
#ifndef ENGINE_MODEL_POOL_H
#define ENGINE_MODEL_POOL_H

#include "qwen3vl.h"

struct model_pool;

/* most: 0 = 2. options (copied; its strings must live as long as the pool) apply to every load. */
int model_pool_new(int most, const struct qvl_options *options, struct model_pool **out, struct err *err);
/* Every model must have been released. */
void model_pool_free(struct model_pool *p);

/* The model of this folder, loaded if it is not; hold it until model_pool_release. When as many models as allowed are in use,
 * this is refused at once with their names: waiting could wait for the caller itself. */
int model_pool_acquire(struct model_pool *p, const char *folder, struct qvl_model **out, struct err *err);
void model_pool_release(struct model_pool *p, struct qvl_model *m);

/* Is it loaded now? A router prefers one that is. */
bool model_pool_loaded(struct model_pool *p, const char *folder);
struct model_pool_counts {
    int loaded, in_use;
    int64_t loads, unloads, hits;
};
void model_pool_count(struct model_pool *p, struct model_pool_counts *out);

#endif
