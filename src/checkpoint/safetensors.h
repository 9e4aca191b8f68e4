/* One safetensors file: validated header and views of its tensors. Private to this room (and its fuzz target). */
#ifndef CHECKPOINT_SAFETENSORS_H
#define CHECKPOINT_SAFETENSORS_H

#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "checkpoint/checkpoint.h"

enum { SAFETENSORS_HEADER_LIMIT = 100000000 };

struct safetensors {
    struct file_map map;
    struct arena arena;     /* names and the tensor array */
    struct tensor *tensors; /* ordered by name */
    size_t count;
};

/* Validates bytes of data (the whole file) and fills tensors and count; everything lives in s->arena except the tensor data,
 * which points into data. path is kept by the tensors for errors: it must live as long. */
int safetensors_parse(const void *data, size_t bytes, const char *path, struct safetensors *s, struct err *err);
/* Maps and validates a file. */
int safetensors_open(const char *path, struct safetensors *s, struct err *err);
void safetensors_close(struct safetensors *s);

const char *dtype_name(enum dtype dtype);
size_t dtype_bytes(enum dtype dtype);
/* "[151936, 2048]" in text. */
const char *tensor_shape_text(const struct tensor *t, char *text, size_t size);

#endif
