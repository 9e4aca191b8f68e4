/* A safetensors file from anywhere: the header, then every matrix that it offers, dequantised. */
#include <stdlib.h>
#include <string.h>

#include "checkpoint/room.h"

static void read_matrices(struct safetensors *file) {
    struct checkpoint c = {.folder = "fuzz", .files = file, .file_count = 1, .tensor_count = file->count};
    const struct tensor **table = calloc(file->count + 1, sizeof *table);
    for (size_t i = 0; i < file->count; i++) table[i] = &file->tensors[i];
    c.tensors = table;
    for (size_t i = 0; i < file->count; i++) {
        const struct tensor *t = table[i];
        char name[256];
        size_t n = strlen(t->name);
        if (n < 8 || n >= sizeof name || strcmp(t->name + n - 7, ".weight") != 0) continue;
        memcpy(name, t->name, n - 7);
        name[n - 7] = 0;
        static const int64_t shapes[][2] = {{8, 64}, {16, 72}, {2, 128}, {6, 10}, {1, 1}};
        for (int s = -1; s < 5; s++) {
            int64_t out = s < 0 ? (t->rank >= 2 ? t->shape[0] : 1) : shapes[s][0],
                    in = s < 0 ? (t->rank >= 2 ? t->shape[1] : 1) : shapes[s][1];
            struct linear_weight w;
            struct err err;
            if (checkpoint_linear(&c, name, out, in, s & 1, &w, &err) || out * in > 1 << 20) continue;
            float *rows = malloc((size_t)(out * in) * sizeof *rows);
            linear_weight_rows_f32(&w, 0, out, rows);
            free(rows);
            linear_weight_bytes(&w);
        }
    }
    for (size_t i = 0; i < c.copy_count; i++) free(c.copies[i]);
    free(c.copies);
    arena_free(&c.arena);
    free(table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct safetensors file = {0};
    struct err err;
    if (safetensors_parse(data, size, "fuzz.safetensors", &file, &err) == 0) read_matrices(&file);
    arena_free(&file.arena);
    return 0;
}
