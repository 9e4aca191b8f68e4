/* Retrieval: recall@10 against the exact answer and time of a search, over vectors of the generator in vector_data.h.
 * usage: bench_memory [vectors [dims [folder [setting]]]]   (default 100000 2048 /tmp, all settings) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "memory/faiss_shim.h"
#include "memory/silo.h"
#include "memory/vector_index.h"
#include "vector_data.h"

enum { QUERIES = 400, K = 10 };

struct setting {
    const char *name;
    int clusters, rank;
    float spread, noise;
};
static const struct setting settings[] = {
    {"places: 2,000 clusters, rank 24, spread 0.5, noise 0.1", 2000, 24, 0.5f, 0.1f},
    {"few: 200 clusters, rank 24, spread 0.5, noise 0.1", 200, 24, 0.5f, 0.1f},
    {"noisy: 2,000 clusters, rank 24, spread 0.5, noise 0.5", 2000, 24, 0.5f, 0.5f},
};

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}
static double quantile(double *v, int n, double q) {
    qsort(v, (size_t)n, sizeof *v, compare);
    return v[(int)(q * (n - 1))];
}

static double common(const struct silo_top *found, const struct silo_top *truth) {
    int hits = 0, n = truth->count < K ? truth->count : K;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < found->count && j < K; j++) hits += found->hit[j].id == truth->hit[i].id;
    }
    return n ? (double)hits / n : 1;
}

/* Time that this thread was on a processor: what a search takes when nothing else runs there. */
static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int die(const struct err *err) { return fprintf(stderr, "bench_memory: %s\n", err->message), 1; }

/* Time and recall of all queries with so many lists read. */
static int measure(const char *path, int dims, int probes, const float *queries, const struct silo_lists *truth, struct err *err) {
    struct vector_index *x;
    struct vector_index_options o = {.path = path, .dims = dims, .space = {1, 2}, .probes = probes};
    int64_t upto;
    char note[600];
    if (vector_index_new(&o, &x, err)) return err->code;
    double start = clock_seconds();
    if (vector_index_open_file(x, &upto, note) != 1) return err_set(err, ERR_STATE, "%s", note);
    double opened = clock_seconds() - start;
    static double ms[QUERIES], cpu[QUERIES];
    double recall[SILO_COUNT] = {0};
    struct vector_index_stats stats;
    vector_index_stats(x, &stats);
    for (int i = 0; i < QUERIES; i++) {
        struct silo_lists found;
        double on = cpu_seconds();
        start = clock_seconds();
        vector_index_search(x, queries + (size_t)i * (size_t)dims, 0, &found);
        ms[i] = (clock_seconds() - start) * 1e3;
        cpu[i] = (cpu_seconds() - on) * 1e3;
        for (int s = 0; s < SILO_COUNT; s++) recall[s] += common(&found.silo[s], &truth[i].silo[s]) / QUERIES;
    }
    printf("    probes %3d of %d lists: CPU time median %.3f p99 %.3f ms, wall median %.3f p99 %.3f ms, recall@10 silo 0 %.4f", stats.probes, stats.lists,
           quantile(cpu, QUERIES, 0.5), quantile(cpu, QUERIES, 0.99), quantile(ms, QUERIES, 0.5), quantile(ms, QUERIES, 0.99), recall[0]);
    printf(" (silos 1 to 6:");
    for (int s = 1; s < SILO_COUNT; s++) printf(" %.3f", recall[s]);
    printf("), opened and warmed in %.2f s\n", opened);
    vector_index_free(x);
    return 0;
}

/* FAISS's own search over the same file, as Debian builds it. */
static int measure_faiss(const char *path, int dims, int probes, const float *queries, const struct silo_lists *truth, struct err *err) {
    const struct faiss_shim *shim = faiss_library(err);
    char message[FAISS_MESSAGE], head[128];
    struct faiss_index *index;
    struct faiss_view view;
    FILE *f = fopen(path, "rb");
    int64_t at;
    if (!shim || !f || fread(head, sizeof head, 1, f) != 1) return err_set(err, ERR_IO, "%s: cannot read", path);
    memcpy(&at, head + 56, sizeof at);
    fseek(f, at, SEEK_SET);
    if (shim->open(f, &index, &view, message)) return err_set(err, ERR_IO, "%s: %s", path, message);
    fclose(f);
    static double ms[QUERIES];
    double recall = 0;
    for (int i = 0; i < QUERIES; i++) {
        float products[K];
        int64_t ids[K];
        struct silo_top found = {0};
        double start = clock_seconds();
        shim->search(index, queries + (size_t)i * (size_t)dims, K, probes, products, ids, message);
        ms[i] = (clock_seconds() - start) * 1e3;
        for (int k = 0; k < K && ids[k] >= 0; k++) found.hit[found.count++] = (struct silo_hit){vector_id_keyframe(ids[k]), products[k]};
        recall += common(&found, &truth[i].silo[0]) / QUERIES;
    }
    printf("    FAISS's own search, %d probes: median %.3f ms, recall@10 %.4f\n", probes, quantile(ms, QUERIES, 0.5), recall);
    shim->close(index);
    return 0;
}

static int run(const struct setting *s, int64_t n, int dims, const char *path, struct err *err) {
    struct vector_data data;
    struct vector_index *x;
    struct vector_index_options o = {.path = path, .dims = dims, .space = {1, 2}};
    float *queries = malloc((size_t)QUERIES * (size_t)dims * sizeof *queries), *v = malloc((size_t)dims * sizeof *v);
    struct silo_lists *truth = calloc(QUERIES, sizeof *truth);
    if (!queries || !v || !truth || data_open(&data, dims, s->clusters, s->rank, s->spread, s->noise, 42)) return err_set(err, ERR_MEMORY, "out of memory");
    printf("  %s\n", s->name);
    unlink(path);
    if (vector_index_new(&o, &x, err)) return err->code;
    for (int64_t i = 1; i <= n; i++) {
        data_vector(&data, v);
        if (vector_index_add(x, vector_id(i, silo_level((uint32_t)i)), v, err)) return err->code;
    }
    for (int i = 0; i < QUERIES; i++) data_vector(&data, queries + (size_t)i * (size_t)dims);
    static double ms[QUERIES];
    for (int i = 0; i < QUERIES; i++) {
        double start = clock_seconds();
        vector_index_search(x, queries + (size_t)i * (size_t)dims, 0, &truth[i]);
        ms[i] = (clock_seconds() - start) * 1e3;
    }
    printf("    exact scan (%s): median %.3f ms = %.1f GB/s\n", vector_kernels(), quantile(ms, QUERIES, 0.5),
           (double)n * dims * 4 / quantile(ms, QUERIES, 0.5) / 1e6);
    double start = clock_seconds();
    if (vector_index_rebuild(x, 2, err)) return err->code;
    struct vector_index_stats stats;
    vector_index_stats(x, &stats);
    printf("    index made in %.1f s: %d lists, %.0f MiB\n", clock_seconds() - start, stats.lists, (double)stats.file_bytes / 0x1p20);
    vector_index_free(x);
    static const int probes[] = {1, 2, 4, 8, 16, 32, 0};
    int code = 0;
    for (int i = 0; i < 7 && !code; i++) code = measure(path, dims, probes[i], queries, truth, err);
    if (!code) code = measure_faiss(path, dims, 8, queries, truth, err);
    data_close(&data);
    free(queries);
    free(v);
    free(truth);
    return code;
}

/* Small sets: what an exact scan takes, by size. */
static int exact_sizes(int dims, struct err *err) {
    puts("  exact scan by size");
    for (size_t mib = 1; mib <= 64; mib *= 2) {
        struct vector_index *x;
        struct vector_data data;
        struct vector_index_options o = {.dims = dims};
        float *v = malloc((size_t)dims * sizeof *v);
        if (!v || data_open(&data, dims, 20, 8, 0.5f, 0.1f, 1) || vector_index_new(&o, &x, err)) return err_set(err, ERR_MEMORY, "out of memory");
        size_t n = (mib << 20) / ((size_t)dims * 4);
        for (size_t i = 1; i <= n; i++) {
            data_vector(&data, v);
            if (vector_index_add(x, vector_id((int64_t)i, silo_level((uint32_t)i)), v, err)) return err->code;
        }
        static double ms[QUERIES];
        for (int i = 0; i < QUERIES; i++) {
            struct silo_lists found;
            double start = clock_seconds();
            vector_index_search(x, v, 0, &found);
            ms[i] = (clock_seconds() - start) * 1e3;
        }
        printf("    %3zu MiB = %6zu vectors: median %.3f ms, p99 %.3f ms\n", mib, n, quantile(ms, QUERIES, 0.5), quantile(ms, QUERIES, 0.99));
        vector_index_free(x);
        data_close(&data);
        free(v);
    }
    return 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    int64_t n = argc > 1 ? atoll(argv[1]) : 100000;
    int dims = argc > 2 ? atoi(argv[2]) : 2048;
    char path[4000];
    snprintf(path, sizeof path, "%s/bench-memory-%ld.ivf", argc > 3 ? argv[3] : "/tmp", (long)getpid());
    struct err err = {0};
    printf("%lld vectors of %d floats, %d queries, one thread a search\n", (long long)n, dims, QUERIES);
    int code = exact_sizes(dims, &err);
    for (size_t i = 0; i < sizeof settings / sizeof *settings && !code; i++) {
        if (argc <= 4 || (size_t)atoi(argv[4]) == i) code = run(&settings[i], n, dims, path, &err);
    }
    unlink(path);
    return code ? die(&err) : 0;
}
