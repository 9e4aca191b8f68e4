/* The door between the engine and a kind of device: the whole forward pass (DESIGN.md), so that a backend may fuse as far
 * as it likes. Page contents are the backend's business; the engine moves them only through export/import. */
#ifndef BACKEND_BACKEND_H
#define BACKEND_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "checkpoint/checkpoint.h"
#include "vision/image.h"

struct backend_model;

enum { BACKEND_PAGE_TOKENS = 32 }; /* tokens of one KV page, all layers */

struct backend_options {
    int threads;            /* CPU: 0 = all cores */
    bool f32;               /* exact products for proof; default is bf16 activations at each linear's entrance */
    const char *cpu_limit;  /* cap of the instruction set, NULL = best */
    bool fp8_e4m3_activations;
    size_t kv_bytes;        /* budget for KV pages */
    bool kv_fp8;            /* CUDA: keys and values as e4m3, with a factor for each token and kv head; default bf16 */
    int card;               /* CUDA: which device, from 0 */
    int cards;              /* CUDA, the backend of several cards: how many, from `card` on */
    int layer_from, layer_to; /* CUDA: only these layers of the decoder (cuda/parts.c); layer_to 0: all */
};

/* Bytes of one token's key, or value, of one kv head in a page: bf16, or e4m3 and an fp32 factor. */
static inline size_t kv_slot_bytes(int head_dim, bool fp8) { return fp8 ? (size_t)head_dim + 4 : (size_t)head_dim * 2; }

/* Features of one image or one video: main (tokens, hidden) then deepstack_count more of the same shape, fp32, host memory. */
struct vision_features {
    int grid_t, grid_h, grid_w;
    int64_t tokens;     /* per the whole item */
    int levels;         /* 1 + deepstack_count */
    float *values;      /* (levels, tokens, hidden), owned by whoever holds the struct; vision_features_free */
    bool pinned;        /* values are memory of host_alloc, which vision_features_free must not see: the device copies straight there and from there */
};
void vision_features_free(struct vision_features *f);

/* What penalties and biases make of one token's logit v: v += bias, which log-probabilities see; then, for the choice alone,
 * v -= minus; v = v < 0 ? v * factor : v / factor; v -= then_minus. Neutral: 0, 0, 1, 0. */
struct pick_adjust {
    int32_t id;
    float bias, minus, factor, then_minus;
};

enum { PICK_TOP_MOST = 20 };

/* A token to be chosen where the logits are, so that a few numbers are read back instead of a row of the vocabulary.
 * backend/pick.h is the definition in plain C and says how exactly a backend must agree with it. */
struct pick {
    int row;                     /* within the span; several picks of a span ascend */
    bool sampled;                /* false: the likeliest, the lowest id among equals */
    float temperature;           /* > 0 */
    int top_k;                   /* 0 = off; ties with the k-th stay */
    float top_p, min_p;          /* 1 = off; 0 = off */
    double draw;                 /* in [0, 1) */
    int top;                     /* likeliest alternatives to report, 0 to PICK_TOP_MOST */
    const uint32_t *mask;        /* (vocab bits, least significant first) allowed tokens; NULL = all */
    const struct pick_adjust *adjust; /* (adjust_count) distinct ids in any order */
    int adjust_count;
};

struct picked {
    int32_t id;                  /* -1: no allowed token has a number above -infinity for a logit */
    float logprob;               /* of id among the allowed tokens, biases included, before penalties and temperature */
    int top_count;
    int32_t top_id[PICK_TOP_MOST]; /* likeliest first, lower id first among equals */
    float top_logprob[PICK_TOP_MOST];
};

/* Consecutive tokens of one sequence in a batch. */
struct span {
    const int32_t *ids;          /* (count) */
    int count;
    int64_t first;               /* absolute index of ids[0] in its sequence: its KV slot */
    const int32_t *positions;    /* (count, 3): T, H, W */
    const int32_t *pages;        /* page numbers covering [0, first + count) */
    int page_count;
    /* Visual rows: for token i, visual_row[i] >= 0 is the row in visual (levels, visual_tokens, hidden); -1 = plain text. */
    const int32_t *visual_row;   /* NULL when the span has none */
    const float *const *visual_levels; /* [levels] base pointers, rows of hidden floats */
    int levels;
    bool visual_pinned;          /* that memory is host_alloc's, and stays as it is until forward returns */
    /* Asked results. logits_rows: indexes within the span whose logits are wanted, ascending. */
    const int *logits_rows;
    int logits_count;
    float *logits;               /* (logits_count, vocab) */
    float *hidden;               /* (count, hidden) last hidden states after the final norm, or NULL */
    const struct pick *picks;    /* (pick_count) only what can_pick said yes to; rows may be in logits_rows as well */
    struct picked *picked;       /* (pick_count) */
    int pick_count;
};

/* What a loaded model says about itself; strings live as long as the model. */
struct backend_info {
    const char *kernels;     /* e.g. "avx512bf16" */
    const char *storage;     /* "bf16", "fp8", "nf4", "mixed nf4/bf16", ... of the decoder's matrices */
    int threads;
    int64_t parameters;      /* a tied head counted once */
    size_t weight_bytes;     /* of all matrices and vectors in use */
    size_t decode_bytes;     /* read for one decoded token */
    int32_t pages;           /* most KV pages within the budget */
    bool own_memory;         /* the device's memory is not the host's: host memory is then a level of the prefix cache */
};

/* What a device can do at best, measured when asked: the yardsticks of a benchmark and of estimates. */
struct backend_ceilings {
    double read_bytes;       /* a second, from the memory that holds the weights */
    double product_flops;    /* a second, of a bf16 product of the shapes that prefill has (2 a multiply-add); 0: not measured */
};

struct backend {
    const char *name; /* "cpu", "cuda" */
    int (*load)(struct checkpoint *c, const struct backend_options *o, struct backend_model **out, struct err *err);
    void (*unload)(struct backend_model *m);
    int (*encode_image)(struct backend_model *m, const struct patches *p, struct vision_features *out, struct err *err);
    /* The same for pictures whose normalisation and order of patches are left to the device, all in one batch, of any sizes. NULL: the engine
     * makes patches. out (count): all or none; their values are memory for the features that the caller brings for every picture (and keeps when
     * it fails), all of one kind (pinned or not), or NULL for all. */
    int (*encode_pictures)(struct backend_model *m, const struct prepared_picture *pictures, int count, struct vision_features *out, struct err *err);
    /* Writes the keys and values of every token of every span and computes what the spans ask for. Any mix of chunks of prompts
     * and single tokens; pages may be shared by spans (a common beginning), the slots written never are. */
    int (*forward)(struct backend_model *m, const struct span *spans, int count, struct err *err);
    /* Can this be picked on the device? NULL: never. The engine then asks for the row's logits and picks itself. */
    bool (*can_pick)(const struct backend_model *m, const struct pick *p);

    int32_t (*page_alloc)(struct backend_model *m); /* page number, or -1 when the budget or the memory is used up */
    void (*page_free)(struct backend_model *m, int32_t page);
    /* Copies the first `tokens` slots of every layer; the others of `from` may be written meanwhile. May return before it is done:
     * passes and moves of pages that begin later see the copy, and `from` may be freed at once. */
    int (*page_copy)(struct backend_model *m, int32_t to, int32_t from, int tokens, struct err *err);
    size_t (*page_bytes)(const struct backend_model *m);
    /* Whole pages out of and into host memory. Called by threads that move pages while another is in forward or encode_image, never
     * with a page that a running pass writes (export) or reads (import). */
    int (*page_export)(struct backend_model *m, int32_t page, void *out, struct err *err);
    int (*page_import)(struct backend_model *m, int32_t page, const void *in, struct err *err);
    /* Several at once, for devices where one by one leaves gaps; on failure some may be written. NULL: one by one is as good. */
    int (*pages_import)(struct backend_model *m, const int32_t *pages, const void *const *in, int count, struct err *err);
    /* Host memory from which copies are fast (pinned); both NULL where plain memory is as good. Any thread. */
    void *(*host_alloc)(struct backend_model *m, size_t bytes);
    void (*host_free)(struct backend_model *m, void *memory);
    size_t (*memory_bytes)(const struct backend_model *m); /* held now, mapped weights not counted */
    void (*describe)(const struct backend_model *m, struct backend_info *out);
    /* Of the device that `load` with these options would use, while nothing else runs on it; at most about a second. */
    int (*ceilings)(const struct backend_options *o, struct backend_ceilings *out, struct err *err);
};

extern const struct backend backend_cpu;

#endif
