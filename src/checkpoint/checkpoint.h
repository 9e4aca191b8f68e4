/* A checkpoint: a folder in Hugging Face form, read as it is. Tensors are const views into mapped safetensors files;
 * nothing is converted on disk. The storage kind of a linear layer is decided by what the file holds, never by the
 * skip lists in config.json (facts: these differ from the tensors). */
#ifndef CHECKPOINT_CHECKPOINT_H
#define CHECKPOINT_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "checkpoint/config.h"

enum dtype { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8_E4M3, DTYPE_U8, DTYPE_I8, DTYPE_I32, DTYPE_I64, DTYPE_F64, DTYPE_BOOL };

enum { TENSOR_MAX_RANK = 8 };

struct tensor {
    const char *name;
    enum dtype dtype;
    int rank;
    int64_t shape[TENSOR_MAX_RANK];
    const void *data; /* into the mapped file; alignment is that of the file (may be odd) */
    size_t bytes;
    const char *file; /* for errors */
};

/* How a matrix is stored. */
enum storage { STORAGE_F32, STORAGE_F16, STORAGE_BF16, STORAGE_FP8_BLOCK, STORAGE_NF4 };

/* A linear layer's matrix [out, in] row-major, y = x W^T + bias. All pointers are views into the checkpoint. */
struct linear_weight {
    enum storage storage;
    int64_t out, in;
    const void *data;   /* F32/F16/BF16/e4m3 elements, or NF4 bytes (two codes a byte, even element = high nibble). Aligned to
                         * the element: where the file is not, this is a copy */
    const float *scale; /* FP8_BLOCK: (ceil(out/128), ceil(in/128)) factors, NULL otherwise; 4-byte aligned copy if needed */
    /* NF4: absmax of 64-element blocks (block b = flat element / block_size). Either plain (absmax_f32) or nested:
     * quant_map2[absmax_u8[b]] * nested_absmax[b / nested_block] + nested_offset, in fp32, product then add. */
    const float *quant_map; /* 16 entries */
    const uint8_t *absmax_u8;
    const float *absmax_f32;
    const float *nested_absmax;
    const float *nested_map; /* 256 entries */
    float nested_offset;
    int block_size, nested_block;
    /* The dtype that dequantised values are rounded to once: NF4 what its quant_state names (bf16), FP8 none (F32), dense
     * their own. linear_weight_rows_f32 does it. */
    enum dtype rounding;
    const float *bias; /* (out) as fp32, or NULL; owned by the checkpoint */
    const char *name;  /* for errors and reports */
};

struct checkpoint;

/* Opens a folder: config.json, model.safetensors or the index with its shards, generation_config.json (optional),
 * preprocessor_config.json (optional: class defaults). Every header is validated (facts §2.2, failure class 1). */
int checkpoint_open(const char *folder, struct checkpoint **out, struct err *err);
void checkpoint_close(struct checkpoint *c);

const struct model_config *checkpoint_config(const struct checkpoint *c);
const char *checkpoint_folder(const struct checkpoint *c);
/* A 128-bit identity over config, tensor names, shapes, dtypes, sizes and sampled content: names the weights in cache keys. */
void checkpoint_identity(const struct checkpoint *c, uint8_t out[16]);

size_t checkpoint_tensor_count(const struct checkpoint *c);
const struct tensor *checkpoint_tensor_at(const struct checkpoint *c, size_t i);
/* NULL when there is no such tensor. */
const struct tensor *checkpoint_find(const struct checkpoint *c, const char *name);

/* The matrix `name`.weight with optional `name`.bias, as [out, in]; the shape is checked and a mismatch prints both.
 * Quantisation metadata is validated (failure class 2). A kernel [out, a, b, ...] passes as [out, a * b * ...]. bias: the
 * layer must have one. Views live as long as c. Not for two threads at once on one c. */
int checkpoint_linear(struct checkpoint *c, const char *name, int64_t out, int64_t in, bool bias, struct linear_weight *w,
                      struct err *err);
/* A vector or small tensor of `count` elements converted to fp32; owned by c. */
int checkpoint_vector(struct checkpoint *c, const char *name, int64_t count, const float **out, struct err *err);

/* Exact dequantisation (facts §2.3, §2.4) of rows [row0, row1) to fp32: the reference for every kernel.
 * out is (row1 - row0, w->in). */
void linear_weight_rows_f32(const struct linear_weight *w, int64_t row0, int64_t row1, float *out);
/* Bytes of the stored matrix, scales included (for byte floors). */
size_t linear_weight_bytes(const struct linear_weight *w);

#endif
