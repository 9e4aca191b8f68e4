/* Goldens for tests: the tensors of tests/golden/NAME/cases/CASE.safetensors and the pictures of tools/make_goldens.py. */
#ifndef GOLDEN_H
#define GOLDEN_H

#include <math.h>

#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "test.h"

struct golden {
    char path[200];
    struct safetensors file;
    struct arena arena;
    const struct json *messages;
};

static inline void golden_open(struct golden *g, const char *model, const char *name) {
    struct err err = {0};
    memset(g, 0, sizeof *g);
    snprintf(g->path, sizeof g->path, "tests/golden/%s/cases/%s.json", model, name);
    const struct json *j = json_parse_file(g->path, 1 << 20, &g->arena, &err);
    if (!j) fail_msg("%s", err.message);
    g->messages = json_get(j, "messages");
    snprintf(g->path, sizeof g->path, "tests/golden/%s/cases/%s.safetensors", model, name);
    if (safetensors_open(g->path, &g->file, &err)) fail_msg("%s", err.message);
}

static inline void golden_close(struct golden *g) {
    safetensors_close(&g->file);
    arena_free(&g->arena);
}

static inline const struct tensor *golden_find(const struct golden *g, const char *name) {
    for (size_t i = 0; i < g->file.count; i++)
        if (!strcmp(g->file.tensors[i].name, name)) return &g->file.tensors[i];
    return NULL;
}

static inline const struct tensor *golden_need(const struct golden *g, const char *name) {
    const struct tensor *t = golden_find(g, name);
    if (!t) fail_msg("%s has no tensor %s", g->path, name);
    return t;
}

/* picture() of tools/make_goldens.py; malloc'ed (height, width, 3). */
static inline uint8_t *golden_picture(int width, int height, int seed) {
    uint8_t *rgb = malloc((size_t)width * (size_t)height * 3);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
                rgb[(y * width + x) * 3 + c] = (uint8_t)(x * (3 + seed % 5) + y * (2 + seed % 7) + c * 61 +
                                                         ((x * y * (seed + 1)) >> 5) + ((x >> 3) ^ (y >> 3)) * 17);
    return rgb;
}

/* max |a - b| / max |b| */
static inline double relative_distance(const float *a, const float *b, size_t n) {
    double most = 0, scale = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        if (!(d <= most)) most = d; /* a NaN stays */
        if (fabs(b[i]) > scale) scale = fabs(b[i]);
    }
    return scale > 0 ? most / scale : most;
}

#endif
