/* Each kernel of the CUDA backend against its plain twin: random inputs in every storage kind, odd counts, results poisoned before each
 * run. Runs on a GPU, or under tests/cuda_emulation (smaller shapes). */
#include <math.h>

extern "C" {
#include "test.h"
#include "ops_data.h"
}
#include "backend/cuda/room.h"

static struct backend_model *m;

static void ok(cudaError_t e, int line) {
    if (e) fail_msg("line %d: %s", line, cudaGetErrorString(e));
}
#define OK(call) ok(call, __LINE__)

/* Device memory that is freed at the end of a case. */
static void *held[512];
static int held_count;
static void *device(const void *from, size_t bytes) {
    void *p;
    OK(cudaMalloc(&p, bytes + 64));
    OK(from ? cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice) : cudaMemset(p, 0xFF, bytes));
    OK(cudaDeviceSynchronize()); /* the backend's stream does not wait for this one */
    assert_true(held_count < 512);
    return held[held_count++] = p;
}
static void release() {
    while (held_count) cudaFree(held[--held_count]);
}
template <typename T> static T *host(const void *from, size_t count) {
    T *p = (T *)malloc(count * sizeof(T));
    OK(cudaStreamSynchronize(m->stream));
    OK(cudaMemcpy(p, from, count * sizeof(T), cudaMemcpyDeviceToHost));
    return p;
}

static int setup(void **) {
    cudaDeviceProp p;
    m = (struct backend_model *)calloc(1, sizeof *m);
    OK(cudaGetDeviceProperties(&p, 0));
    m->sm_count = p.multiProcessorCount, m->arch = p.major * 10 + p.minor;
    OK(cudaStreamCreateWithFlags(&m->stream, cudaStreamNonBlocking));
    m->w.config.text.rms_eps = 1e-6f;
    size_t parts = (size_t)MOST_PARTS * 64 * 64 * 4, partial = (size_t)MOST_ITEMS * 32 * 130 * 4, counters = (MOST_PARTS + 2 * FEW_ROWS * 32) * 4;
    char *work;
    OK(cudaMalloc((void **)&work, parts + partial + counters));
    OK(cudaMemset(work, 0xFF, parts + partial));
    OK(cudaMemset(work + parts + partial, 0, counters));
    OK(cudaDeviceSynchronize());
    m->split_parts = (float *)work, m->attend_partial = (float *)(work + parts), m->split_counters = (unsigned *)(work + parts + partial);
    m->attend_counters = m->split_counters + MOST_PARTS;
    return 0;
}

static bool emulated() {
    cudaDeviceProp p;
    OK(cudaGetDeviceProperties(&p, 0));
    return !strcmp(p.name, "emulated");
}

static struct dlinear upload(const struct linear_weight *w) {
    struct dlinear d = {};
    size_t n = (size_t)(w->out * w->in), element = w->storage == STORAGE_FP8_BLOCK ? 1 : w->storage == STORAGE_F32 ? 4 : 2;
    d.storage = (int)w->storage, d.out = (int)w->out, d.in = (int)w->in, d.rounding = (int)w->rounding, d.block = w->block_size;
    d.data = device(w->data, w->storage == STORAGE_NF4 ? (n + 1) / 2 : n * element);
    d.fast = w->out % 16 == 0 && (w->storage == STORAGE_BF16 ? w->in % 64 == 0 : w->storage == STORAGE_FP8_BLOCK ? w->in % 128 == 0 : w->storage == STORAGE_NF4 && w->in % 256 == 0);
    d.scale_columns = (int)(w->in + 127) / 128;
    if (w->scale) d.scale = (const float *)device(w->scale, (size_t)((w->out + 127) / 128 * d.scale_columns) * 4);
    size_t blocks = (n + 63) / 64;
    if (w->quant_map) d.quant_map = (const float *)device(w->quant_map, 64);
    if (w->absmax_f32) d.absmax_f32 = (const float *)device(w->absmax_f32, blocks * 4);
    if (w->absmax_u8) {
        d.absmax_u8 = (const uint8_t *)device(w->absmax_u8, blocks), d.nested_block = w->nested_block, d.nested_offset = w->nested_offset;
        d.nested_map = (const float *)device(w->nested_map, 1024);
        d.nested_absmax = (const float *)device(w->nested_absmax, (blocks + 255) / 256 * 4);
    }
    if (w->bias) d.bias = (const float *)device(w->bias, (size_t)w->out * 4);
    if (tiled_absmax_bytes(&d)) tiled_absmax(m, &d, device(NULL, tiled_absmax_bytes(&d)));
    return d;
}

/* rows x out sums in double of bf16 inputs and weights as they are (only bf16's own rounding of other kinds is within the bound). Of large
 * matrices some outputs stand for all, NaN for those not reckoned. */
static void twin(const struct linear_weight *w, const float *x, int rows, double *y) {
    float *row = (float *)malloc((size_t)w->in * 4);
    for (int64_t o = 0; o < w->out; o++) {
        if (w->out * w->in > 1 << 20 && o % 53 != 7 && o != w->out - 1) {
            for (int r = 0; r < rows; r++) y[r * w->out + o] = NAN;
            continue;
        }
        linear_weight_rows_f32(w, o, o + 1, row);
        for (int r = 0; r < rows; r++) {
            double sum = 0;
            for (int64_t k = 0; k < w->in; k++) sum += (double)x[r * w->in + k] * row[k];
            y[r * w->out + o] = sum + (w->bias ? w->bias[o] : 0);
        }
    }
    free(row);
}

/* || got - want || / || want ||; a value that was never written is NaN and passes nothing. */
static double distance(const float *got, const double *want, size_t n) {
    double a = 0, b = 0;
    for (size_t i = 0; i < n; i++) {
        if (got[i] != got[i]) return NAN;
        if (want[i] == want[i]) a += (got[i] - want[i]) * (got[i] - want[i]), b += want[i] * want[i];
    }
    return sqrt(a / (b > 0 ? b : 1));
}
static void near(const char *what, double d, double limit) {
    if (!(d <= limit)) fail_msg("%s: distance %.3g, expected at most %.3g", what, d, limit);
}


struct rows_of {
    float *x;       /* bf16-rounded */
    uint16_t *bits;
    const bf16 *at;
};
/* tiled: on the device by tiled_place, rows that are not there NaN. */
static struct rows_of random_rows(int rows, int n, int tiled = TILED_NO) {
    struct rows_of r = {(float *)malloc((size_t)rows * n * 4), (uint16_t *)malloc((size_t)rows * n * 2), NULL};
    for (int i = 0; i < rows * n; i++) r.bits[i] = f32_to_bf16(random_float() * 2), r.x[i] = bf16_to_f32(r.bits[i]);
    if (tiled) {
        size_t bytes = (size_t)FEW_ROWS * n * 2;
        uint16_t *t = (uint16_t *)malloc(bytes);
        memset(t, 0xFF, bytes);
        for (int i = 0; i < rows * n; i++) t[tiled_place(i / n, i % n, tiled)] = r.bits[i];
        r.at = (const bf16 *)device(t, bytes);
        free(t);
    } else {
        r.at = (const bf16 *)device(r.bits, (size_t)rows * n * 2);
    }
    return r;
}
/* (rows, n) bf16 that a kernel wrote, as floats. */
static float *rows_back(const void *from, int rows, int n, int tiled) {
    size_t count = (size_t)(tiled ? FEW_ROWS : rows) * n;
    uint16_t *bits = host<uint16_t>(from, count);
    float *f = (float *)malloc((size_t)rows * n * 4);
    for (int i = 0; i < rows * n; i++) f[i] = bf16_to_f32(bits[tiled ? tiled_place(i / n, i % n, tiled) : i]);
    free(bits);
    return f;
}
static void rows_free(struct rows_of *r) {
    free(r->x);
    free(r->bits);
}

struct storage_kind {
    enum storage storage;
    int nested;
    double limit; /* NF4: its 16 levels are rounded to bf16, the products are not */
};
static const struct storage_kind kinds[] = {{STORAGE_BF16, 0, 1e-5}, {STORAGE_FP8_BLOCK, 0, 1e-5}, {STORAGE_NF4, 1, 3e-3}, {STORAGE_NF4, 0, 3e-3}, {STORAGE_F16, 0, 2e-3}, {STORAGE_F32, 0, 2e-3}};

/* Three matrices of one input, one below the other, with the norm left to the product. */
static void check_three(const struct storage_kind *k, int rows, int out0, int out1, int in, bool norm, int tiled = TILED_NO) {
    struct matrix w[3];
    struct dlinear d[3];
    int outs[3] = {out0, out1, out1}, all = out0 + 2 * out1, parts = 5;
    for (int i = 0; i < 3; i++) matrix_new(&w[i], k->storage, outs[i], in, i == 1, k->nested), d[i] = upload(&w[i].w);
    struct rows_of x = random_rows(rows, in, tiled);
    float *y = (float *)device(NULL, (size_t)rows * all * 4), *squares = (float *)calloc((size_t)rows * MOST_SQUARES, 4), *factor = (float *)malloc((size_t)rows * 4);
    for (int r = 0; r < rows; r++) {
        double sum = 0;
        for (int i = 0; i < parts; i++) sum += squares[r * MOST_SQUARES + i] = (random_float() + 2) * 100;
        factor[r] = norm ? (float)(1 / sqrt(sum / in + 1e-6)) : 1;
    }
    struct product p = {{&d[0], &d[1], &d[2]}, 3};
    p.x = x.at, p.ldx = in, p.rows = rows, p.out = OUT_F32, p.y = y, p.ldy = all, p.tiled = tiled;
    if (norm) p.squares = (const float *)device(squares, (size_t)rows * MOST_SQUARES * 4), p.squares_count = parts, p.norm_n = in;
    struct err err = {};
    if ((norm || tiled) && !few_rows_fit(&p)) fail_msg("no kernel for %s %d x %d", storage_names[k->storage], out0, in);
    if (norm || tiled) few_rows_run(m, &p);
    else if (product_run(m, &p, &err)) fail_msg("%s", err.message);
    OK(cudaGetLastError());
    float *got = host<float>(y, (size_t)rows * all);
    for (int i = 0, at = 0; i < 3; at += outs[i++]) {
        double *want = (double *)malloc((size_t)rows * outs[i] * sizeof *want);
        float *mine = (float *)malloc((size_t)rows * outs[i] * 4);
        twin(&w[i].w, x.x, rows, want);
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < outs[i]; o++) {
                double bias = w[i].w.bias ? w[i].w.bias[o] : 0;
                want[r * outs[i] + o] = (want[r * outs[i] + o] - bias) * factor[r] + bias;
                mine[r * outs[i] + o] = got[r * all + at + o];
            }
        char what[160];
        snprintf(what, sizeof what, "%s%s, %d rows, matrix %d of %d x %d%s%s", storage_names[k->storage], k->nested ? " nested" : "", rows, i, outs[i], in, norm ? ", norm" : "", tiled ? ", tiled" : "");
        near(what, distance(mine, want, (size_t)rows * outs[i]), d[i].fast ? k->limit : k->limit + 2e-3); /* elsewhere weights are rounded to bf16 */
        free(want);
        free(mine);
    }
    for (int i = 0; i < 3; i++) matrix_free(&w[i]);
    rows_free(&x);
    free(squares), free(factor), free(got);
    release();
}

static void products(void **) {
    int rows[] = {1, 2, 7, 8, 9, 17, 33, 64};
    for (const struct storage_kind &k : kinds) {
        bool fast = k.storage == STORAGE_BF16 || k.storage == STORAGE_FP8_BLOCK || k.storage == STORAGE_NF4;
        for (int r : rows) {
            if (emulated() && !fast && r > 2) continue;
            check_three(&k, r, 256, 128, 512, fast);
            check_three(&k, r, 192, 64, 768, false);
        }
        check_three(&k, 3, 48, 16, 256, false);
        check_three(&k, 70, 64, 64, 256, false);
        check_three(&k, 5, 36, 20, 100, false); /* shapes that only any_product takes */
    }
    if (emulated()) return;
    static const int real[][3] = {{2048, 1024, 2048}, {4096, 1024, 2560}, {4096, 1024, 4096}, {2560, 2560, 9728}, {2048, 2048, 6144}, {4096, 4096, 12288}};
    for (int i = 0; i < 3; i++)
        for (const int *s : real)
            for (int r : {i == 1 ? 1 : 5, i == 2 ? 20 : 64}) check_three(&kinds[i], r, s[0], s[1], s[2], true);
}

/* The residual with the next norm's share. */
static void check_add(const struct storage_kind *k, int rows, int out, int in, int tiled = TILED_NO) {
    struct matrix w;
    matrix_new(&w, k->storage, out, in, 0, k->nested);
    struct dlinear d = upload(&w.w);
    struct rows_of x = random_rows(rows, in, tiled);
    size_t n = (size_t)rows * out;
    float *h = (float *)malloc(n * 4), *weight = (float *)malloc((size_t)out * 4);
    for (size_t i = 0; i < n; i++) h[i] = random_float() * 3;
    for (int o = 0; o < out; o++) weight[o] = random_float() + 1.5f;
    struct product p = {{&d}, 1};
    p.x = x.at, p.ldx = in, p.rows = rows, p.out = OUT_ADD, p.y = device(h, n * 4), p.ldy = out;
    p.next_weight = (const float *)device(weight, (size_t)out * 4), p.tiled = tiled, p.next_x = (bf16 *)device(NULL, (size_t)(tiled ? FEW_ROWS : rows) * out * 2), p.next_squares = (float *)device(NULL, (size_t)rows * MOST_SQUARES * 4);
    if (!few_rows_fit(&p)) fail_msg("no kernel for %s %d x %d", storage_names[k->storage], out, in);
    few_rows_run(m, &p);
    OK(cudaGetLastError());
    double *want = (double *)malloc(n * sizeof *want);
    twin(&w.w, x.x, rows, want);
    float *got = host<float>(p.y, n), *squares = host<float>(p.next_squares, (size_t)rows * MOST_SQUARES), *next = rows_back(p.next_x, rows, out, tiled);
    for (size_t i = 0; i < n; i++) want[i] += h[i];
    char what[160];
    snprintf(what, sizeof what, "%s, %d rows, added, %d x %d%s", storage_names[k->storage], rows, out, in, tiled ? ", tiled" : "");
    near(what, distance(got, want, n), k->limit);
    for (int r = 0; r < rows; r++) {
        double sum = 0, have = 0;
        for (int o = 0; o < out; o++) sum += (double)got[r * out + o] * got[r * out + o];
        for (int i = 0; i < product_squares(&p); i++) have += squares[r * MOST_SQUARES + i];
        if (!(fabs(have / sum - 1) < 2e-3)) fail_msg("%s: sum of squares of row %d: %g, expected %g", what, r, have, sum);
    }
    for (size_t i = 0; i < n; i++) want[i] *= weight[i % out];
    near(what, distance(next, want, n), k->limit + 3e-3);
    matrix_free(&w);
    rows_free(&x);
    free(h), free(weight), free(want), free(got), free(squares), free(next);
    release();
}
static void residual(void **) {
    for (int i = 0; i < 4; i++)
        for (int rows : {1, 5, 8, 9, 33, 64}) {
            check_add(&kinds[i], rows, 128, 512);
            if (!emulated() && (rows == 1 || rows == 33)) check_add(&kinds[i], rows, 2048, 6144), check_add(&kinds[i], rows, 2560, 4096), check_add(&kinds[i], rows, 4096, 12288);
        }
}

static void check_silu(const struct storage_kind *k, int rows, int out, int in, int tiled = TILED_NO) {
    struct matrix g, u;
    matrix_new(&g, k->storage, out, in, 0, k->nested);
    matrix_new(&u, k->storage, out, in, 0, k->nested);
    struct dlinear dg = upload(&g.w), du = upload(&u.w);
    struct rows_of x = random_rows(rows, in, tiled);
    size_t n = (size_t)rows * out;
    struct product p = {{&dg}, 1, &du};
    p.x = x.at, p.ldx = in, p.rows = rows, p.out = OUT_SILU, p.y = device(NULL, (size_t)(tiled ? FEW_ROWS : rows) * out * 2), p.ldy = out, p.tiled = tiled;
    struct err err = {};
    if (tiled) few_rows_run(m, &p);
    else if (product_run(m, &p, &err)) fail_msg("%s", err.message);
    double *a = (double *)malloc(n * sizeof *a), *b = (double *)malloc(n * sizeof *b);
    twin(&g.w, x.x, rows, a);
    twin(&u.w, x.x, rows, b);
    for (size_t i = 0; i < n; i++) a[i] = a[i] / (1 + exp(-a[i])) * b[i];
    float *got = rows_back(p.y, rows, out, tiled);
    char what[160];
    snprintf(what, sizeof what, "%s, %d rows, silu, %d x %d%s", storage_names[k->storage], rows, out, in, tiled ? ", tiled" : "");
    near(what, distance(got, a, n), k->limit + (dg.fast ? 4e-3 : 6e-3));
    matrix_free(&g), matrix_free(&u);
    rows_free(&x);
    free(a), free(b), free(got);
    release();
}
static void gated(void **) {
    for (int i = 0; i < 4; i++)
        for (int rows : {1, 8, 12, 64}) {
            check_silu(&kinds[i], rows, 96, 512);
            if (!emulated() && (rows == 1 || rows == 64)) check_silu(&kinds[i], rows, 6144, 2048), check_silu(&kinds[i], rows, 9728, 2560);
        }
    check_silu(&kinds[1], 3, 20, 100);
}

/* The kernels of wide_tiled.cu (emulated: their twin, some shapes): shapes that take each of their forms, row counts of each size. */
static void tiled(void **) {
    if (m->arch != 90) skip();
    static const int three[][3] = {{256, 128, 512}, {128, 128, 256}, {2048, 1024, 2048}, {4096, 1024, 2560}};
    static const int one[][2] = {{128, 512}, {2048, 2048}, {2048, 6144}, {2560, 4096}, {4096, 1024}};
    static const int pair[][2] = {{128, 256}, {384, 512}, {6144, 512}, {9728, 512}, {12288, 256}};
    int counts[] = {9, 13, 16, 17, 31, 33, 57, 64}, next = 0;
    for (int i = 0; i < 5; i++) { /* 4: bf16 once more, as the layers of an FP8 file see it */
        const struct storage_kind *k = &kinds[i % 4];
        int how = i == 4 || k->storage == STORAGE_FP8_BLOCK ? TILED_CROSSED : TILED_STRAIGHT;
        for (const int *s : three)
            for (int times = emulated() ? s[2] <= 512 : s[2] < 1024 ? 8 : 1; times; times--, next++) check_three(k, counts[next % 8], s[0], s[1], s[2], next % 3, how);
        for (const int *s : one)
            for (int times = emulated() ? s[1] <= 512 : s[1] < 1024 ? 8 : 1; times; times--) check_add(k, counts[next++ % 8], s[0], s[1], how);
        for (const int *s : pair)
            for (int times = emulated() ? s[0] < 512 : s[1] < 512 ? 8 : 1; times; times--) check_silu(k, counts[next++ % 8], s[0], s[1], how);
    }
    if (emulated()) return;
    for (int rows : {64, 40}) check_three(&kinds[0], rows, 128 * 270, 128, 256, false, TILED_STRAIGHT); /* as many outputs as the head's */
}

/* Quantised activations: values, factors, and products of them. */
static void quantised(void **) {
    int rows = 5, in = 512, out = 64;
    struct matrix w;
    matrix_new(&w, STORAGE_FP8_BLOCK, out, in, 0, 0);
    struct dlinear d = upload(&w.w);
    struct rows_of x = random_rows(rows, in);
    bf16 *values = (bf16 *)device(NULL, (size_t)rows * in * 2);
    float *factors = (float *)device(NULL, (size_t)rows * 4 * 4), *factors8 = (float *)device(NULL, 16 * 4 * 4);
    uint8_t *bytes = (uint8_t *)device(NULL, (size_t)rows * in);
    quantise_rows(m, x.at, rows, in, values, factors, bytes, factors8);
    struct product p = {{&d}, 1};
    p.x = values, p.ldx = in, p.rows = rows, p.out = OUT_F32, p.y = device(NULL, (size_t)rows * out * 4), p.ldy = out, p.factors = factors;
    struct err err = {};
    if (product_run(m, &p, &err)) fail_msg("%s", err.message);
    uint16_t *q = (uint16_t *)malloc((size_t)rows * in * 2), *v = host<uint16_t>(values, (size_t)rows * in);
    float *f = (float *)malloc((size_t)rows * 16), *have = host<float>(factors, (size_t)rows * 4), *have8 = host<float>(factors8, 64);
    uint8_t *b = host<uint8_t>(bytes, (size_t)rows * in);
    for (int r = 0; r < rows; r++) {
        cpu_ops_c.quantise_e4m3(q + r * in, f + r * 4, x.bits + r * in, in);
        for (int g = 0; g < 4; g++) {
            assert_true(fabsf(have[r * 4 + g] / f[r * 4 + g] - 1) < 1e-6f);
            assert_true(have8[g * 16 + r] == have[r * 4 + g]);
        }
        int moved = 0; /* a division rounded the other way may move a value across a boundary */
        for (int i = 0; i < in; i++) {
            moved += v[r * in + i] != q[r * in + i];
            assert_true(e4m3_to_f32(b[r * in + i]) == bf16_to_f32(v[r * in + i]));
        }
        assert_true(moved <= 1);
        for (int i = 0; i < in; i++) x.x[r * in + i] = bf16_to_f32(v[r * in + i]) * have[r * 4 + i / 128];
    }
    double *want = (double *)malloc((size_t)rows * out * sizeof *want);
    twin(&w.w, x.x, rows, want);
    float *got = host<float>(p.y, (size_t)rows * out);
    near("product of quantised rows", distance(got, want, (size_t)rows * out), 1e-5);
    matrix_free(&w);
    rows_free(&x);
    free(q), free(v), free(f), free(have), free(have8), free(b), free(want), free(got);
    release();
}

/* ---- row passes of prefill ---- */

/* Rows as a product reads them, on the device and read back; want (rows, n) in double, before rounding. */
struct given {
    struct row_input to;
    int rows, n;
};
static struct given given_new(int rows, int n, bool x, bool x8) {
    struct given g = {{NULL, NULL, NULL, padded_rows(rows)}, rows, n};
    if (x) g.to.x = (bf16 *)device(NULL, (size_t)rows * n * 2);
    if (x8) g.to.x8 = (uint8_t *)device(NULL, (size_t)rows * n), g.to.factors8 = (float *)device(NULL, (size_t)g.to.padded * (n / 128) * 4);
    return g;
}
static void given_check(const struct given *g, const char *what, const double *want) {
    OK(cudaGetLastError());
    size_t count = (size_t)g->rows * g->n;
    float *got = (float *)malloc(count * 4);
    if (g->to.x) {
        uint16_t *bits = host<uint16_t>(g->to.x, count);
        for (size_t i = 0; i < count; i++) got[i] = bf16_to_f32(bits[i]);
        near(what, distance(got, want, count), 3e-3);
        free(bits);
    }
    if (g->to.x8) { /* the plain twin quantises the wanted values, rounded to bf16 */
        int groups = g->n / 128, moved = 0;
        uint8_t *bytes = host<uint8_t>(g->to.x8, count);
        float *have = host<float>(g->to.factors8, (size_t)g->to.padded * groups), *factor = (float *)malloc((size_t)groups * 4);
        uint16_t *bits = (uint16_t *)malloc((size_t)g->n * 2), *q = (uint16_t *)malloc((size_t)g->n * 2);
        for (int r = 0; r < g->rows; r++) {
            for (int i = 0; i < g->n; i++) bits[i] = f32_to_bf16((float)want[(size_t)r * g->n + i]);
            cpu_ops_c.quantise_e4m3(q, factor, bits, g->n);
            for (int i = 0; i < groups; i++)
                if (!(fabsf(have[(size_t)i * g->to.padded + r] / factor[i] - 1) < 8e-3f)) fail_msg("%s: factor of group %d of row %d", what, i, r); /* an ulp of bf16 */
            for (int i = 0; i < g->n; i++) {
                float v = e4m3_to_f32(bytes[(size_t)r * g->n + i]);
                got[(size_t)r * g->n + i] = v * have[(size_t)(i / 128) * g->to.padded + r];
                moved += v != bf16_to_f32(q[i]);
            }
        }
        near(what, distance(got, want, count), 0.04); /* e4m3 has three bits of mantissa */
        if (moved > (int)(count / 50) + 1) fail_msg("%s: %d of %zu values are not those of the plain twin", what, moved, count);
        free(bytes), free(have), free(factor), free(bits), free(q);
    }
    free(got);
}

static void check_add_norm(int rows, int n, bool delta, bool level, bool x, bool x8) {
    struct given g = given_new(rows, n, x, x8);
    size_t count = (size_t)rows * n;
    float *h = (float *)malloc(count * 4), *weight = (float *)malloc((size_t)n * 4), *features = (float *)malloc(count * 4);
    double *want = (double *)malloc(count * sizeof *want);
    struct drow *row = (struct drow *)calloc((size_t)rows, sizeof *row);
    for (size_t i = 0; i < count; i++) h[i] = random_float() * 3, features[i] = random_float();
    for (int i = 0; i < n; i++) weight[i] = random_float() + 1.5f;
    for (int r = 0; r < rows; r++) row[r].visual = r % 3 == 1 ? r / 2 : -1;
    struct rows_of d = random_rows(rows, n);
    float *at = (float *)device(h, count * 4);
    for (int r = 0; r < rows; r++) {
        double sum = 0;
        for (int i = 0; i < n; i++) {
            double v = h[r * n + i] + (delta ? d.x[r * n + i] : 0) + (level && row[r].visual >= 0 ? features[row[r].visual * n + i] : 0);
            want[r * n + i] = v, sum += v * v;
        }
        for (int i = 0; i < n; i++) h[r * n + i] = (float)want[r * n + i], want[r * n + i] *= weight[i] / sqrt(sum / n + 1e-6);
    }
    add_norm_rows(m, at, delta ? d.at : NULL, level ? (const float *)device(features, count * 4) : NULL, (const struct drow *)device(row, (size_t)rows * sizeof *row),
                  (const float *)device(weight, (size_t)n * 4), &g.to, rows, n);
    char what[100];
    snprintf(what, sizeof what, "norm of %d rows of %d%s%s%s", rows, n, delta ? ", added" : "", level ? ", image features" : "", x8 ? ", quantised" : "");
    given_check(&g, what, want);
    float *after = host<float>(at, count);
    for (size_t i = 0; i < count; i++) want[i] = h[i];
    near(what, distance(after, want, count), 1e-6);
    free(h), free(weight), free(features), free(want), free(row), free(after);
    rows_free(&d);
    release();
}

static void check_silu_rows(int rows, int n, bool x, bool x8) {
    struct given g = given_new(rows, n, x, x8);
    struct rows_of gate_up = random_rows(rows, 2 * n);
    double *want = (double *)malloc((size_t)rows * n * sizeof *want);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < n; i++) {
            double a = gate_up.x[r * 2 * n + i];
            want[r * n + i] = a / (1 + exp(-a)) * gate_up.x[r * 2 * n + n + i];
        }
    silu_rows(m, gate_up.at, &g.to, rows, n);
    given_check(&g, "silu", want);
    free(want);
    rows_free(&gate_up);
    release();
}

static void check_quantise(int rows, int n) {
    struct given g = given_new(rows, n, false, true);
    struct rows_of x = random_rows(rows, n);
    double *want = (double *)malloc((size_t)rows * n * sizeof *want);
    for (int i = 0; i < rows * n; i++) want[i] = x.x[i];
    quantise_eight_rows(m, x.at, &g.to, rows, n);
    given_check(&g, "quantised rows", want);
    free(want);
    rows_free(&x);
    release();
}

/* q, k and v from bf16: norm, rotation, pages of bf16 or e4m3. */
static void check_heads(int heads, int kv_heads, int n, int rows, bool kv8) {
    int all = heads + 2 * kv_heads, page_count = (rows + 31) / 32 + 1;
    struct text_config *t = &m->w.config.text;
    t->heads = heads, t->kv_heads = kv_heads, t->head_dim = n;
    struct rows_of x = random_rows(rows, all * n);
    float weight[2][256], frequency[128];
    int axis[128];
    for (int i = 0; i < n; i++) weight[0][i] = random_float() + 1.5f, weight[1][i] = random_float() + 1.5f;
    for (int i = 0; i < n / 2; i++) frequency[i] = powf(5e6f, -2.0f * (float)i / (float)n), axis[i] = i % 3;
    struct drow *row = (struct drow *)calloc((size_t)rows, sizeof *row);
    int32_t *page = (int32_t *)malloc((size_t)page_count * 4);
    for (int i = 0; i < page_count; i++) page[i] = page_count - 1 - i;
    for (int r = 0; r < rows; r++) row[r].slot = r + 5, row[r].position[0] = r * 37, row[r].position[1] = r + 3000, row[r].position[2] = 7;
    size_t block = (size_t)head_block_bytes(n, kv8), page_bytes = 2 * kv_heads * block, q_count = (size_t)rows * heads * n;
    struct dlayer l = {};
    l.q_norm = (const float *)device(weight[0], (size_t)n * 4), l.k_norm = (const float *)device(weight[1], (size_t)n * 4);
    m->kv = (char *)device(NULL, page_count * page_bytes), m->page_bytes = page_bytes, m->layer_stride = (int64_t)page_bytes / 2, m->kv8 = kv8;
    m->axis = (const int *)device(axis, sizeof axis), m->inverse_frequency = (const float *)device(frequency, sizeof frequency);
    bf16 *q = (bf16 *)device(NULL, q_count * 2);
    heads_rows_bf16(m, &l, 0, (const struct drow *)device(row, (size_t)rows * sizeof *row), rows, (const int32_t *)device(page, (size_t)page_count * 4), x.at, q);
    OK(cudaGetLastError());
    uint16_t *got_q = host<uint16_t>(q, q_count);
    uint8_t *kv = host<uint8_t>(m->kv, page_count * page_bytes);
    size_t count = (size_t)rows * all * n;
    float *got = (float *)malloc(count * 4);
    double *want = (double *)malloc(count * sizeof *want);
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < all; h++) {
            bool query = h < heads, value = h >= heads + kv_heads;
            int k = h - heads - (value ? kv_heads : 0);
            const float *from = x.x + ((size_t)r * all + h) * n;
            const uint8_t *head = query ? NULL : kv + (size_t)page[row[r].slot / 32] * page_bytes + (value ? page_bytes / 2 : 0) + k * block, *bytes = head + row[r].slot % 32 * n;
            const uint16_t *at = query ? got_q + ((size_t)r * heads + h) * n : (const uint16_t *)(head + row[r].slot % 32 * n * 2);
            float factor = query || !kv8 ? 0 : ((const float *)(head + 32 * n))[row[r].slot % 32];
            int largest = 0;
            double sum = 0, *to = want + ((size_t)r * all + h) * n;
            for (int i = 0; i < n; i++) sum += (double)from[i] * from[i], got[((size_t)r * all + h) * n + i] = query || !kv8 ? bf16_to_f32(at[i]) : e4m3_to_f32(bytes[i]) * factor;
            for (int i = 0; !query && kv8 && i < n; i++) largest = (bytes[i] & 0x7F) > largest ? bytes[i] & 0x7F : largest;
            if (!query && kv8) assert_int_equal(largest, 0x7E); /* 448: the factor is as small as may be */
            double f = value ? 1 : 1 / sqrt(sum / n + 1e-6);
            for (int i = 0; i < n / 2; i++) {
                double angle = value ? 0 : (double)((float)row[r].position[axis[i]] * frequency[i]), c = cos(angle), s = sin(angle);
                double lo = from[i] * f * (value ? 1 : weight[query ? 0 : 1][i]), hi = from[i + n / 2] * f * (value ? 1 : weight[query ? 0 : 1][i + n / 2]);
                to[i] = lo * c - hi * s, to[i + n / 2] = hi * c + lo * s;
            }
        }
    char what[100];
    snprintf(what, sizeof what, "%d/%d heads of %d, %d rows%s", heads, kv_heads, n, rows, kv8 ? ", e4m3" : "");
    near(what, distance(got, want, count), kv8 ? 0.03 : 3e-3); /* half of 1/8 of a value at most, 1/38 of it in the mean */
    m->kv8 = false;
    free(row), free(page), free(got_q), free(kv), free(got), free(want);
    rows_free(&x);
    release();
}

static void row_passes(void **) {
    for (int mask = 0; mask < 4; mask++) {
        check_add_norm(5, 512, mask & 1, mask & 1, mask != 2, mask >= 2);
        check_add_norm(70, 384, true, mask & 1, mask < 3, mask > 1);
        check_silu_rows(67, 384, mask != 2, mask >= 2);
    }
    check_add_norm(3, 100, true, true, true, false); /* no multiple of eight */
    check_silu_rows(3, 100, true, false);
    check_add_norm(2, 8, false, false, true, false);
    check_quantise(67, 256);
    for (bool kv8 : {false, true}) {
        check_heads(4, 2, 128, 40, kv8);
        check_heads(3, 1, 128, 40, kv8);
        check_heads(3, 1, 64, 40, kv8);
        check_heads(2, 1, 256, 9, kv8);
    }
    if (emulated()) return;
    for (int n : {2048, 2560, 4096}) check_add_norm(300, n, true, false, true, true);
    for (int n : {6144, 9728, 12288}) check_silu_rows(300, n, true, true);
    check_quantise(300, 4096);
    for (bool kv8 : {false, true}) check_heads(16, 8, 128, 300, kv8), check_heads(32, 8, 128, 300, kv8);
}

/* Three matrices in one large product of bf16 results: bf16 rows, and for FP8 quantised ones. side: they lie one below the other. */
static void check_library(const struct storage_kind *k, int rows, int out0, int out1, int in, bool eight, bool side) {
    struct matrix w[3];
    struct dlinear d[3];
    int outs[3] = {out0, out1, out1}, all = out0 + 2 * out1, padded = padded_rows(rows);
    for (int i = 0; i < 3; i++) matrix_new(&w[i], k->storage, outs[i], in, 0, k->nested), d[i] = upload(&w[i].w);
    if (k->storage == STORAGE_FP8_BLOCK) { /* scales as put_scale lays them out, one matrix after the other */
        int columns = in / 128, wide = (columns + 3) / 4 * 4, at = 0;
        float *scale = (float *)calloc((size_t)(all / 128 + 3) * wide, 4);
        for (int i = 0; i < 3; at += (outs[i++] + 127) / 128)
            for (int r = 0; r < (outs[i] + 127) / 128; r++) memcpy(scale + (at + r) * wide, w[i].w.scale + r * columns, (size_t)columns * 4);
        float *p = (float *)device(scale, (size_t)(all / 128 + 3) * wide * 4);
        for (int i = 0; i < 3; p += (outs[i++] + 127) / 128 * wide) d[i].scale = p, d[i].scale_columns = wide;
        free(scale);
    }
    if (side && k->storage != STORAGE_NF4) {
        size_t element = k->storage == STORAGE_BF16 ? 2 : 1, at = 0;
        char *p = (char *)device(NULL, (size_t)all * in * element);
        for (int i = 0; i < 3; at += (size_t)outs[i++] * in * element) {
            OK(cudaMemcpy(p + at, w[i].w.data, (size_t)outs[i] * in * element, cudaMemcpyHostToDevice));
            d[i].data = p + at;
        }
        OK(cudaDeviceSynchronize());
    }
    struct rows_of x = random_rows(rows, in);
    bf16 *padded_x = (bf16 *)device(NULL, (size_t)padded * in * 2), *y = (bf16 *)device(NULL, (size_t)padded * all * 2);
    OK(cudaMemcpy(padded_x, x.bits, (size_t)rows * in * 2, cudaMemcpyHostToDevice));
    OK(cudaDeviceSynchronize());
    struct product p = {{&d[0], &d[1], &d[2]}, 3};
    p.x = padded_x, p.ldx = in, p.rows = rows, p.padded = padded, p.out = OUT_BF16, p.y = y, p.ldy = all;
    if (eight) {
        struct row_input to = {NULL, (uint8_t *)device(NULL, (size_t)padded * in), (float *)device(NULL, (size_t)padded * (in / 128) * 4), padded};
        quantise_eight_rows(m, padded_x, &to, rows, in);
        p.x8 = to.x8, p.factors8 = to.factors8;
        uint8_t *bytes = host<uint8_t>(to.x8, (size_t)rows * in);
        float *factor = host<float>(to.factors8, (size_t)padded * (in / 128));
        for (int r = 0; r < rows; r++)
            for (int i = 0; i < in; i++) x.x[r * in + i] = e4m3_to_f32(bytes[r * in + i]) * factor[(size_t)(i / 128) * padded + r];
        free(bytes), free(factor);
    }
    struct err err = {};
    assert_true(library_fit(m, &p));
    if (product_run(m, &p, &err)) fail_msg("%s", err.message);
    uint16_t *bits = host<uint16_t>(y, (size_t)rows * all);
    for (int i = 0, at = 0; i < 3; at += outs[i++]) {
        double *want = (double *)malloc((size_t)rows * outs[i] * sizeof *want);
        float *got = (float *)malloc((size_t)rows * outs[i] * 4);
        twin(&w[i].w, x.x, rows, want);
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < outs[i]; o++) got[r * outs[i] + o] = bf16_to_f32(bits[(size_t)r * all + at + o]);
        char what[160];
        snprintf(what, sizeof what, "library, %s%s, %d rows, matrix %d of %d x %d", storage_names[k->storage], eight ? " quantised" : "", rows, i, outs[i], in);
        near(what, distance(got, want, (size_t)rows * outs[i]), 4e-3); /* results and unpacked weights are rounded to bf16 */
        free(want), free(got);
    }
    for (int i = 0; i < 3; i++) matrix_free(&w[i]);
    rows_free(&x);
    free(bits);
    release();
}
static void library(void **) {
    if (!(m->lt = lt_open())) skip_because("cublasLt is not there");
    for (int i = 0; i < 4; i++)
        for (int side = 0; side < 2; side++) {
            check_library(&kinds[i], 70, 128, 256, 256, false, side);
            check_library(&kinds[i], 97, 64, 48, 512, false, side);
            if (kinds[i].storage == STORAGE_FP8_BLOCK) check_library(&kinds[i], 70, 256, 128, 384, true, side), check_library(&kinds[i], 97, 64, 128, 512, true, side);
        }
    if (!emulated())
        for (int i = 0; i < 3; i++)
            for (int rows : {300, 1024}) {
                check_library(&kinds[i], rows, 2048, 1024, 2048, false, true), check_library(&kinds[i], rows, 4096, 1024, 2560, false, true);
                if (kinds[i].storage == STORAGE_FP8_BLOCK) check_library(&kinds[i], rows, 2048, 1024, 2048, true, true), check_library(&kinds[i], rows, 6144, 6144, 2048, true, true);
            }
    cudaStreamSynchronize(m->stream);
    lt_close(m->lt), m->lt = NULL;
    for (int i : {BUFFER_UNPACKED, BUFFER_PRODUCT}) cudaFree(m->buffer[i].data), m->buffer[i] = {};
}

/* ---- attention ---- */

struct kv {
    int heads, kv_heads, n, pages; /* the twin's pages: one for each page and layer */
    bool e4m3;
    float *x;     /* (pages, 2, kv_heads, 32, n) */
    char *stored; /* the same as the kernels read it */
};

static size_t kv_page_bytes(const struct kv *k) { return (size_t)2 * k->kv_heads * head_block_bytes(k->n, k->e4m3); }
static char *kv_block(const struct kv *k, int page, int half, int head) {
    return k->stored + (int64_t)page * kv_page_bytes(k) + (half * k->kv_heads + head) * (int64_t)head_block_bytes(k->n, k->e4m3);
}

/* Random numbers, in e4m3 random bytes and factors; the model's fields. */
static void kv_make(struct kv *k) {
    k->x = (float *)malloc((size_t)k->pages * 2 * k->kv_heads * 32 * k->n * sizeof *k->x), k->stored = (char *)malloc(k->pages * kv_page_bytes(k));
    float *x = k->x;
    for (int at = 0; at < k->pages * 2 * k->kv_heads; at++) {
        char *block = k->stored + (int64_t)at * head_block_bytes(k->n, k->e4m3);
        for (int slot = 0; slot < 32; slot++) {
            float factor = 0.006f + 0.004f * random_float();
            if (k->e4m3) ((float *)(block + 32 * k->n))[slot] = factor;
            for (int i = 0; i < k->n; i++, x++) {
                uint8_t byte = (uint8_t)(int)(random_float() * 16384 + 16384);
                if ((byte & 0x7F) == 0x7F) byte ^= 1;
                uint16_t bits = f32_to_bf16(random_float() * 2);
                if (k->e4m3) ((uint8_t *)block)[slot * k->n + i] = byte, *x = e4m3_to_f32(byte) * factor;
                else ((uint16_t *)block)[slot * k->n + i] = bits, *x = bf16_to_f32(bits);
            }
        }
    }
}
static void kv_poison(const struct kv *k, int page, int slot) {
    for (int half = 0; half < 2; half++)
        for (int v = 0; v < k->kv_heads; v++) {
            char *block = kv_block(k, page, half, v);
            size_t row = (size_t)k->n * (k->e4m3 ? 1 : 2);
            memset(block + slot * row, 0xFF, row);
            if (k->e4m3) memset(block + 32 * row + 4 * slot, 0xFF, 4);
        }
}
static void kv_upload(const struct kv *k, int layers) {
    struct text_config *t = &m->w.config.text;
    t->heads = k->heads, t->kv_heads = k->kv_heads, t->head_dim = k->n;
    m->kv = (char *)device(k->stored, k->pages * kv_page_bytes(k)), m->page_bytes = layers * kv_page_bytes(k), m->layer_stride = (int64_t)kv_page_bytes(k) / 2;
    m->capacity = k->pages / layers, m->kv8 = k->e4m3;
}
static void kv_free(struct kv *k) {
    free(k->x), free(k->stored);
    m->kv8 = false;
}

static void attend_twin(const struct kv *k, const int32_t *pages, int length, const float *q, double *out) {
    double *p = (double *)malloc((size_t)length * sizeof *p);
    for (int h = 0; h < k->heads; h++) {
        int kv = h / (k->heads / k->kv_heads);
        double top = -INFINITY, all = 0;
        auto at = [&](int t, int half) { return k->x + ((((int64_t)pages[t / 32] * 2 + half) * k->kv_heads + kv) * 32 + t % 32) * k->n; };
        for (int t = 0; t < length; t++) {
            p[t] = 0;
            for (int d = 0; d < k->n; d++) p[t] += (double)q[h * k->n + d] * at(t, 0)[d];
            p[t] /= sqrt((double)k->n);
            if (p[t] > top) top = p[t];
        }
        for (int t = 0; t < length; t++) all += p[t] = exp(p[t] - top);
        for (int d = 0; d < k->n; d++) {
            double sum = 0;
            for (int t = 0; t < length; t++) sum += p[t] * at(t, 1)[d];
            out[h * k->n + d] = sum / all;
        }
    }
    free(p);
}

/* rows of given lengths; shared[i]: tokens of page lists in common with the row before. how: 0 items, 1 row by row, 2 a run of one sequence. */
static void check_attend(int heads, int kv_heads, int n, const int *length, const int *shared, int rows, int how, int splits, bool e4m3) {
    struct kv k = {heads, kv_heads, n, 1, e4m3};
    struct drow *row = (struct drow *)calloc((size_t)rows, sizeof *row);
    int32_t *page = (int32_t *)malloc(sizeof(int32_t) * 20000);
    int pages = 0;
    for (int r = 0; r < rows; r++) {
        row[r].slot = length[r] - 1, row[r].block = how == 2 ? 0 : -1;
        if (how == 2 && r > 0) {
            row[r].pages = row[0].pages;
            continue;
        }
        row[r].pages = pages;
        int need = how == 2 ? (length[rows - 1] + 31) / 32 : (length[r] + 31) / 32;
        for (int i = 0; i < need; i++) page[pages++] = r > 0 && i < shared[r] / 32 ? page[row[r - 1].pages + i] : k.pages++;
    }
    kv_make(&k);
    if (how < 2) /* nothing behind a row's end may count */
        for (int r = 0; r < rows; r++)
            for (int t = length[r]; t % 32 && (r + 1 == rows || shared[r + 1] <= length[r] / 32 * 32); t++)
                kv_poison(&k, page[row[r].pages + t / 32], t % 32);
    kv_upload(&k, 1);
    struct rows_of q = random_rows(rows, heads * n);
    int tiled = how == 0 && rows > 8 ? rows % 2 ? TILED_CROSSED : TILED_STRAIGHT : TILED_NO, arch = m->arch;
    double *want = (double *)malloc((size_t)heads * n * sizeof *want);
    float *got = (float *)malloc((size_t)heads * n * 4);
    for (int way = 0; way < (how == 0 ? 2 : 1); way++) { /* items: the kernel of every device, then Hopper's */
        if (how == 0) m->arch = way ? arch : 80;
        if (way && !attend_stream_fit(m)) continue;
        size_t values = (size_t)(tiled ? FEW_ROWS : rows) * heads * n;
        bf16 *out = (bf16 *)device(NULL, values * 2);
        if (how == 0) {
            struct batch b = {NULL, 0, rows, pages, 0, row, page};
            m->step_shared = attend_shared(m, &b); /* Hopper's kernel: where it is worth it, and there alone */
            assert_int_equal(m->step_shared, rows > 1 && shared[1] >= MIN_SHARED_PAGES * 32 && !(way && m->shared_worth));
            char *step = (char *)calloc(1, step_bytes(&b));
            size_t bytes = step_fill(m, &b, step);
            assert_true(bytes <= step_bytes(&b));
            const struct step_head *head = (const struct step_head *)device(step, bytes);
            bf16 *again = (bf16 *)device(NULL, values * 2);
            attend_items(m, 0, head, q.at, out, tiled);
            attend_items(m, 0, head, q.at, again, tiled);
            if (way) { /* the same bits each time */
                uint16_t *a = host<uint16_t>(out, values), *c = host<uint16_t>(again, values);
                assert_memory_equal(a, c, values * 2);
                free(a), free(c);
            }
            free(step);
        } else if (how == 1) {
            size_t counters = (size_t)rows * kv_heads * 4;
            void *c = device(NULL, counters);
            OK(cudaMemset(c, 0, counters));
            OK(cudaDeviceSynchronize());
            attend_rows(m, 0, (const struct drow *)device(row, (size_t)rows * sizeof *row), rows, (const int32_t *)device(page, (size_t)pages * 4), q.at, out, splits,
                        (float *)device(NULL, (size_t)rows * heads * splits * (n + 2) * 4), (unsigned *)c);
        } else {
            struct attend_run run = {0, rows, length[rows - 1]};
            assert_int_equal(attend_runs(m, 0, (const struct drow *)device(row, (size_t)rows * sizeof *row), &run, 1, (const int32_t *)device(page, (size_t)pages * 4), q.at, out, pages), 0);
        }
        OK(cudaGetLastError());
        float *all = rows_back(out, rows, heads * n, tiled);
        for (int r = 0; r < rows; r++) {
            attend_twin(&k, page + row[r].pages, length[r], q.x + (int64_t)r * heads * n, want);
            for (int i = 0; i < heads * n; i++) got[i] = all[(int64_t)r * heads * n + i];
            char what[160];
            snprintf(what, sizeof what, "attention %d%s, way %d, %d/%d heads of %d, row %d of %d, length %d", how, e4m3 ? " over e4m3" : "", way, heads, kv_heads, n, r, rows, length[r]);
            near(what, distance(got, want, (size_t)heads * n), e4m3 && how == 2 ? 1e-2 : 5e-3); /* of runs e4m3 pages are rounded to bf16 */
        }
        free(all);
    }
    m->arch = arch;
    free(row), free(page), free(want), free(got);
    kv_free(&k);
    rows_free(&q);
    release();
}

/* `n` runs of `count` rows from slot `first` on (each one row more and 20 slots further than the one before), behind `lead` other rows of their
 * batch; the second of two layers, pages in no order, those of a common beginning shared. Every `step`-th row is compared with the twin. */
static void check_runs(int heads, int kv_heads, int first, int count, int lead, int step, int n, bool e4m3 = false) {
    enum { N = 128, LAYERS = 2, LAYER = 1, MOST = 8 };
    int pages = 3, used = 0, all = lead, begin[MOST], common = first / 32;
    struct attend_run run[MOST];
    int32_t page[2000], twin_page[2000];
    for (int i = 0; i < 3; i++) page[i] = 1 << 30;
    for (int r = 0; r < n; r++) {
        run[r] = {all, count + r, first + 20 * r + count + r};
        begin[r] = pages;
        for (int i = 0; i < (run[r].length + 31) / 32; i++) {
            bool shared = r > 0 && i < common;
            page[pages] = shared ? page[begin[0] + i] : used;
            used += !shared;
            pages++;
        }
        all += run[r].count;
    }
    for (int i = 3; i < pages; i++) page[i] = used - 1 - page[i], twin_page[i] = page[i] * LAYERS + LAYER;
    struct kv k = {heads, kv_heads, N, used * LAYERS, e4m3};
    kv_make(&k);
    struct drow *row = (struct drow *)calloc((size_t)all, sizeof *row);
    for (int i = 0; i < lead; i++) row[i].slot = 1 << 30, row[i].block = -1;
    for (int r = 0; r < n; r++)
        for (int i = 0; i < run[r].count; i++) {
            struct drow *to = &row[run[r].first + i];
            to->slot = (int)run[r].length - run[r].count + i, to->pages = begin[r], to->block = run[r].first;
        }
    kv_upload(&k, LAYERS);
    struct rows_of q = random_rows(all, heads * N);
    bf16 *out = (bf16 *)device(NULL, (size_t)(all + 1) * heads * N * 2);
    attend_runs(m, LAYER, (const struct drow *)device(row, (size_t)all * sizeof *row), run, n, (const int32_t *)device(page, (size_t)pages * 4), q.at, out, pages);
    OK(cudaGetLastError());
    uint16_t *bits = host<uint16_t>(out, (size_t)(all + 1) * heads * N);
    double *want = (double *)malloc((size_t)heads * N * sizeof *want);
    float *got = (float *)malloc((size_t)heads * N * 4);
    for (int r = 0; r <= all; r++) {
        uint16_t *have = bits + (int64_t)r * heads * N;
        for (int i = 0; i < heads * N; i++) {
            got[i] = bf16_to_f32(have[i]);
            if ((r < lead || r == all) != (have[i] == 0xFFFF)) fail_msg("runs of %d after %d: row %d of %d %s", count, first, r, all, have[i] == 0xFFFF ? "was not written" : "is not theirs");
        }
        if (r < lead || r == all || ((r - lead) % step && r != all - 1)) continue;
        attend_twin(&k, twin_page + row[r].pages, row[r].slot + 1, q.x + (int64_t)r * heads * N, want);
        char what[160];
        snprintf(what, sizeof what, "runs%s of %d after %d, %d/%d heads, row %d", e4m3 ? " over e4m3" : "", count, first, heads, kv_heads, r - lead);
        near(what, distance(got, want, (size_t)heads * N), e4m3 ? 1e-2 : 5e-3);
    }
    free(row), free(bits), free(want), free(got);
    kv_free(&k);
    rows_free(&q);
    release();
}
static void check_run(int heads, int kv_heads, int first, int count, int lead, int step) { check_runs(heads, kv_heads, first, count, lead, step, 1); }

static void runs(void **) {
    check_run(4, 2, 0, 70, 0, 1);
    check_run(4, 2, 33, 65, 5, 1);
    check_run(2, 2, 20, 17, 1, 1);
    check_runs(4, 2, 40, 33, 2, 3, 3);
    check_runs(4, 2, 33, 65, 5, 1, 1, true);
    check_runs(4, 2, 40, 33, 2, 3, 3, true);
    if (emulated()) return;
    m->arch = 80; /* the kernel of older devices, here too */
    check_run(16, 8, 100, 200, 3, 7);
    cudaDeviceProp p;
    OK(cudaGetDeviceProperties(&p, 0));
    m->arch = p.major * 10 + p.minor;
    static const int shapes[][3] = {{0, 16, 1}, {0, 64, 5}, {0, 127, 9}, {0, 128, 9}, {0, 129, 9}, {63, 65, 9}, {64, 64, 5}, {96, 32, 5}, {100, 200, 13}, {127, 16, 1}, {128, 31, 5},
                                    {500, 513, 71}, {1700, 70, 13}, {2500, 300, 91}};
    for (const auto &s : shapes) {
        check_run(16, 8, s[0], s[1], s[0] % 5, s[2]);
        check_run(32, 8, s[0], s[1], s[0] % 3, s[2]);
    }
    check_runs(16, 8, 0, 100, 2, 7, 8);
    check_runs(32, 8, 130, 64, 3, 7, 5);
    check_run(6, 1, 60, 100, 2, 3);
    check_run(6, 2, 60, 100, 2, 3); /* three heads for a kv head: the older kernel */
    check_run(16, 1, 1000, 40, 2, 3);
    check_runs(16, 8, 0, 100, 2, 7, 8, true);
    check_runs(32, 8, 130, 64, 3, 7, 5, true);
    check_runs(16, 8, 2500, 300, 2, 91, 3, true);
    check_runs(6, 2, 60, 100, 2, 3, 1, true);
}

static void check_attention(bool e4m3) {
    int lengths[64], shared[64] = {};
    int odd[] = {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129, 300};
    for (int l : odd) check_attend(4, 2, 128, &l, shared, 1, 0, 1, e4m3);
    for (int i = 0; i < 14; i++) lengths[i] = odd[(i * 5) % 14];
    check_attend(4, 2, 128, lengths, shared, 14, 0, 1, e4m3);
    check_attend(8, 2, 128, lengths, shared, 14, 0, 1, e4m3);
    check_attend(16, 1, 128, lengths, shared, 3, 0, 1, e4m3);
    /* best-of-n: common beginnings of several lengths, then a break */
    for (int i = 0; i < 12; i++) lengths[i] = 200 + i * 7, shared[i] = i == 0 || i == 7 ? 0 : i == 4 ? 160 : 192;
    check_attend(4, 2, 128, lengths, shared, 12, 0, 1, e4m3);
    check_attend(8, 2, 128, lengths, shared, 12, 0, 1, e4m3);
    check_attend(2, 2, 128, lengths, shared, 12, 0, 1, e4m3);
    /* groups of 8, 2, 1, 5 and 3 rows, of which the last share less with their neighbours in front than among themselves; the end of a page */
    static const int common[19] = {0, 256, 256, 256, 256, 256, 256, 256, 0, 160, 0, 0, 320, 320, 320, 320, 128, 384, 384};
    static const int behind[19] = {256, 257, 300, 288, 289, 258, 319, 260, 161, 192, 5, 321, 350, 322, 351, 352, 385, 400, 417};
    check_attend(4, 2, 128, behind, common, 19, 0, 1, e4m3);
    check_attend(8, 2, 128, behind, common, 19, 0, 1, e4m3);
    check_attend(10, 2, 128, behind, common, 19, 0, 1, e4m3);
    /* more pieces of a row than a warp has lanes; pieces of more pages than that */
    static const int two[2] = {1536 + 700, 1536 + 1100}, two_shared[2] = {0, 1536};
    check_attend(2, 1, 128, two, two_shared, 2, 0, 1, e4m3);
    m->shared_worth = 1000; /* more than there is: every row alone */
    check_attend(4, 2, 128, behind, common, 19, 0, 1, e4m3);
    check_attend(8, 2, 128, behind, common, 19, 0, 1, e4m3);
    m->shared_worth = 0;
    static const int far[2] = {7, 13000};
    int zero[64] = {};
    check_attend(4, 2, 128, far, zero, 2, 0, 1, e4m3);
    check_attend(4, 2, 32, odd, zero, 14, 1, 1, e4m3);
    check_attend(3, 1, 64, odd, zero, 14, 1, 4, e4m3);
    check_attend(4, 4, 80, odd, zero, 5, 1, 2, e4m3);
    check_attend(4, 2, 128, odd, zero, 14, 1, 3, e4m3);
    check_attend(2, 1, 256, odd, zero, 8, 1, 2, e4m3);
    int run[150];
    for (int first : {0, 1, 37, 64}) {
        for (int i = 0; i < 150; i++) run[i] = first + 1 + i;
        check_attend(4, 2, 128, run, zero, 90, 2, 1, e4m3);
    }
    check_attend(2, 2, 128, run, zero, 16, 2, 1, e4m3);
    if (emulated()) return;
    for (int i = 0; i < 64; i++) lengths[i] = 1024 + i, shared[i] = i % 8 ? 992 : 0;
    check_attend(16, 8, 128, lengths, shared, 64, 0, 1, e4m3);
    check_attend(32, 8, 128, lengths, shared, 64, 0, 1, e4m3);
    check_attend(32, 8, 128, lengths, zero, 9, 0, 1, e4m3);
    for (int i = 0; i < 64; i++) lengths[i] = 300 + i * 37 % 64 * 13, shared[i] = i % 8 ? 96 : 0; /* too little to be shared */
    check_attend(16, 8, 128, lengths, shared, 64, 0, 1, e4m3);
    check_attend(32, 8, 128, lengths, zero, 33, 0, 1, e4m3);
    for (int i = 0; i < 64; i++) lengths[i] = 900 + i % 5, shared[i] = i ? i % 8 ? 896 : 256 : 0; /* one beginning for all, a longer one for eight each */
    check_attend(16, 8, 128, lengths, shared, 64, 0, 1, e4m3);
    check_attend(32, 8, 128, lengths, shared, 61, 0, 1, e4m3);
}
static void attention(void **) {
    check_attention(false);
    check_attention(true);
}

int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(products), cmocka_unit_test(residual), cmocka_unit_test(gated), cmocka_unit_test(tiled), cmocka_unit_test(quantised), cmocka_unit_test(row_passes), cmocka_unit_test(library), cmocka_unit_test(attention), cmocka_unit_test(runs)};
    return cmocka_run_group_tests(tests, setup, NULL);
}
