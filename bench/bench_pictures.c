/* Pictures of a game (240 x 160) through the vision tower, so many in one pass.
 *
 *     bench_pictures MODEL [DEVICE]
 *
 * backend: encode_image alone, the patches of n pictures side by side. engine: n threads that ask for the features of a picture each at the
 * same time (features_get: preparation, waiting for each other, everything). Least and median of 7, milliseconds. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/room.h"

enum { MOST = 16, ROUNDS = 7, WIDTH = 240, HEIGHT = 160 };

static _Noreturn void die(const struct err *err) {
    fprintf(stderr, "bench_pictures: %s\n", err->message);
    exit(1);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct visual *picture(struct qvl_model *m, uint32_t seed) {
    struct err err = {0};
    struct image im = {.width = WIDTH, .height = HEIGHT, .rgb = malloc(WIDTH * HEIGHT * 3)};
    struct visual *v;
    for (int i = 0; i < WIDTH * HEIGHT * 3; i++) im.rgb[i] = (uint8_t)((seed = seed * 1664525u + 1013904223u) >> 24);
    if (visual_new(m, &im, 1, false, 0, &v, &err)) die(&err);
    return v;
}

static double backend_ms(struct qvl_model *m, int n) {
    struct err err = {0};
    struct patches one, all;
    struct vision_features f;
    struct visual *v = picture(m, (uint32_t)n);
    if (image_patches(&v->frames[0], m->config, m->resampler, &one, &err)) die(&err);
    size_t values = (size_t)one.count * (size_t)one.width;
    all = one;
    all.grid_t = n, all.count *= n, all.values = malloc(values * (size_t)n * sizeof *all.values);
    for (int i = 0; i < n; i++) memcpy(all.values + (size_t)i * values, one.values, values * sizeof *all.values);
    double start = clock_seconds();
    if (m->backend->encode_image(m->device, &all, &f, &err)) die(&err);
    double ms = (clock_seconds() - start) * 1e3;
    vision_features_free(&f);
    free(all.values);
    patches_free(&one);
    visual_drop(v);
    return ms;
}

struct asker {
    struct qvl_model *m;
    struct visual *v;
    pthread_t thread;
};
static void *ask(void *user) {
    struct asker *a = user;
    const struct vision_features *f;
    struct err err = {0};
    double seconds = 0;
    if (features_get(a->m, a->v, &f, &seconds, &err)) die(&err);
    features_put(a->m, f);
    return NULL;
}

static double engine_ms(struct qvl_model *m, int n) {
    static uint32_t seed = 1000;
    struct asker a[MOST];
    for (int i = 0; i < n; i++) a[i] = (struct asker){.m = m, .v = picture(m, seed++)};
    double start = clock_seconds();
    for (int i = 0; i < n; i++) pthread_create(&a[i].thread, NULL, ask, &a[i]);
    for (int i = 0; i < n; i++) pthread_join(a[i].thread, NULL);
    double ms = (clock_seconds() - start) * 1e3;
    for (int i = 0; i < n; i++) visual_drop(a[i].v);
    return ms;
}

static void measure(const char *what, struct qvl_model *m, int n, double (*run)(struct qvl_model *m, int n)) {
    double ms[ROUNDS];
    run(m, n); /* buffers */
    for (int i = 0; i < ROUNDS; i++) ms[i] = run(m, n);
    qsort(ms, ROUNDS, sizeof *ms, by_value);
    printf("%s %2d: least %7.2f ms, median %7.2f ms, %6.3f ms a picture\n", what, n, ms[0], ms[ROUNDS / 2], ms[ROUNDS / 2] / n);
}

int main(int argc, char **argv) {
    struct err err = {0};
    struct qvl_model *m;
    struct qvl_options o = {.device = argc > 2 ? argv[2] : NULL, .context = 2048};
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2) return fputs("usage: bench_pictures MODEL [DEVICE]\n", stderr), 2;
    if (qvl_load(argv[1], &o, &m, &err)) die(&err);
    size_t bytes = 2300 * 1024;
    double start = clock_seconds();
    for (int i = 0; i < 16; i++) { /* what fresh memory of the size of a picture's features costs here */
        char *p = malloc(bytes + (size_t)i);
        for (size_t k = 0; p && k < bytes; k += 4096) ((volatile char *)p)[k] = 1;
        free(p);
    }
    printf("memory of the size of a picture's features (2.3 MB), taken, touched and given back: %.3f ms", (clock_seconds() - start) * 1e3 / 16);
    char *from = calloc(1, bytes), *to = calloc(1, bytes), *kept[16];
    start = clock_seconds();
    for (int i = 0; i < 16; i++) { /* ... and what it costs fresh, as features are that stay */
        kept[i] = malloc(bytes);
        for (size_t k = 0; kept[i] && k < bytes; k += 4096) ((volatile char *)kept[i])[k] = 1;
    }
    printf("; kept: %.3f ms", (clock_seconds() - start) * 1e3 / 16);
    if (!from || !to) return 1;
    memcpy(to, from, bytes);
    start = clock_seconds();
    for (int i = 0; i < 64; i++) {
        memcpy(to, from, bytes);
        __asm__ volatile("" : : "r"(to) : "memory");
    }
    printf("; copied: %.3f ms\n", (clock_seconds() - start) * 1e3 / 64);
    for (int i = 0; i < 16; i++) free(kept[i]);
    free(from);
    free(to);
    static const int counts[] = {1, 2, 4, 8, 16};
    for (int i = 4; i >= 0; i--) measure("backend", m, counts[i], backend_ms); /* the largest first: buffers grow once */
    for (int i = 4; i >= 0; i--) measure("engine", m, counts[i], engine_ms);
    qvl_unload(m);
    return 0;
}
