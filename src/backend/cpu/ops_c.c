/* The reference of every CPU operation in plain C: sums in double, libm for exp and tanh, no blocking. It is the yardstick of
 * the tests for every fast variant and runs where nothing better is supported. */
#include <math.h>

#include "backend/cpu/number.h"
#include "backend/cpu/ops.h"

/* FP8_BLOCK weights times quantised activations (facts §2.3): per 128 columns the dot of the e4m3 values, times the row's factor,
 * times the weight's factor. */
static void linear_e4m3(float *y, int64_t ldy, const float *factors, const uint16_t *q, int64_t ldx, int rows,
                        const struct linear_weight *w, int64_t o0, int64_t o1) {
    const uint8_t *data = w->data;
    int64_t groups = (w->in + 127) / 128;
    for (int64_t o = o0; o < o1; o++)
        for (int r = 0; r < rows; r++) {
            double sum = 0;
            for (int64_t g = 0; g < groups; g++) {
                double dot = 0;
                int64_t end = g * 128 + 128 < w->in ? g * 128 + 128 : w->in;
                for (int64_t i = g * 128; i < end; i++)
                    dot += (double)bf16_to_f32(q[r * ldx + i]) * e4m3_to_f32(data[o * w->in + i]);
                sum += dot * factors[r * groups + g] * w->scale[o / 128 * groups + g];
            }
            y[r * ldy + o] = (float)(sum + (w->bias ? w->bias[o] : 0));
        }
}

static void linear(float *y, int64_t ldy, const float *x, const uint16_t *xb, int64_t ldx, int rows, const struct linear_weight *w,
                   int64_t o0, int64_t o1, enum precision precision, void *scratch) {
    if (precision == PRECISION_FP8_E4M3) {
        linear_e4m3(y, ldy, x, xb, ldx, rows, w, o0, o1);
        return;
    }
    float *row = scratch; /* (in) */
    for (int64_t o = o0; o < o1; o++) {
        linear_weight_rows_f32(w, o, o + 1, row);
        if (precision == PRECISION_BF16)
            for (int64_t i = 0; i < w->in; i++) row[i] = bf16_to_f32(f32_to_bf16(row[i]));
        for (int r = 0; r < rows; r++) {
            double sum = 0;
            if (precision == PRECISION_BF16)
                for (int64_t i = 0; i < w->in; i++) sum += (double)bf16_to_f32(xb[r * ldx + i]) * row[i];
            else
                for (int64_t i = 0; i < w->in; i++) sum += (double)x[r * ldx + i] * row[i];
            y[r * ldy + o] = (float)(sum + (w->bias ? w->bias[o] : 0));
        }
    }
}

static void round_bf16(uint16_t *dst, const float *src, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = f32_to_bf16(src[i]);
}

static void quantise_e4m3(uint16_t *q, float *factors, const uint16_t *xb, int64_t n) {
    for (int64_t g = 0; g * 128 < n; g++) {
        int64_t end = g * 128 + 128 < n ? g * 128 + 128 : n;
        float most = 1e-10f;
        for (int64_t i = g * 128; i < end; i++) most = fmaxf(most, fabsf(bf16_to_f32(xb[i])));
        float factor = most / 448.0f;
        for (int64_t i = g * 128; i < end; i++) q[i] = f32_to_bf16(e4m3_round(bf16_to_f32(xb[i]) / factor));
        factors[g] = factor;
    }
}

static void rms_norm(float *y, const float *x, const float *w, int n, float eps) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * x[i];
    float factor = (float)(1.0 / sqrt(sum / n + eps));
    for (int i = 0; i < n; i++) y[i] = x[i] * factor * w[i];
}

static void layer_norm(float *y, const float *x, const float *w, const float *b, int n, float eps) {
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    double mean = sum / n;
    for (int i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    double factor = 1.0 / sqrt(squares / n + eps);
    for (int i = 0; i < n; i++) y[i] = (float)((x[i] - mean) * factor) * w[i] + b[i];
}

static void silu_mul(float *y, const float *gate, const float *up, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)(gate[i] / (1.0 + exp(-(double)gate[i]))) * up[i];
}

static void gelu_tanh(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double v = x[i];
        x[i] = (float)(0.5 * v * (1.0 + tanh(0.79788456080286535588 * (v + 0.044715 * v * v * v))));
    }
}

static void gelu_erf(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)(0.5 * (double)x[i] * (1.0 + erf((double)x[i] * 0.70710678118654752440)));
}

static void rotate(float *x, const float *c, const float *s, int head_dim) {
    int half = head_dim / 2;
    for (int j = 0; j < half; j++) {
        float a = x[j], b = x[j + half];
        x[j] = a * c[j] - b * s[j];
        x[j + half] = b * c[j] + a * s[j];
    }
}

static inline double kv_element(const struct kv_view *kv, int64_t offset, int head, int64_t position, int lane) {
    const void *page = kv->pages[position / KV_PAGE_TOKENS];
    int64_t i = offset + ((int64_t)head * KV_PAGE_TOKENS + position % KV_PAGE_TOKENS) * kv->head_dim + lane;
    return kv->precision == PRECISION_F32 ? ((const float *)page)[i] : bf16_to_f32(((const uint16_t *)page)[i]);
}

/* One query head: softmax over all positions with the true maximum, scores computed twice instead of kept. */
static void attend_head(float *out, const float *q, const struct kv_view *kv, int64_t length, int head, double *sum) {
    int n = kv->head_dim;
    double scale = 1.0 / sqrt(n), most = -INFINITY, total = 0;
    for (int d = 0; d < n; d++) sum[d] = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t p = 0; p < length; p++) {
            double score = 0;
            for (int d = 0; d < n; d++) {
                float a = kv->precision == PRECISION_F32 ? q[d] : bf16_to_f32(f32_to_bf16(q[d]));
                score += a * kv_element(kv, kv->k_offset, head, p, d);
            }
            score *= scale;
            if (pass == 0) {
                if (!(score <= most)) most = score;
            } else {
                double e = exp(score - most);
                total += e;
                for (int d = 0; d < n; d++) sum[d] += e * kv_element(kv, kv->v_offset, head, p, d);
            }
        }
    for (int d = 0; d < n; d++) out[d] = (float)(sum[d] / total);
}

static void attend(float *out, const float *q, int q_heads, const struct kv_view *kv, int64_t length, int kv0, int kv1,
                   void *scratch) {
    int group = q_heads / kv->kv_heads;
    for (int h = kv0 * group; h < kv1 * group; h++)
        attend_head(out + (int64_t)h * kv->head_dim, q + (int64_t)h * kv->head_dim, kv, length, h / group, scratch);
}

static void attend_rows(float *out, int64_t ldo, const float *q, int64_t ldq, int rows, int q_heads, const struct kv_view *kv,
                        int64_t length, int kv0, int kv1, void *scratch) {
    for (int r = 0; r < rows; r++) attend(out + r * ldo, q + r * ldq, q_heads, kv, length + r, kv0, kv1, scratch);
}

static void attend_full(float *out, int64_t ldo, const float *q, const float *k, const float *v, int64_t ld, int n, int head_dim,
                        int h, int r0, int r1, enum precision precision, void *scratch) {
    double *score = scratch, *sum = score + n; /* (n), (head_dim) */
    double scale = 1.0 / sqrt(head_dim);
    int64_t at = (int64_t)h * head_dim;
    for (int r = r0; r < r1; r++) {
        double most = -INFINITY, total = 0;
        for (int p = 0; p < n; p++) {
            double s = 0;
            for (int d = 0; d < head_dim; d++) {
                float a = q[r * ld + at + d], b = k[p * ld + at + d];
                if (precision != PRECISION_F32) a = bf16_to_f32(f32_to_bf16(a)), b = bf16_to_f32(f32_to_bf16(b));
                s += (double)a * b;
            }
            score[p] = s * scale;
            if (!(score[p] <= most)) most = score[p];
        }
        for (int d = 0; d < head_dim; d++) sum[d] = 0;
        for (int p = 0; p < n; p++) {
            double e = exp(score[p] - most);
            total += e;
            for (int d = 0; d < head_dim; d++) {
                float b = v[p * ld + at + d];
                sum[d] += e * (precision == PRECISION_F32 ? b : bf16_to_f32(f32_to_bf16(b)));
            }
        }
        for (int d = 0; d < head_dim; d++) out[r * ldo + at + d] = (float)(sum[d] / total);
    }
}

const struct cpu_ops cpu_ops_c = {
    .name = "c",
    .linear = linear,
    .round_bf16 = round_bf16,
    .quantise_e4m3 = quantise_e4m3,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .silu_mul = silu_mul,
    .gelu_tanh = gelu_tanh,
    .gelu_erf = gelu_erf,
    .rotate = rotate,
    .attend = attend,
    .attend_rows = attend_rows,
    .attend_full = attend_full,
};
