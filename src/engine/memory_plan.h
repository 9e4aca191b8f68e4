/* What a model will take, reckoned before it is loaded, from its config and file sizes. */
#ifndef ENGINE_MEMORY_PLAN_H
#define ENGINE_MEMORY_PLAN_H

#include "checkpoint/checkpoint.h"
#include "backend/backend.h"
#include "qwen3vl.h"

struct memory_plan {
    bool on_device;          /* everything below is of the device's own memory */
    size_t weights;          /* mapped files: shared with the page cache, needed in memory for speed; or uploaded */
    size_t held;             /* CPU, o->weights is "memory": of the weights, what is read into memory of the process */
    size_t kv_per_token;
    bool kv_fp8;             /* o->kv is "fp8" */
    size_t kv;               /* budget for pages */
    int cards;               /* CUDA devices that share the layers; 1 without a device map */
    int64_t rows;            /* of a prefill pass that has the device to itself: ALONE_ROWS, or less where that takes too much of it */
    size_t work;             /* activations of one such pass and one large picture, logits, tables */
    size_t total;
    size_t available;        /* memory that this process may still take (the machine's, or its cgroup's if less) */
    int64_t context;         /* tokens of one sequence that fit */
};

/* The backend that o->device asks for; "auto" takes a CUDA device when there is one. */
int choose_backend(const struct qvl_options *o, const struct backend **out, struct err *err);
/* How o->kv wants keys and values kept on that device; refused where it cannot be. */
int kv_kind(const struct qvl_options *o, const struct backend *backend, bool *fp8, struct err *err);
/* Does o->weights ask for weights in memory of the process? Refused where it cannot be. */
int weights_held(const struct qvl_options *o, const struct backend *backend, bool *held, struct err *err);
/* Memory this process may still take. */
size_t memory_available(void);
/* Decides context and page budget; refuses, with the numbers, what cannot fit. */
int memory_plan_make(const struct checkpoint *c, const struct qvl_options *o, struct memory_plan *out, struct err *err);

#endif
