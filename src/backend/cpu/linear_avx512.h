/* Matrix products with bf16 activations for AVX-512, compiled once with vdpbf16ps and once without it (ops_avx512bf16.c and
 * ops_avx512.c define DOT and ROUND2 and include this file).
 *
 * Every output is one accumulator of 16 lanes: DOT adds 32 products at a time to it, in one order over `in`, and the lanes are
 * summed by one tree at the end. Whatever the number of rows, an element of y sees exactly these operations.
 *
 * The order over `in` is the one in which a storage kind unpacks into registers most cheaply; the activations are permuted to it:
 *   bf16, f16, f32  as stored, 32 elements a vector
 *   FP8_BLOCK  64 bytes -> table look-up of the high and the low byte of bf16(e4m3 * factor) (one table of 128 entries per block
 *              of 128 x 128 weights, vpermi2b), sign put back, interleaved: 2 vectors, 5 operations
 *   NF4        64 bytes = 128 codes = 2 blocks -> both blocks' 16 rounded values are one table of 32 (vpermw), the four nibbles
 *              of a word index it: 4 vectors, 12 operations
 * so that a weight is exactly fp32 product, rounded once to bf16, in every path.
 *
 * Up to 4 rows (decoding) stream the matrix as stored, 4 outputs at once. More rows (prefill) expand a block of 128 outputs once into
 * the scratch, then multiply tiles of 6 rows x 4 outputs = 24 accumulators over the whole of `in`: 10 loads for 24 DOT. The block of a
 * wide matrix (3 MB at 12288) is streamed from the L3 cache, which is fast enough; smaller blocks or cutting `in` so that it stays in
 * L2 was slower (bench/results/cpu-ops.md), because the rows are then packed more often or accumulators rest in memory. */

enum { TILE = 6, PANEL = 4, BLOCK = 128 };

enum order { ORDER_PLAIN, ORDER_FP8, ORDER_NF4 };

struct task {
    const struct linear_weight *w;
    enum order order;
    int64_t in, vectors; /* vectors of 32 elements, zero-padded to a whole step of the order */
    bool by_rows;        /* unusual NF4: expanded by the checkpoint room */
    uint16_t *block;     /* scratch: (BLOCK / 4, vectors, 4, 32) */
    uint16_t *rows;      /* scratch: (vectors, rows of a tile, 32) */
    uint8_t *tables;     /* scratch: FP8, (in / 128, 256) */
    float *absmax;       /* scratch: NF4, (4 * in / 64 + 65, rounded up); by_rows: (in) */
    int64_t tables_row;  /* block row that the tables are for, -1: none */
    uint8_t *planes;     /* scratch: nested NF4, (4, 256) */
    bool planes_made;
};

static inline __mmask32 mask32(int64_t left) { return left >= 32 ? ~0u : left <= 0 ? 0 : (1u << left) - 1; }
static inline __m512i load32(const uint16_t *p, int64_t left) { return _mm512_maskz_loadu_epi16(mask32(left), p); }

/* Four accumulators to their four sums: lanes i, i+2 then i, i+1 within 128 bits, then the quarters. */
static inline __m128 sum4(__m512 a, __m512 b, __m512 c, __m512 d) {
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512 lo = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
    __m512 hi = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
    __m512 all = _mm512_add_ps(lo, hi);
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

static inline void store_sums(float *y, const __m512 *s, const float *bias, int count) {
    __m128 v = sum4(s[0], s[1], s[2], s[3]);
    __mmask8 m = (__mmask8)((1 << count) - 1);
    if (bias) v = _mm_add_ps(v, _mm_maskz_loadu_ps(m, bias));
    _mm_mask_storeu_ps(y, m, v);
}

/* ---- activations -------------------------------------------------------------------------------------------------------- */

/* The vectors of a row in the order of the weights, each `step` elements after the one before. */
static void pack_row(uint16_t *to, int64_t step, const uint16_t *x, int64_t in, enum order order, int64_t vectors) {
    if (order == ORDER_PLAIN) {
        for (int64_t v = 0; v < vectors; v++, to += step) _mm512_store_si512(to, load32(x + v * 32, in - v * 32));
    } else if (order == ORDER_FP8) { /* unpacklo / unpackhi of bytes keep 8 elements of every 16 */
        for (int64_t v = 0; v < vectors; v += 2, to += 2 * step) {
            __m512i a = load32(x + v * 32, in - v * 32), b = load32(x + v * 32 + 32, in - v * 32 - 32);
            _mm512_store_si512(to, _mm512_shuffle_i64x2(a, b, 0x88));
            _mm512_store_si512(to + step, _mm512_shuffle_i64x2(a, b, 0xdd));
        }
    } else { /* vector c holds elements 4 j + c of 128 */
        static const uint16_t fourth[32] = {0,  4,  8,  12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60,
                                            0,  4,  8,  12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60};
        __m512i index = _mm512_loadu_si512(fourth), one = _mm512_set1_epi16(1);
        for (int64_t v = 0; v < vectors; v += 4, to += 4 * step) {
            __m512i q[4], at = index;
            for (int i = 0; i < 4; i++) q[i] = load32(x + (v + i) * 32, in - (v + i) * 32);
            for (int c = 0; c < 4; c++, at = _mm512_add_epi16(at, one)) {
                __m512i lo = _mm512_permutex2var_epi16(q[0], at, q[1]), hi = _mm512_permutex2var_epi16(q[2], at, q[3]);
                _mm512_store_si512(to + c * step, _mm512_mask_mov_epi64(lo, 0xf0, hi));
            }
        }
    }
}

/* ---- weights in registers ------------------------------------------------------------------------------------------------ */

/* What unpacking keeps in registers. */
struct constants {
    __m512 map;                           /* NF4: its 16 values */
    __m512i nibbles, second, high, sign;  /* bytes 15; bytes 16 in the upper half; words 0x0100; bytes 0x80 */
};
static inline struct constants constants_new(const struct task *t) {
    return (struct constants){.map = t->order == ORDER_NF4 ? _mm512_loadu_ps(t->w->quant_map) : _mm512_setzero_ps(),
                              .nibbles = _mm512_set1_epi8(15),
                              .second = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi8(16), 1),
                              .high = _mm512_set1_epi16(0x0100),
                              .sign = _mm512_set1_epi8((char)0x80)};
}

/* The high and the low bytes of bf16(e4m3(i) * factor), i = 0..127. */
static void fp8_table_new(uint8_t *to, const float *e4m3, float factor) {
    __m512 f = _mm512_set1_ps(factor);
    for (int i = 0; i < 128; i += 32) {
        __m512i a = ROUND2(_mm512_mul_ps(_mm512_loadu_ps(e4m3 + i), f), _mm512_mul_ps(_mm512_loadu_ps(e4m3 + i + 16), f));
        _mm256_store_si256((__m256i *)(to + i), _mm512_cvtepi16_epi8(_mm512_srli_epi16(a, 8)));
        _mm256_store_si256((__m256i *)(to + 128 + i), _mm512_cvtepi16_epi8(a));
    }
}

/* e4m3 has the exponent bits of fp16 less one: shifted there it is the value times 2^-8, subnormal ones included. */
static void e4m3_values(float value[128]) {
    for (int i = 0; i < 128; i += 16) {
        __m256i code = _mm256_add_epi16(_mm256_set1_epi16((short)i), _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        _mm512_storeu_ps(value + i, _mm512_mul_ps(_mm512_cvtph_ps(_mm256_slli_epi16(code, 7)), _mm512_set1_ps(256)));
    }
    value[127] = e4m3_to_f32(127); /* not a number */
}

/* The tables of block row o / 128, one for every 128 columns. */
static void fp8_tables(struct task *t, int64_t o) {
    if (t->tables_row == o / 128) return;
    t->tables_row = o / 128;
    int64_t columns = (t->in + 127) / 128;
    float value[128];
    e4m3_values(value);
    for (int64_t c = 0; c < columns; c++) fp8_table_new(t->tables + c * 256, value, t->w->scale[o / 128 * columns + c]);
}

struct fp8_table {
    __m512i high0, high1, low0, low1;
};
static inline struct fp8_table fp8_table(const struct task *t, int64_t v) {
    const uint8_t *p = t->tables + v / 4 * 256; /* vectors of 32 columns */
    return (struct fp8_table){_mm512_load_si512(p), _mm512_load_si512(p + 64), _mm512_load_si512(p + 128), _mm512_load_si512(p + 192)};
}
struct two {
    __m512i a, b;
};
static inline __attribute__((always_inline)) struct two fp8_expand(__m512i bytes, struct fp8_table f, __m512i sign) {
    __m512i high = _mm512_permutex2var_epi8(f.high0, bytes, f.high1), low = _mm512_permutex2var_epi8(f.low0, bytes, f.low1);
    high = _mm512_ternarylogic_epi32(high, bytes, sign, 0xf8); /* high | (bytes & 0x80) */
    return (struct two){_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
}
static inline __m512i fp8_load(const struct task *t, int64_t o, int64_t v) {
    int64_t left = t->in - v * 32;
    const uint8_t *p = (const uint8_t *)t->w->data + o * t->in + v * 32;
    return left >= 64 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8((1ull << left) - 1, p);
}

/* The 256 values of nested_map as four planes of bytes, for vpermi2b. Once a task. */
static void nf4_planes(struct task *t) {
    t->planes_made = true;
    for (int i = 0; i < 256; i += 16) {
        __m512i v = _mm512_castps_si512(_mm512_loadu_ps(t->w->nested_map + i));
        for (int b = 0; b < 4; b++) _mm_store_si128((__m128i *)(t->planes + b * 256 + i), _mm512_cvtepi32_epi8(_mm512_srl_epi32(v, _mm_cvtsi32_si128(8 * b))));
    }
}

/* nested_map of 64 codes, as 64 floats in order: per byte two look-ups of 128, then the bytes interleaved. The codes are permuted first,
 * because interleaving stays within 128 bits. */
static inline void nf4_look_up(const struct task *t, __m512 out[4], __m512i codes) {
    const __m512i turn = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i c = _mm512_permutexvar_epi32(turn, codes), plane[4];
    __mmask64 upper = _mm512_movepi8_mask(c);
    for (int b = 0; b < 4; b++) {
        const uint8_t *p = t->planes + b * 256;
        __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(p), c, _mm512_load_si512(p + 64));
        plane[b] = _mm512_mask_mov_epi8(low, upper, _mm512_permutex2var_epi8(_mm512_load_si512(p + 128), c, _mm512_load_si512(p + 192)));
    }
    __m512i a = _mm512_unpacklo_epi8(plane[0], plane[1]), b = _mm512_unpacklo_epi8(plane[2], plane[3]);
    __m512i d = _mm512_unpackhi_epi8(plane[0], plane[1]), e = _mm512_unpackhi_epi8(plane[2], plane[3]);
    out[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(a, b));
    out[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(a, b));
    out[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(d, e));
    out[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(d, e));
}

/* absmax of the 64-element pieces of rows [o, o + count), one row after the other, to t->absmax and after; one more may be read. Nested
 * ones are product then sum, as in the checkpoint room. Block sizes are powers of two (the checkpoint room checks). */
static const float *nf4_absmax(struct task *t, int64_t o, int count) {
    const struct linear_weight *w = t->w;
    int64_t pieces = t->in / 64, first = o * pieces, last = first + count * pieces, start = first & ~(int64_t)63;
    int shift = __builtin_ctz((unsigned)w->block_size) - 6;
    float *to = t->absmax - start; /* indexed by piece of the whole matrix */
    if (w->absmax_f32) {
        for (int64_t k = first; k < last; k++) to[k] = w->absmax_f32[k >> shift];
    } else if (shift || w->nested_block < 64) {
        int group = shift + __builtin_ctz((unsigned)w->nested_block);
        for (int64_t k = first; k < last; k++) {
            float product = w->nested_map[w->absmax_u8[k >> shift]] * w->nested_absmax[k >> group];
            to[k] = product + w->nested_offset;
        }
    } else { /* 64 at a time, of one group each */
        int group = __builtin_ctz((unsigned)w->nested_block);
        if (!t->planes_made) nf4_planes(t);
        __m512 offset = _mm512_set1_ps(w->nested_offset), value[4];
        for (int64_t k = start; k < last; k += 64) {
            __mmask64 m = last - k >= 64 ? ~0ull : (1ull << (last - k)) - 1;
            __m512 factor = _mm512_set1_ps(w->nested_absmax[k >> group]);
            nf4_look_up(t, value, _mm512_maskz_loadu_epi8(m, w->absmax_u8 + k));
            for (int i = 0; i < 4; i++) _mm512_store_ps(to + k + 16 * i, _mm512_add_ps(_mm512_mul_ps(value[i], factor), offset));
        }
    }
    to[last] = 0;
    return to + first;
}
struct four {
    __m512i a, b, c, d;
};
static inline __attribute__((always_inline)) struct four nf4_expand(__m512i codes, const float *absmax, const struct constants c) {
    __m512i table = ROUND2(_mm512_mul_ps(c.map, _mm512_set1_ps(absmax[0])), _mm512_mul_ps(c.map, _mm512_set1_ps(absmax[1])));
    /* (codes & 15) | 16 in the upper half, whose words belong to the second block; vpermw looks at 5 bits of a word */
    __m512i odd = _mm512_ternarylogic_epi32(codes, c.nibbles, c.second, 0xea), even = _mm512_ternarylogic_epi32(_mm512_srli_epi16(codes, 4), c.nibbles, c.second, 0xea);
    /* vpmaddubsw by (0, 1) takes the high byte of a word; a shift would compete with the look-ups for their ports */
    return (struct four){_mm512_permutexvar_epi16(even, table), _mm512_permutexvar_epi16(odd, table),
                         _mm512_permutexvar_epi16(_mm512_maddubs_epi16(even, c.high), table), _mm512_permutexvar_epi16(_mm512_maddubs_epi16(odd, c.high), table)};
}
static inline __m512i nf4_load(const struct task *t, int64_t o, int64_t v) {
    const uint8_t *p = (const uint8_t *)t->w->data + (o * t->in + v * 32) / 2;
    return t->in - v * 32 >= 128 ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi64(0x0f, p);
}

/* ---- decoding: up to 4 rows, 4 outputs at once ----------------------------------------------------------------------------- */

/* How far ahead of the stream lines are asked for, in bytes: short rows at the same column of the 4 outputs after these (or more, to
 * be 8 KiB ahead), long rows 2 KiB on. Into the L2 cache: its queue is longer than that of the L1 cache, which on Zen 4 halves
 * the bandwidth when it is full. */
static int64_t bytes_ahead(int64_t row) {
    int64_t panel = PANEL * row;
    return panel > 65536 ? 2048 : panel >= 8192 ? panel : (8192 + panel - 1) / panel * panel;
}

#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++)

static inline __attribute__((always_inline)) void decode_plain(const struct task *t, float *y, int64_t ldy, const int rows, int64_t o, int count) {
    __m512 s[4][PANEL];
    const uint16_t *w[PANEL], *x = t->rows;
    EACH(r, rows) EACH(i, PANEL) s[r][i] = _mm512_setzero_ps();
    EACH(i, PANEL) w[i] = (const uint16_t *)t->w->data + (o + (i < count ? i : 0)) * t->in;
    int64_t whole = t->in / 32, rest = t->in % 32, ahead = bytes_ahead(t->in * 2);
    for (int64_t v = 0; v < whole; v++, x += 32 * rows)
        EACH(i, PANEL) {
            _mm_prefetch((const char *)(w[i] + v * 32) + ahead, _MM_HINT_T1);
            __m512i m = _mm512_loadu_si512(w[i] + v * 32);
            EACH(r, rows) s[r][i] = DOT(s[r][i], _mm512_load_si512(x + 32 * r), m);
        }
    if (rest)
        EACH(i, PANEL) {
            __m512i m = load32(w[i] + whole * 32, rest);
            EACH(r, rows) s[r][i] = DOT(s[r][i], _mm512_load_si512(x + 32 * r), m);
        }
    EACH(r, rows) store_sums(y + r * ldy + o, s[r], t->w->bias ? t->w->bias + o : NULL, count);
}

/* Two vectors of one output, times every row. */
#define FP8_STEP(bytes)                                                                      \
    do {                                                                                     \
        struct two m = fp8_expand(bytes, f, c.sign);                                         \
        EACH(r, rows) {                                                                      \
            s[r][i] = DOT(s[r][i], _mm512_load_si512(x + 32 * r), m.a);                      \
            s[r][i] = DOT(s[r][i], _mm512_load_si512(x + 32 * (rows + r)), m.b);             \
        }                                                                                    \
    } while (0)

static inline __attribute__((always_inline)) void decode_fp8(const struct task *t, float *y, int64_t ldy, const int rows, int64_t o, int count) {
    __m512 s[4][PANEL];
    const uint8_t *w[PANEL];
    const uint16_t *x = t->rows;
    EACH(r, rows) EACH(i, PANEL) s[r][i] = _mm512_setzero_ps();
    EACH(i, PANEL) w[i] = (const uint8_t *)t->w->data + (o + (i < count ? i : 0)) * t->in;
    int64_t whole = t->in / 128, ahead = bytes_ahead(t->in);
    const struct constants c = constants_new(t);
    for (int64_t g = 0; g < whole; g++) {
        struct fp8_table f = fp8_table(t, g * 4);
        for (int k = 0; k < 128; k += 64, x += 64 * rows)
            EACH(i, PANEL) {
                _mm_prefetch((const char *)w[i] + g * 128 + k + ahead, _MM_HINT_T1);
                FP8_STEP(_mm512_loadu_si512(w[i] + g * 128 + k));
            }
    }
    if (t->in % 128) {
        struct fp8_table f = fp8_table(t, whole * 4);
        for (int64_t v = whole * 4; v < t->vectors; v += 2, x += 64 * rows)
            EACH(i, PANEL) FP8_STEP(fp8_load(t, o + (i < count ? i : 0), v));
    }
    EACH(r, rows) store_sums(y + r * ldy + o, s[r], t->w->bias ? t->w->bias + o : NULL, count);
}

/* Four vectors of one output, times every row. */
#define NF4_STEP(codes, absmax)                                                              \
    do {                                                                                     \
        struct four m = nf4_expand(codes, absmax, c);                                        \
        EACH(r, rows) {                                                                      \
            s[r][i] = DOT(s[r][i], _mm512_load_si512(x + 32 * r), m.a);                      \
            s[r][i] = DOT(s[r][i], _mm512_load_si512(x + 32 * (rows + r)), m.b);             \
            s[r][i] = DOT(s[r][i], _mm512_load_si512(x + 32 * (2 * rows + r)), m.c);         \
            s[r][i] = DOT(s[r][i], _mm512_load_si512(x + 32 * (3 * rows + r)), m.d);         \
        }                                                                                    \
    } while (0)

static inline __attribute__((always_inline)) void decode_nf4(struct task *t, float *y, int64_t ldy, const int rows, int64_t o, int count) {
    const struct constants c = constants_new(t);
    __m512 s[4][PANEL];
    const uint8_t *w[PANEL];
    const float *absmax[PANEL];
    const uint16_t *x = t->rows;
    int64_t whole = t->in / 128, ahead = bytes_ahead(t->in / 2);
    const float *first = nf4_absmax(t, o, count);
    EACH(r, rows) EACH(i, PANEL) s[r][i] = _mm512_setzero_ps();
    EACH(i, PANEL) absmax[i] = first + (i < count ? i : 0) * (t->in / 64);
    EACH(i, PANEL) w[i] = (const uint8_t *)t->w->data + (o + (i < count ? i : 0)) * t->in / 2;
    for (int64_t g = 0; g < whole; g++, x += 128 * rows)
        EACH(i, PANEL) {
            _mm_prefetch((const char *)w[i] + g * 64 + ahead, _MM_HINT_T1);
            NF4_STEP(_mm512_loadu_si512(w[i] + g * 64), absmax[i] + 2 * g);
        }
    if (t->in % 128)
        EACH(i, PANEL) NF4_STEP(_mm512_maskz_loadu_epi64(0x0f, w[i] + whole * 64), absmax[i] + 2 * whole);
    EACH(r, rows) store_sums(y + r * ldy + o, s[r], t->w->bias ? t->w->bias + o : NULL, count);
}

static inline __attribute__((always_inline)) void decode_rows(struct task *t, float *y, int64_t ldy, const int rows, int64_t o0, int64_t o1) {
    for (int64_t o = o0; o < o1;) {
        int64_t end = t->order == ORDER_FP8 && o / 128 * 128 + 128 < o1 ? o / 128 * 128 + 128 : o1;
        if (t->order == ORDER_FP8) fp8_tables(t, o);
        for (; o < end; o += PANEL) {
            int count = end - o < PANEL ? (int)(end - o) : PANEL;
            if (t->order == ORDER_FP8) decode_fp8(t, y, ldy, rows, o, count);
            else if (t->order == ORDER_NF4) decode_nf4(t, y, ldy, rows, o, count);
            else decode_plain(t, y, ldy, rows, o, count);
        }
        o = end;
    }
}

static void decode(struct task *t, float *y, int64_t ldy, const uint16_t *x, int64_t ldx, int rows, int64_t o0, int64_t o1) {
    for (int r = 0; r < rows; r++) pack_row(t->rows + 32 * r, 32 * rows, x + r * ldx, t->in, t->order, t->vectors);
    switch (rows) {
    case 1: decode_rows(t, y, ldy, 1, o0, o1); break;
    case 2: decode_rows(t, y, ldy, 2, o0, o1); break;
    case 3: decode_rows(t, y, ldy, 3, o0, o1); break;
    default: decode_rows(t, y, ldy, 4, o0, o1); break;
    }
}

/* ---- prefill: a block of outputs expanded once, then tiles of 6 rows x 4 outputs ------------------------------------------- */

/* Vectors [v0, v1) of an output that is stored as it is (bf16, f16, f32) or expanded by the checkpoint room, each `step` elements after the one before. */
static void expand_row(struct task *t, uint16_t *to, int64_t step, int64_t row, int64_t v0, int64_t v1) {
    const struct linear_weight *w = t->w;
    const uint16_t *half = (const uint16_t *)w->data + row * t->in;
    if (w->storage == STORAGE_BF16) {
        for (int64_t v = v0; v < v1; v++, to += step) _mm512_store_si512(to, load32(half + v * 32, t->in - v * 32));
        return;
    }
    const float *from = t->absmax;
    if (t->by_rows) linear_weight_rows_f32(w, row, row + 1, t->absmax);
    else if (w->storage == STORAGE_F32) from = (const float *)w->data + row * t->in;
    for (int64_t v = v0; v < v1; v++, to += step) {
        int64_t e = v * 32;
        __mmask32 m = mask32(t->in - e);
        __m512 a, b;
        if (w->storage == STORAGE_F16) {
            __m512i h = _mm512_maskz_loadu_epi16(m, half + e);
            a = _mm512_cvtph_ps(_mm512_castsi512_si256(h));
            b = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1));
        } else {
            a = _mm512_maskz_loadu_ps((__mmask16)m, from + e);
            b = _mm512_maskz_loadu_ps((__mmask16)(m >> 16), from + e + 16);
        }
        _mm512_store_si512(to, ROUND2(a, b));
    }
}

/* Outputs [o, o + count), count <= 4, as (vectors, 4, 32); missing outputs repeat the first. */
static void expand_panel(struct task *t, uint16_t *to, int64_t o, int count) {
    const struct constants c = constants_new(t);
    const float *absmax = t->order == ORDER_NF4 ? nf4_absmax(t, o, count) : NULL;
    for (int i = 0; i < PANEL; i++, to += 32) {
        int64_t row = o + (i < count ? i : 0);
        uint16_t *at = to;
        if (t->order == ORDER_FP8) {
            fp8_tables(t, row);
            for (int64_t v = 0; v < t->vectors; v += 2, at += 2 * PANEL * 32) {
                struct two m = fp8_expand(fp8_load(t, row, v), fp8_table(t, v), c.sign);
                _mm512_store_si512(at, m.a);
                _mm512_store_si512(at + PANEL * 32, m.b);
            }
        } else if (t->order == ORDER_NF4) {
            const float *of_row = absmax + (row - o) * (t->in / 64);
            for (int64_t v = 0; v < t->vectors; v += 4, at += 4 * PANEL * 32) {
                struct four m = nf4_expand(nf4_load(t, row, v), of_row + v / 2, c);
                _mm512_store_si512(at, m.a);
                _mm512_store_si512(at + PANEL * 32, m.b);
                _mm512_store_si512(at + 2 * PANEL * 32, m.c);
                _mm512_store_si512(at + 3 * PANEL * 32, m.d);
            }
        } else {
            expand_row(t, at, PANEL * 32, row, 0, t->vectors);
        }
    }
}

static inline __attribute__((always_inline)) void tile(const uint16_t *x, const uint16_t *w, int64_t vectors, const int rows, float *y, int64_t ldy,
                                                       const float *bias, int count) {
    __m512 s[TILE][PANEL];
    EACH(r, rows) EACH(i, PANEL) s[r][i] = _mm512_setzero_ps();
    for (int64_t v = 0; v < vectors; v++, x += 32 * rows, w += 32 * PANEL) {
        __m512i m[PANEL];
        EACH(i, PANEL) m[i] = _mm512_load_si512(w + 32 * i);
        EACH(r, rows) {
            __m512i a = _mm512_load_si512(x + 32 * r);
            EACH(i, PANEL) s[r][i] = DOT(s[r][i], a, m[i]);
        }
    }
    EACH(r, rows) store_sums(y + r * ldy, s[r], bias, count);
}

/* One tile's rows against the block of outputs [o0, o1). */
static inline __attribute__((always_inline)) void multiply_rows(struct task *t, float *y, int64_t ldy, const uint16_t *x, int64_t ldx,
                                                                const int rows, int64_t o0, int64_t o1) {
    for (int r = 0; r < rows; r++) pack_row(t->rows + 32 * r, 32 * rows, x + r * ldx, t->in, t->order, t->vectors);
    const uint16_t *panel = t->block;
    for (int64_t o = o0; o < o1; o += PANEL, panel += t->vectors * PANEL * 32)
        tile(t->rows, panel, t->vectors, rows, y + o, ldy, t->w->bias ? t->w->bias + o : NULL, o1 - o < PANEL ? (int)(o1 - o) : PANEL);
}

static void prefill(struct task *t, float *y, int64_t ldy, const uint16_t *x, int64_t ldx, int rows, int64_t o0, int64_t o1) {
    for (int64_t b = o0; b < o1; b += BLOCK) {
        int64_t end = b + BLOCK < o1 ? b + BLOCK : o1;
        for (int64_t o = b; o < end; o += PANEL) expand_panel(t, t->block + (o - b) * t->vectors * 32, o, end - o < PANEL ? (int)(end - o) : PANEL);
        for (int r = 0; r < rows; r += TILE) {
            float *to = y + r * ldy;
            const uint16_t *from = x + r * ldx;
            switch (rows - r) {
            case 1: multiply_rows(t, to, ldy, from, ldx, 1, b, end); break;
            case 2: multiply_rows(t, to, ldy, from, ldx, 2, b, end); break;
            case 3: multiply_rows(t, to, ldy, from, ldx, 3, b, end); break;
            case 4: multiply_rows(t, to, ldy, from, ldx, 4, b, end); break;
            case 5: multiply_rows(t, to, ldy, from, ldx, 5, b, end); break;
            default: multiply_rows(t, to, ldy, from, ldx, 6, b, end); break;
            }
        }
    }
}

/* The scratch, cut up: everything starts on a cache line. */
static void task_new(struct task *t, const struct linear_weight *w, void *scratch) {
    *t = (struct task){.w = w, .in = w->in, .tables_row = -1};
    bool nf4 = w->storage == STORAGE_NF4 && w->in % 64 == 0 && w->block_size % 64 == 0 && w->rounding == DTYPE_BF16;
    t->order = w->storage == STORAGE_FP8_BLOCK ? ORDER_FP8 : nf4 ? ORDER_NF4 : ORDER_PLAIN;
    t->by_rows = w->storage == STORAGE_NF4 && !nf4;
    int64_t unit = nf4 ? 128 : t->order == ORDER_FP8 ? 64 : 32;
    t->vectors = (w->in + unit - 1) / unit * (unit / 32);
    uint8_t *at = scratch;
    t->tables = at;
    at += (w->in + 127) / 128 * 256;
    t->planes = at;
    at += 4 * 256;
    t->absmax = (float *)at;
    at += (w->in * 4 + 63) / 64 * 64 + 1024;
    t->rows = (uint16_t *)at;
    at += t->vectors * TILE * 64;
    t->block = (uint16_t *)at;
}

/* Unused where linear_amx.h takes its place. */
__attribute__((unused)) static void linear_bf16(float *y, int64_t ldy, const uint16_t *x, int64_t ldx, int rows, const struct linear_weight *w, int64_t o0,
                        int64_t o1, void *scratch) {
    if (rows <= 0) return;
    struct task t;
    task_new(&t, w, scratch);
    bool streams = t.order != ORDER_PLAIN || w->storage == STORAGE_BF16;
    if (rows <= 4 && streams) decode(&t, y, ldy, x, ldx, rows, o0, o1);
    else prefill(&t, y, ldy, x, ldx, rows, o0, o1);
}

/* ---- FP8 weights times quantised activations ------------------------------------------------------------------------------- */

/* Up to 4 rows times 4 outputs: per 128 columns the dot of the e4m3 values in 16 lanes, times the row's factor, times the weights'
 * factor, added to the sum of the lane (facts §2.3; the lanes are summed last). */
static inline __attribute__((always_inline)) void multiply_e4m3(const struct task *t, float *y, int64_t ldy, const float *factors, const int rows,
                                                                int64_t o, int count, struct fp8_table f) {
    const struct constants c = constants_new(t);
    __m512 sum[4][PANEL];
    EACH(r, rows) EACH(i, PANEL) sum[r][i] = _mm512_setzero_ps();
    int64_t groups = (t->in + 127) / 128, ahead = bytes_ahead(t->in);
    const uint16_t *x = t->rows;
    for (int64_t g = 0; g < groups; g++) {
        __m512 s[4][PANEL];
        EACH(r, rows) EACH(i, PANEL) s[r][i] = _mm512_setzero_ps();
        int64_t end = g * 4 + 4 < t->vectors ? g * 4 + 4 : t->vectors;
        for (int64_t v = g * 4; v < end; v += 2, x += 64 * rows)
            EACH(i, PANEL) {
                int64_t row = o + (i < count ? i : 0);
                _mm_prefetch((const char *)t->w->data + row * t->in + v * 32 + ahead, _MM_HINT_T1);
                FP8_STEP(fp8_load(t, row, v));
            }
        EACH(i, PANEL) {
            __m512 scale = _mm512_set1_ps(t->w->scale[(o + (i < count ? i : 0)) / 128 * groups + g]);
            EACH(r, rows) sum[r][i] = _mm512_fmadd_ps(_mm512_mul_ps(s[r][i], _mm512_set1_ps(factors[r * groups + g])), scale, sum[r][i]);
        }
    }
    EACH(r, rows) store_sums(y + r * ldy + o, sum[r], t->w->bias ? t->w->bias + o : NULL, count);
}

static void linear_e4m3(float *y, int64_t ldy, const float *factors, const uint16_t *q, int64_t ldx, int rows, const struct linear_weight *w,
                        int64_t o0, int64_t o1, void *scratch) {
    struct task t;
    task_new(&t, w, scratch);
    float value[128];
    e4m3_values(value);
    fp8_table_new(t.tables, value, 1);
    struct fp8_table f = fp8_table(&t, 0);
    for (int64_t b = o0; b < o1; b += BLOCK) {
        int64_t end = b + BLOCK < o1 ? b + BLOCK : o1;
        for (int r = 0; r < rows; r += 4) {
            int n = rows - r < 4 ? rows - r : 4;
            const float *fr = factors + r * ((w->in + 127) / 128);
            float *to = y + r * ldy;
            for (int k = 0; k < n; k++) pack_row(t.rows + 32 * k, 32 * n, q + (r + k) * ldx, t.in, ORDER_FP8, t.vectors);
            for (int64_t o = b; o < end; o += PANEL) {
                int count = end - o < PANEL ? (int)(end - o) : PANEL;
                if (n == 4) multiply_e4m3(&t, to, ldy, fr, 4, o, count, f);
                else if (n == 3) multiply_e4m3(&t, to, ldy, fr, 3, o, count, f);
                else if (n == 2) multiply_e4m3(&t, to, ldy, fr, 2, o, count, f);
                else multiply_e4m3(&t, to, ldy, fr, 1, o, count, f);
            }
        }
    }
}
