/* Every variant of the CPU operations against the plain C reference, at real and odd shapes, with poisoned outputs, and the
 * property on which prompt reuse rests: a row is the same bit for bit whatever it is computed with. */
#include <zlib.h>

#include "base/buf.h"
#include "base/file.h"
#include "ops_data.h"
#include "test.h"

static const char *const names[] = {"c", "avx2", "avx512", "avx512bf16", "amx"};
enum { VARIANTS = 5 };

static const struct cpu_ops *variant(int i) {
    const struct cpu_ops *ops = cpu_ops_select(names[i], NULL);
    return ops && !strcmp(ops->name, names[i]) ? ops : NULL;
}

#define EACH_VARIANT(ops)                                   \
    for (int variant_index = 0; variant_index < VARIANTS; variant_index++) \
        for (const struct cpu_ops *ops = variant(variant_index); ops; ops = NULL)

static void test_select(void **state) {
    (void)state;
    struct err err = {0};
    assert_null(cpu_ops_select("sse9", &err));
    assert_non_null(strstr(err.message, "sse9"));
    assert_ptr_equal(cpu_ops_select("c", &err), &cpu_ops_c);
    printf("best here: %s\n", cpu_ops_select(NULL, &err)->name);
    for (int i = 0; i < VARIANTS; i++)
        if (!variant(i)) printf("%s is not supported by this machine: not tested\n", names[i]);
}

static const float poison = -12345.0f;

/* ---- linear -------------------------------------------------------------------------------------------------------------- */

struct activations {
    float *x;
    uint16_t *xb;
    float *factors;
    int64_t ld;
};

static void activations_new(struct activations *a, int rows, int64_t in, enum precision precision) {
    a->ld = in + 3; /* rows need not be adjacent nor aligned */
    int64_t groups = (in + 127) / 128;
    a->x = calloc((size_t)(rows * a->ld), 4);
    a->xb = calloc((size_t)(rows * a->ld), 2);
    a->factors = calloc((size_t)(rows * groups), 4);
    for (int r = 0; r < rows; r++) {
        for (int64_t i = 0; i < a->ld; i++) a->x[r * a->ld + i] = i < in ? random_float() : NAN;
        cpu_ops_c.round_bf16(a->xb + r * a->ld, a->x + r * a->ld, a->ld);
        if (precision == PRECISION_FP8_E4M3) {
            uint16_t *q = malloc((size_t)in * 2);
            cpu_ops_c.quantise_e4m3(q, a->factors + r * groups, a->xb + r * a->ld, in);
            memcpy(a->xb + r * a->ld, q, (size_t)in * 2);
            free(q);
        }
    }
}
static void activations_free(struct activations *a) {
    free(a->x);
    free(a->xb);
    free(a->factors);
}

static void run_linear(const struct cpu_ops *ops, float *y, int64_t ldy, const struct activations *a, int first, int rows,
                       const struct linear_weight *w, int64_t o0, int64_t o1, enum precision p, void *scratch) {
    const float *x = p == PRECISION_FP8_E4M3 ? a->factors + first * ((w->in + 127) / 128) : p == PRECISION_F32 ? a->x + first * a->ld : NULL;
    ops->linear(y + first * ldy, ldy, x, p == PRECISION_F32 ? NULL : a->xb + first * a->ld, a->ld, rows, w, o0, o1, p, scratch);
}

/* The bound: fp32 accumulation of n products in any order errs by a small multiple of 2^-24 times the sum of |product|. */
static void check_linear(const struct cpu_ops *ops, const struct matrix *m, int rows, int64_t o0, int64_t o1, enum precision p) {
    const struct linear_weight *w = &m->w;
    struct activations a;
    activations_new(&a, rows, w->in, p);
    int64_t ldy = w->out + 5;
    size_t cells = (size_t)(rows * ldy);
    float *y = malloc(cells * 4), *want = malloc(cells * 4), *again = malloc(cells * 4);
    for (size_t i = 0; i < cells; i++) y[i] = want[i] = again[i] = poison;
    void *scratch = cache_lines(cpu_ops_scratch_bytes(w->in, 128, 0));
    memset(scratch, 0xff, cpu_ops_scratch_bytes(w->in, 128, 0)); /* NaN: what is not written must not be read */
    run_linear(ops, y, ldy, &a, 0, rows, w, o0, o1, p, scratch);
    run_linear(&cpu_ops_c, want, ldy, &a, 0, rows, w, o0, o1, p, scratch);
    double worst = 0;
    for (int r = 0; r < rows; r++)
        for (int64_t o = 0; o < ldy; o++) {
            float got = y[r * ldy + o], expected = want[r * ldy + o];
            if (o < o0 || o >= o1) assert_true(got == poison);
            double e = fabs((double)got - expected);
            if (!(e <= worst)) worst = e;
        }
    /* |x| <= 1 and weights about 1 / sqrt(in): sums of |product| are below sqrt(in) */
    double bound = 4e-7 * sqrt((double)w->in) + 1e-6;
    if (!(worst <= bound))
        fail_msg("%s linear %s %d rows, %d x %d, outputs %d to %d, precision %d: error %g above %g", ops->name, storage_names[w->storage], rows,
                 (int)w->out, (int)w->in, (int)o0, (int)o1, p, worst, bound);
    /* Row by row and with the outputs cut elsewhere: the same bits. */
    int64_t cut = o0 + (o1 - o0) * 3 / 7;
    for (int r = 0; r < rows; r++) {
        run_linear(ops, again, ldy, &a, r, 1, w, cut, o1, p, scratch);
        run_linear(ops, again, ldy, &a, r, 1, w, o0, cut, p, scratch);
    }
    if (memcmp(y, again, cells * 4))
        fail_msg("%s linear %s: %d rows at once and one by one differ (%d x %d, precision %d)", ops->name, storage_names[w->storage], rows,
                 (int)w->out, (int)w->in, p);
    free(scratch);
    free(y);
    free(want);
    free(again);
    activations_free(&a);
}

static void test_linear(void **state) {
    (void)state;
    static const int ins[] = {1, 31, 64, 72, 128, 192, 200, 256, 1024, 1152, 2048, 4304, 1600};
    static const int all_rows[] = {1, 2, 3, 4, 5, 6, 7, 13, 32};
    EACH_VARIANT(ops)
        for (int s = 0; s <= STORAGE_NF4; s++)
            for (size_t i = 0; i < sizeof ins / sizeof *ins; i++) {
                int in = ins[i], out = in > 1000 ? 37 : 150;
                for (int nested = 0; nested < (s == STORAGE_NF4 ? 2 : 1); nested++) {
                    struct matrix m;
                    matrix_new(&m, (enum storage)s, out, in, i & 1, nested);
                    for (size_t r = 0; r < sizeof all_rows / sizeof *all_rows; r++) {
                        int rows = all_rows[r];
                        check_linear(ops, &m, rows, 0, out, PRECISION_BF16);
                        if (r % 3 == 0) check_linear(ops, &m, rows, 5, out - 6, PRECISION_BF16);
                        if (r % 3 == 1) check_linear(ops, &m, rows, 3, out, PRECISION_F32);
                        if (s == STORAGE_FP8_BLOCK && r % 2 == 0) check_linear(ops, &m, rows, 1, out, PRECISION_FP8_E4M3);
                    }
                    matrix_free(&m);
                }
            }
}

static void test_linear_wide(void **state) {
    (void)state;
    static const int ins[] = {2560, 4096, 6144, 9728, 12288};
    EACH_VARIANT(ops)
        for (int s = STORAGE_BF16; s <= STORAGE_NF4; s++)
            for (size_t i = 0; i < sizeof ins / sizeof *ins; i++) {
                struct matrix m;
                matrix_new(&m, (enum storage)s, 133, ins[i], 0, 1);
                check_linear(ops, &m, 1, 0, 133, PRECISION_BF16);
                check_linear(ops, &m, 14, 0, 133, PRECISION_BF16);
                matrix_free(&m);
            }
}

/* More rows, outputs and columns than a variant takes at a time (AMX: 256, 512, 2048), none of them a round number. */
static void test_linear_blocks(void **state) {
    (void)state;
    EACH_VARIANT(ops) {
        if (ops == &cpu_ops_c) continue;
        for (int s = STORAGE_BF16; s <= STORAGE_NF4; s++) {
            struct matrix m;
            matrix_new(&m, (enum storage)s, 150, 4416, 0, 1);
            check_linear(ops, &m, 17, 0, 150, PRECISION_BF16);
            matrix_free(&m);
            matrix_new(&m, (enum storage)s, 533, 192, 1, 1);
            check_linear(ops, &m, 47, 7, 533, PRECISION_BF16);
            check_linear(ops, &m, 275, 0, 530, PRECISION_BF16);
            matrix_free(&m);
        }
    }
}

/* No rows, no outputs: nothing is written. */
static void test_empty(void **state) {
    (void)state;
    EACH_VARIANT(ops)
        for (int s = 0; s <= STORAGE_NF4; s++) {
            struct matrix m;
            matrix_new(&m, (enum storage)s, 8, 128, 0, 1);
            float y[8] = {poison}, x[128] = {0};
            uint16_t xb[128] = {0};
            void *scratch = cache_lines(cpu_ops_scratch_bytes(128, 128, 0));
            ops->linear(y, 8, x, xb, 128, 0, &m.w, 0, 8, PRECISION_BF16, scratch);
            ops->linear(y, 8, x, xb, 128, 0, &m.w, 0, 8, PRECISION_F32, scratch);
            ops->linear(y, 8, x, xb, 128, 1, &m.w, 3, 3, PRECISION_BF16, scratch);
            assert_true(y[0] == poison && y[1] == 0);
            free(scratch);
            matrix_free(&m);
        }
}

/* What a weight is: one-hot activations read the matrix back, which must equal the checkpoint room's dequantisation rounded to bf16. */
static void test_weights_exact(void **state) {
    (void)state;
    EACH_VARIANT(ops)
        for (int s = 0; s <= STORAGE_NF4; s++) {
            enum { IN = 320, OUT = 131 };
            struct matrix m;
            matrix_new(&m, (enum storage)s, OUT, IN, 0, 1);
            if (s == STORAGE_FP8_BLOCK) /* every code, subnormals included */
                for (int i = 0; i < OUT * IN; i++) ((uint8_t *)m.data)[i] = (uint8_t)((i % 0x7f) | (i & 0x80));
            uint16_t *xb = calloc(IN * IN, 2);
            for (int i = 0; i < IN; i++) xb[i * IN + i] = f32_to_bf16(1);
            float *y = malloc(IN * OUT * 4), row[IN];
            void *scratch = cache_lines(cpu_ops_scratch_bytes(IN, 128, 0));
            for (int rows = IN; rows >= 1; rows -= IN - 1) {
                ops->linear(y, OUT, NULL, xb, IN, rows, &m.w, 0, OUT, PRECISION_BF16, scratch);
                for (int o = 0; o < OUT; o++) {
                    linear_weight_rows_f32(&m.w, o, o + 1, row);
                    for (int i = 0; i < rows; i++)
                        if (y[i * OUT + o] != bf16_to_f32(f32_to_bf16(row[i])))
                            fail_msg("%s %s: weight [%d][%d]: expected %.9g, found %.9g", ops->name, storage_names[s], o, i,
                                     bf16_to_f32(f32_to_bf16(row[i])), y[i * OUT + o]);
                }
            }
            free(scratch);
            free(xb);
            free(y);
            matrix_free(&m);
        }
}

/* NF4 in forms that the fast path does not take: blocks that cross rows, fp16 target. */
static void test_unusual_nf4(void **state) {
    (void)state;
    EACH_VARIANT(ops) {
        struct matrix m;
        matrix_new(&m, STORAGE_NF4, 40, 72, 1, 1); /* 72 is no multiple of the block */
        check_linear(ops, &m, 3, 0, 40, PRECISION_BF16);
        check_linear(ops, &m, 9, 0, 40, PRECISION_BF16);
        matrix_free(&m);
        matrix_new(&m, STORAGE_NF4, 40, 256, 1, 0);
        m.w.rounding = DTYPE_F16;
        check_linear(ops, &m, 2, 0, 40, PRECISION_BF16);
        m.w.rounding = DTYPE_BF16;
        m.w.block_size = 4096; /* bigger than a row */
        check_linear(ops, &m, 2, 0, 40, PRECISION_BF16);
        check_linear(ops, &m, 2, 0, 40, PRECISION_F32);
        m.w.block_size = 128;
        check_linear(ops, &m, 7, 0, 40, PRECISION_BF16);
        m.w.block_size = 32;
        m.w.out = 20; /* absmax was made for 64 */
        check_linear(ops, &m, 7, 0, 20, PRECISION_BF16);
        matrix_free(&m);
    }
}

/* ---- FP8 with quantised activations, against our own torch twin (tools/make_fp8_twin.py) ------------------------------------ */

static uint32_t twin_noise(uint32_t i, uint32_t seed) {
    uint32_t v = i * 2654435761u + seed * 40503u;
    v ^= v >> 15;
    v *= 0x2c1b3c6du;
    return v ^ v >> 12;
}

static uint8_t e4m3_byte(float f) {
    for (int i = 0; i < 256; i++)
        if ((i & 0x7f) != 0x7f && f32_to_bits(e4m3_to_f32((uint8_t)i)) == f32_to_bits(f)) return (uint8_t)i;
    return 0x7f;
}

static void test_fp8_twin(void **state) {
    (void)state;
    struct buf text = {0};
    struct err err = {0};
    if (file_read("tests/golden/ops/fp8_twin.txt", 1 << 20, &text, &err)) fail_msg("%s", err.message);
    char *at = strchr(text.data, '\n') + 1;
    int cases = 0, rows, n, out, used;
    unsigned seed, q_crc, s_crc;
    while (sscanf(at, "%d %d %d %u %x %x%n", &rows, &n, &out, &seed, &q_crc, &s_crc, &used) == 6) {
        at += used;
        int groups = (n + 127) / 128, blocks = (out + 127) / 128;
        float *want = malloc((size_t)(rows * out) * 4), *scale = malloc((size_t)(blocks * groups) * 4), *y = malloc((size_t)(rows * out) * 4);
        for (int i = 0; i < rows * out; i++) want[i] = strtof(at, &at);
        uint16_t *x = malloc((size_t)(rows * n) * 2), *q = malloc((size_t)(rows * n) * 2);
        uint8_t *w = malloc((size_t)(out * n)), *bytes = malloc((size_t)(rows * n));
        for (int i = 0; i < rows * n; i++) {
            float f = ((float)(twin_noise((uint32_t)i, seed) & 0xffff) - 32768) / 8192 * (i % 37 ? 1.0f : 50.0f);
            x[i] = f32_to_bf16(n > 128 && i < 128 ? 0 : f);
        }
        for (int i = 0; i < out * n; i++) {
            w[i] = (uint8_t)twin_noise((uint32_t)i, seed + 100);
            if ((w[i] & 0x7f) == 0x7f) w[i] ^= 1;
        }
        for (int i = 0; i < blocks * groups; i++) scale[i] = (float)(twin_noise((uint32_t)i, seed + 200) % 1000 + 1) / 65536;
        struct linear_weight m = {.storage = STORAGE_FP8_BLOCK, .out = out, .in = n, .data = w, .scale = scale, .rounding = DTYPE_F32};
        float *factors = malloc((size_t)(rows * groups) * 4);
        void *scratch = cache_lines(cpu_ops_scratch_bytes(n, 128, 0));
        EACH_VARIANT(ops) {
            for (int r = 0; r < rows; r++) ops->quantise_e4m3(q + r * n, factors + r * groups, x + r * n, n);
            for (int i = 0; i < rows * n; i++) bytes[i] = e4m3_byte(bf16_to_f32(q[i]));
            assert_int_equal(crc32(0, bytes, (uInt)(rows * n)), q_crc);
            assert_int_equal(crc32(0, (void *)factors, (uInt)(rows * groups * 4)), s_crc);
            ops->linear(y, out, factors, q, n, rows, &m, 0, out, PRECISION_FP8_E4M3, scratch);
            double most = 0, worst = 0;
            for (int i = 0; i < rows * out; i++) {
                most = fmax(most, fabs((double)want[i]));
                worst = fmax(worst, fabs((double)y[i] - want[i]));
            }
            if (!(worst <= 2e-6 * most)) fail_msg("%s: case %d: error %g of %g", ops->name, cases, worst, most);
        }
        free(want), free(scale), free(y), free(x), free(q), free(w), free(bytes), free(factors), free(scratch);
        cases++;
    }
    buf_free(&text);
    assert_int_equal(cases, 5);
}

/* ---- element by element -------------------------------------------------------------------------------------------------- */

static const float special[] = {0.0f, -0.0f, 1.0f, -1.0f, 3.3895314e38f, -3.4e38f, 1e-40f, -1e-45f, 88.0f, -88.0f, 104.0f, -104.0f, 1e4f, -1e4f, 3.0f, -3.0f};

static float sample(int i) {
    int specials = (int)(sizeof special / sizeof *special);
    return i < specials ? special[i] : random_float() * (i % 3 ? 4.0f : 20.0f);
}

static void test_round_bf16(void **state) {
    (void)state;
    EACH_VARIANT(ops) {
        enum { N = 5000 };
        float *x = malloc(N * 4);
        uint16_t *y = malloc(N * 2), *want = malloc(N * 2);
        for (int i = 0; i < N; i++) x[i] = bits_to_f32(random_bits()); /* every kind of float */
        for (int n = N - 20; n <= N; n++) {
            memset(y, 0xee, N * 2);
            memset(want, 0xee, N * 2);
            ops->round_bf16(y, x, n);
            for (int i = 0; i < n; i++) want[i] = f32_to_bf16(x[i]);
            assert_memory_equal(y, want, N * 2);
        }
        free(x);
        free(y);
        free(want);
    }
}

static void test_quantise_e4m3(void **state) {
    (void)state;
    for (int i = 0; i < 256; i++) /* every e4m3 value is its own rounding */
        if ((i & 0x7f) != 0x7f) assert_true(e4m3_round(e4m3_to_f32((uint8_t)i)) == e4m3_to_f32((uint8_t)i));
    assert_true(e4m3_round(1000) == 448 && e4m3_round(-1000) == -448 && e4m3_round(464) == 448 && e4m3_round(0x1p-10f) == 0);
    assert_true(e4m3_round(17) == 16 && e4m3_round(19) == 20 && e4m3_round(3 * 0x1p-10f) == 0x1p-8f); /* ties to even */
    EACH_VARIANT(ops)
        for (int n = 1; n < 700; n += 37) {
            uint16_t *x = malloc((size_t)n * 2), *q = malloc((size_t)n * 2), *want = malloc((size_t)n * 2);
            float f[8] = {0}, fw[8] = {0};
            for (int i = 0; i < n; i++) x[i] = f32_to_bf16(random_float() * (i % 5 ? 1.0f : 30.0f));
            if (n > 300) memset(x + 128, 0, 128 * 2); /* a group of zeros */
            ops->quantise_e4m3(q, f, x, n);
            cpu_ops_c.quantise_e4m3(want, fw, x, n);
            assert_memory_equal(q, want, (size_t)n * 2);
            assert_memory_equal(f, fw, sizeof f);
            free(x);
            free(q);
            free(want);
        }
}

/* max |a - b| / (|b| + floor) */
static double distance(const float *a, const float *b, int n, double floor) {
    double worst = 0;
    for (int i = 0; i < n; i++) {
        if (a[i] == b[i] || (isnan(a[i]) && isnan(b[i]))) continue;
        double e = fabs((double)a[i] - b[i]) / (fabs((double)b[i]) + floor);
        if (!(e <= worst)) worst = e;
    }
    return worst;
}

static void test_elementwise(void **state) {
    (void)state;
    EACH_VARIANT(ops) {
        static const int sizes[] = {1, 7, 8, 15, 16, 17, 72, 200, 1024, 4304, 100003};
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            int n = sizes[k];
            float *a = malloc((size_t)(n + 1) * 4), *b = malloc((size_t)(n + 1) * 4), *y = malloc((size_t)(n + 1) * 4), *want = malloc((size_t)(n + 1) * 4);
            float *w = malloc((size_t)n * 4);
            double e;
#define COMPARE(what, limit, floor)                                                                                        \
    assert_true(y[n] == poison);                                                                                           \
    e = distance(y, want, n, floor);                                                                                       \
    if (!(e <= (limit))) fail_msg("%s " what " of %d: error %g above %g", ops->name, n, e, (double)(limit))
            for (int i = 0; i < n; i++) a[i] = sample(i), b[i] = random_float(), w[i] = random_float();
            y[n] = want[n] = poison;
            ops->silu_mul(y, a, b, n);
            cpu_ops_c.silu_mul(want, a, b, n);
            COMPARE("silu_mul", 3e-7, 1e-36);
            memcpy(y, a, (size_t)n * 4), memcpy(want, a, (size_t)n * 4);
            ops->gelu_tanh(y, n);
            cpu_ops_c.gelu_tanh(want, n);
            COMPARE("gelu_tanh", 2e-7, 1.0);
            memcpy(y, a, (size_t)n * 4), memcpy(want, a, (size_t)n * 4);
            ops->gelu_erf(y, n);
            cpu_ops_c.gelu_erf(want, n);
            COMPARE("gelu_erf", 2e-7, 1.0);
            for (int i = 0; i < n; i++) a[i] = random_float() * 3 + 0.5f;
            ops->rms_norm(y, a, w, n, 1e-6f);
            cpu_ops_c.rms_norm(want, a, w, n, 1e-6f);
            COMPARE("rms_norm", 2e-6, 1e-30);
            ops->layer_norm(y, a, w, b, n, 1e-6f);
            cpu_ops_c.layer_norm(want, a, w, b, n, 1e-6f);
            COMPARE("layer_norm", n == 1 ? 1 : 4e-6, 1.0);
            if (n % 2 == 0) {
                memcpy(y, a, (size_t)n * 4), memcpy(want, a, (size_t)n * 4);
                ops->rotate(y, b, w, n);
                cpu_ops_c.rotate(want, b, w, n);
                COMPARE("rotate", 0, 1e-30);
            }
            free(a);
            free(b);
            free(w);
            free(y);
            free(want);
        }
        float x[4] = {NAN, 1, 2, 3}, up[4] = {1, 1, 1, 1}, y[4];
        ops->silu_mul(y, x, up, 4);
        assert_true(isnan(y[0]) && !isnan(y[1]));
    }
}

/* ---- attention ----------------------------------------------------------------------------------------------------------- */

static void check_attend(const struct cpu_ops *ops, int q_heads, int kv_heads, int head_dim, int64_t first, int rows, enum precision p) {
    int64_t length = first + rows - 1, page_count = (length + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS, per = (int64_t)kv_heads * KV_PAGE_TOKENS * head_dim;
    size_t size = p == PRECISION_F32 ? 4 : 2;
    void **pages = calloc((size_t)page_count, sizeof *pages);
    struct kv_view kv = {.pages = pages, .k_offset = per, .v_offset = 0, .kv_heads = kv_heads, .head_dim = head_dim, .precision = p};
    for (int64_t g = 0; g < page_count; g++) {
        pages[g] = malloc((size_t)(2 * per) * size);
        for (int64_t i = 0; i < 2 * per; i++) {
            int64_t position = g * KV_PAGE_TOKENS + i / head_dim % KV_PAGE_TOKENS;
            float f = position < length ? random_float() * (i < per ? 1.0f : 3.0f) : NAN; /* beyond the end: must not be read into a result */
            if (size == 4) ((float *)pages[g])[i] = f;
            else ((uint16_t *)pages[g])[i] = f32_to_bf16(f);
        }
    }
    int64_t n = (int64_t)q_heads * head_dim, ld = n + 8;
    float *q = malloc((size_t)(rows * ld) * 4), *y = malloc((size_t)(rows * ld) * 4), *one = malloc((size_t)(rows * ld) * 4), *want = malloc((size_t)n * 4);
    for (int64_t i = 0; i < rows * ld; i++) q[i] = random_float() * 2, y[i] = one[i] = poison;
    void *scratch = cache_lines(cpu_ops_scratch_bytes(64, head_dim, 0));
    memset(scratch, 0xff, cpu_ops_scratch_bytes(64, head_dim, 0));
    ops->attend_rows(y, ld, q, ld, rows, q_heads, &kv, first, 0, kv_heads, scratch);
    double bound = p == PRECISION_F32 ? 3e-6 : 4e-3; /* the fastest variant rounds probabilities to bf16 */
    for (int r = 0; r < rows; r++) {
        for (int h = kv_heads; h-- > 0;) /* head by head, backwards */
            ops->attend(one + r * ld, q + r * ld, q_heads, &kv, first + r, h, h + 1, scratch);
        cpu_ops_c.attend(want, q + r * ld, q_heads, &kv, first + r, 0, kv_heads, scratch);
        double e = distance(y + r * ld, want, (int)n, 1.0);
        if (!(e <= bound))
            fail_msg("%s attend %d/%d heads of %d, length %d, row %d of %d, precision %d: error %g above %g", ops->name, q_heads, kv_heads, head_dim,
                     (int)first, r, rows, p, e, bound);
    }
    if (memcmp(y, one, (size_t)(rows * ld) * 4))
        fail_msg("%s attend: %d rows at once and one by one differ (%d/%d heads of %d, length %d, precision %d)", ops->name, rows, q_heads, kv_heads,
                 head_dim, (int)first, p);
    for (int64_t g = 0; g < page_count; g++) free(pages[g]);
    free(pages);
    free(q);
    free(y);
    free(one);
    free(want);
    free(scratch);
}

static void test_attend(void **state) {
    (void)state;
    static const int64_t lengths[] = {1, 2, 31, 32, 33, 64, 100, 333};
    EACH_VARIANT(ops)
        for (int p = PRECISION_F32; p <= PRECISION_BF16; p++) {
            for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
                check_attend(ops, 4, 2, 128, lengths[i], 1, (enum precision)p);
                check_attend(ops, 4, 1, 64, lengths[i], 5, (enum precision)p);
                check_attend(ops, 3, 3, 24, lengths[i], 3, (enum precision)p);
                check_attend(ops, 6, 2, 72, lengths[i], 35, (enum precision)p);
            }
            check_attend(ops, 8, 2, 128, 1, 70, (enum precision)p);
            check_attend(ops, 2, 2, 8, 70, 3, (enum precision)p);
        }
}

static void test_attend_full(void **state) {
    (void)state;
    static const int sizes[] = {1, 4, 31, 64, 100, 280};
    EACH_VARIANT(ops)
        for (int p = PRECISION_F32; p <= PRECISION_BF16; p++)
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
                for (int k = 0; k < 4; k++) {
                    int n = sizes[i], head_dim = (int[]){64, 72, 16, 40}[k], heads = 3, r0 = n / 3, r1 = n;
                    int64_t ld = (int64_t)heads * head_dim * 3 + 4, ldo = (int64_t)heads * head_dim + 8;
                    float *qkv = malloc((size_t)(n * ld) * 4), *y = malloc((size_t)(n * ldo) * 4), *want = malloc((size_t)(n * ldo) * 4), *part = malloc((size_t)(n * ldo) * 4);
                    for (int64_t j = 0; j < n * ld; j++) qkv[j] = random_float() * 2;
                    for (int64_t j = 0; j < n * ldo; j++) y[j] = want[j] = part[j] = poison;
                    const float *q = qkv, *key = qkv + heads * head_dim, *value = key + heads * head_dim;
                    size_t bytes = cpu_ops_scratch_bytes(64, head_dim, n);
                    void *scratch = cache_lines(bytes);
                    memset(scratch, 0xff, bytes);
                    ops->attend_full(y, ldo, q, key, value, ld, n, head_dim, 1, r0, r1, (enum precision)p, scratch);
                    cpu_ops_c.attend_full(want, ldo, q, key, value, ld, n, head_dim, 1, r0, r1, (enum precision)p, scratch);
                    double e = distance(y, want, (int)(n * ldo), 1.0), bound = p == PRECISION_F32 ? 3e-6 : 4e-3;
                    if (!(e <= bound)) fail_msg("%s attend_full %d x %d, precision %d: error %g above %g", ops->name, n, head_dim, p, e, bound);
                    int cut = (r0 + r1) / 2;
                    ops->attend_full(part, ldo, q, key, value, ld, n, head_dim, 1, cut, r1, (enum precision)p, scratch);
                    ops->attend_full(part, ldo, q, key, value, ld, n, head_dim, 1, r0, cut, (enum precision)p, scratch);
                    assert_memory_equal(y, part, (size_t)(n * ldo) * 4);
                    free(qkv);
                    free(y);
                    free(want);
                    free(part);
                    free(scratch);
                }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_select),      cmocka_unit_test(test_linear),        cmocka_unit_test(test_linear_wide),
        cmocka_unit_test(test_linear_blocks),
        cmocka_unit_test(test_empty), cmocka_unit_test(test_weights_exact), cmocka_unit_test(test_unusual_nf4), cmocka_unit_test(test_round_bf16),
        cmocka_unit_test(test_quantise_e4m3), cmocka_unit_test(test_elementwise), cmocka_unit_test(test_attend),
        cmocka_unit_test(test_attend_full), cmocka_unit_test(test_fp8_twin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
