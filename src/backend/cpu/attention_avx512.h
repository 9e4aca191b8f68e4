/* Attention over bf16 keys and values for AVX-512, included by ops_avx512.h (DOT and ROUND2 as there).
 *
 * Positions come in blocks of 32 (one KV page). A block is packed once for all queries that look at it:
 *   keys    (head_dim / 2, 32 positions) of pairs of lanes: a broadcast pair of the query times 16 positions at once, so that
 *           scores need no horizontal sums
 *   values  (16 pairs of positions, head_dim) of pairs: a broadcast pair of probabilities times 16 lanes
 * Tiles of up to 6 queries run over a block: 12 accumulators of scores, running maximum and sum (Milakov and Gimelshein's online
 * softmax), probabilities rounded to bf16, then 6 x 4 accumulators of output. A query's result does not depend on the tile: positions
 * beyond its own length get probability 0, and blocks wholly beyond it multiply its state by 1 and add 0.
 * Operations of a query and block at head_dim 128: 256 DOT, about 60 others. */

enum { QUERY_TILE = 6, QUERY_GROUP = 48, BLOCK_PAIRS = KV_PAGE_TOKENS / 2 };

struct attention {
    int head_dim, pairs, vectors; /* pairs of lanes; vectors of 16 lanes */
    float scale;
    uint32_t *keys;   /* scratch: blocks of (pairs, 32) */
    uint32_t *values; /* scratch: blocks of (16, vectors, 16) */
    uint32_t *query;  /* scratch: (QUERY_GROUP, pairs) */
    float *most;      /* scratch: (QUERY_GROUP) running maximum */
    __m512 *total;    /* scratch: (QUERY_GROUP) sums of probabilities by lane */
    __m512 *sum;      /* scratch: (QUERY_GROUP, vectors) */
    uint32_t *probability; /* scratch: (QUERY_TILE, 16) */
    uint16_t *rows;   /* scratch: (32, head_dim) twice: keys and values of a block as bf16 */
};

static void attention_new(struct attention *a, int head_dim, int64_t blocks, void *scratch) {
    *a = (struct attention){.head_dim = head_dim, .pairs = head_dim / 2, .vectors = (head_dim + 15) / 16};
    a->scale = (float)(1.0 / sqrt(head_dim));
    uint8_t *at = scratch;
    a->probability = (uint32_t *)at;
    at += QUERY_TILE * 64;
    a->most = (float *)at;
    at += QUERY_GROUP * 4;
    a->total = (__m512 *)at;
    at += QUERY_GROUP * 64;
    a->sum = (__m512 *)at;
    at += (int64_t)QUERY_GROUP * a->vectors * 64;
    a->query = (uint32_t *)at;
    at += ((int64_t)QUERY_GROUP * a->pairs * 4 + 63) / 64 * 64;
    a->rows = (uint16_t *)at;
    at += ((int64_t)KV_PAGE_TOKENS * head_dim * 2 * 2 + 63) / 64 * 64;
    a->keys = (uint32_t *)at;
    at += blocks * a->pairs * 128;
    a->values = (uint32_t *)at;
}

/* 16 x 16 transpose of 32-bit elements. */
static inline __attribute__((always_inline)) void transpose16(__m512i r[16]) {
    __m512i t[16];
    EACH16(i, 8) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    EACH16(i, 4) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    EACH16(i, 4) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    EACH16(i, 4) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* `count` positions, rows of head_dim bf16 (head_dim is even); the others become zeros whatever is stored there. next_k and next_v
 * are where the block after this one lies: pages are too short and scattered for the hardware to guess them, so each line
 * read asks for its twin there (a block ahead is about a memory latency). */
static inline __attribute__((always_inline)) void pack_some(const struct attention *a, uint32_t *keys, uint32_t *values, const uint16_t *k,
                                                            const uint16_t *v, const uint16_t *next_k, const uint16_t *next_v, int count, const bool all) {
    static const uint16_t interleave[32] = {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39, 8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    int64_t n = a->head_dim;
    for (int p = 0; p < a->pairs; p += 16) {
        int rest = a->pairs - p < 16 ? a->pairs - p : 16;
        __mmask16 m = (__mmask16)((1u << rest) - 1);
        for (int h = 0; h < KV_PAGE_TOKENS; h += 16) {
            __m512i r[16];
            EACH16(j, 16) {
                bool there = all || h + j < count;
                r[j] = _mm512_maskz_loadu_epi32(there ? m : 0, k + (there ? h + j : 0) * n + 2 * p);
                _mm_prefetch((const char *)(next_k + (h + j) * n + 2 * p), _MM_HINT_T1);
            }
            transpose16(r);
            uint32_t *to = keys + p * KV_PAGE_TOKENS + h;
            if (rest == 16) {
                EACH16(i, 16) _mm512_store_si512(to + i * KV_PAGE_TOKENS, r[i]);
            } else {
                EACH16(i, 16) if (i < rest) _mm512_store_si512(to + i * KV_PAGE_TOKENS, r[i]);
            }
        }
    }
    __m512i low = _mm512_loadu_si512(interleave), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int j = 0; j < KV_PAGE_TOKENS; j += 2, values += a->vectors * 16) {
        const uint16_t *even = v + (all || j < count ? j : 0) * n, *odd = v + (all || j + 1 < count ? j + 1 : 0) * n;
        for (int64_t d = 0; d < n; d += 32) {
            __m512i e = load32(even + d, all || j < count ? n - d : 0), o = load32(odd + d, all || j + 1 < count ? n - d : 0);
            _mm_prefetch((const char *)(next_v + j * n + d), _MM_HINT_T1);
            _mm_prefetch((const char *)(next_v + (j + 1) * n + d), _MM_HINT_T1);
            _mm512_store_si512(values + d, _mm512_permutex2var_epi16(e, low, o));
            if (d + 16 < n) _mm512_store_si512(values + d + 16, _mm512_permutex2var_epi16(e, high, o));
        }
    }
}

static void pack_block(const struct attention *a, uint32_t *keys, uint32_t *values, const uint16_t *k, const uint16_t *v, const uint16_t *next_k,
                       const uint16_t *next_v, int count) {
    if (count == KV_PAGE_TOKENS) pack_some(a, keys, values, k, v, next_k, next_v, count, true);
    else pack_some(a, keys, values, k, v, next_k, next_v, count, false);
}

/* Query i of the group starts: fp32 lanes rounded to bf16. */
static void query_start(struct attention *a, int i, const float *q) {
    uint16_t *to = (uint16_t *)(a->query + i * a->pairs);
    for (int d = 0; d < a->head_dim; d += 32) {
        __mmask32 m = mask32(a->head_dim - d);
        __m512 lo = _mm512_maskz_loadu_ps((__mmask16)m, q + d), hi = _mm512_maskz_loadu_ps((__mmask16)(m >> 16), q + d + 16);
        _mm512_mask_storeu_epi16(to + d, m, ROUND2(lo, hi));
    }
    a->most[i] = -INFINITY;
    a->total[i] = _mm512_setzero_ps();
    for (int v = 0; v < a->vectors; v++) a->sum[i * a->vectors + v] = _mm512_setzero_ps();
}

static void query_finish(const struct attention *a, int i, float *out) {
    __m512 total = _mm512_set1_ps(v_sum((vf)a->total[i]));
    for (int d = 0; d < a->head_dim; d += 16)
        _mm512_mask_storeu_ps(out + d, (__mmask16)mask32(a->head_dim - d), _mm512_div_ps(a->sum[i * a->vectors + d / 16], total));
}

/* `n` vectors of output of queries [at, at + queries): keep * sum + probabilities * values. */
static inline __attribute__((always_inline)) void add_values(struct attention *a, const uint32_t *values, int at, const int queries, int v, const int n,
                                                             const float *keep) {
    __m512 s[QUERY_TILE][4];
    EACH(q, queries) EACH(i, n) s[q][i] = _mm512_mul_ps(a->sum[(at + q) * a->vectors + v + i], _mm512_set1_ps(keep[q]));
    values += v * 16;
    for (int j = 0; j < BLOCK_PAIRS; j++, values += a->vectors * 16) {
        __m512i m[4];
        EACH(i, n) m[i] = _mm512_load_si512(values + i * 16);
        EACH(q, queries) {
            __m512i p = _mm512_set1_epi32((int)a->probability[q * 16 + j]);
            EACH(i, n) s[q][i] = DOT(s[q][i], p, m[i]);
        }
    }
    EACH(q, queries) EACH(i, n) a->sum[(at + q) * a->vectors + v + i] = s[q][i];
}

/* One block for queries [at, at + queries); count[q] positions of it are visible to query q. */
static inline __attribute__((always_inline)) void attend_tile(struct attention *a, const uint32_t *keys, const uint32_t *values, int at, const int queries,
                                                              const int *count) {
    __m512 s[QUERY_TILE][2];
    float keep[QUERY_TILE];
    const uint32_t *query = a->query + at * a->pairs;
    EACH(q, queries) s[q][0] = s[q][1] = _mm512_setzero_ps();
    for (int p = 0; p < a->pairs; p++, keys += KV_PAGE_TOKENS) {
        __m512i k0 = _mm512_load_si512(keys), k1 = _mm512_load_si512(keys + 16);
        EACH(q, queries) {
            __m512i x = _mm512_set1_epi32((int)query[q * a->pairs + p]);
            s[q][0] = DOT(s[q][0], x, k0);
            s[q][1] = DOT(s[q][1], x, k1);
        }
    }
    EACH(q, queries) {
        __mmask32 visible = mask32(count[q]);
        __m512 none = _mm512_set1_ps(-INFINITY), scale = _mm512_set1_ps(a->scale);
        __m512 lo = _mm512_mask_mul_ps(none, (__mmask16)visible, s[q][0], scale), hi = _mm512_mask_mul_ps(none, (__mmask16)(visible >> 16), s[q][1], scale);
        float before = a->most[at + q], most = _mm512_reduce_max_ps(_mm512_max_ps(lo, hi));
        most = most > before ? most : before;
        __m512 shift = _mm512_set1_ps(most);
        lo = _mm512_maskz_mov_ps((__mmask16)visible, (__m512)v_exp((vf)_mm512_sub_ps(lo, shift)));
        hi = _mm512_maskz_mov_ps((__mmask16)(visible >> 16), (__m512)v_exp((vf)_mm512_sub_ps(hi, shift)));
        keep[q] = before == most ? 1.0f : v_exp(v_all(before - most))[0];
        a->most[at + q] = most;
        a->total[at + q] = _mm512_fmadd_ps(a->total[at + q], _mm512_set1_ps(keep[q]), _mm512_add_ps(lo, hi));
        _mm512_store_si512(a->probability + q * 16, ROUND2(lo, hi));
    }
    int v = 0;
    for (; v + 4 <= a->vectors; v += 4) add_values(a, values, at, queries, v, 4, keep);
    switch (a->vectors - v) {
    case 3: add_values(a, values, at, queries, v, 3, keep); break;
    case 2: add_values(a, values, at, queries, v, 2, keep); break;
    case 1: add_values(a, values, at, queries, v, 1, keep); break;
    }
}

static void attend_block(struct attention *a, const uint32_t *keys, const uint32_t *values, int queries, const int *count) {
    for (int at = 0; at < queries; at += QUERY_TILE)
        switch (queries - at) {
        case 1: attend_tile(a, keys, values, at, 1, count + at); break;
        case 2: attend_tile(a, keys, values, at, 2, count + at); break;
        case 3: attend_tile(a, keys, values, at, 3, count + at); break;
        case 4: attend_tile(a, keys, values, at, 4, count + at); break;
        case 5: attend_tile(a, keys, values, at, 5, count + at); break;
        default: attend_tile(a, keys, values, at, 6, count + at); break;
        }
}

static void attend_rows(float *out, int64_t ldo, const float *q, int64_t ldq, int rows, int q_heads, const struct kv_view *kv, int64_t length,
                        int kv0, int kv1, void *scratch) {
    if (kv->precision == PRECISION_F32 || kv->head_dim % 2) {
        simd_attend_rows(out, ldo, q, ldq, rows, q_heads, kv, length, kv0, kv1, scratch);
        return;
    }
    struct attention a;
    attention_new(&a, kv->head_dim, 1, scratch);
    int group = q_heads / kv->kv_heads, heads = group < QUERY_GROUP ? group : QUERY_GROUP, rows_most = QUERY_GROUP / heads;
    for (int kvh = kv0; kvh < kv1; kvh++)
        for (int r0 = 0; r0 < rows; r0 += rows_most)
            for (int h0 = 0; h0 < group; h0 += heads) { /* one pass unless a group has more than QUERY_GROUP heads */
                int nr = rows - r0 < rows_most ? rows - r0 : rows_most, nh = group - h0 < heads ? group - h0 : heads, count[QUERY_GROUP];
                int64_t lane = (int64_t)(kvh * group + h0) * a.head_dim, head = (int64_t)kvh * KV_PAGE_TOKENS * a.head_dim, end = length + r0 + nr - 1;
                for (int r = 0; r < nr; r++)
                    for (int h = 0; h < nh; h++) query_start(&a, r * nh + h, q + (r0 + r) * ldq + lane + (int64_t)h * a.head_dim);
                for (int64_t at = 0; at < end; at += KV_PAGE_TOKENS) {
                    const uint16_t *page = kv->pages[at / KV_PAGE_TOKENS], *next = at + KV_PAGE_TOKENS < end ? kv->pages[at / KV_PAGE_TOKENS + 1] : page;
                    pack_block(&a, a.keys, a.values, page + kv->k_offset + head, page + kv->v_offset + head, next + kv->k_offset + head,
                               next + kv->v_offset + head, end - at < KV_PAGE_TOKENS ? (int)(end - at) : KV_PAGE_TOKENS);
                    for (int r = 0; r < nr; r++) {
                        int64_t left = length + r0 + r - at;
                        for (int h = 0; h < nh; h++) count[r * nh + h] = left > KV_PAGE_TOKENS ? KV_PAGE_TOKENS : left < 0 ? 0 : (int)left;
                    }
                    attend_block(&a, a.keys, a.values, nr * nh, count);
                }
                for (int r = 0; r < nr; r++)
                    for (int h = 0; h < nh; h++) query_finish(&a, r * nh + h, out + (r0 + r) * ldo + lane + (int64_t)h * a.head_dim);
            }
}

static void attend(float *out, const float *q, int q_heads, const struct kv_view *kv, int64_t length, int kv0, int kv1, void *scratch) {
    attend_rows(out, 0, q, 0, 1, q_heads, kv, length, kv0, kv1, scratch);
}

static void attend_full(float *out, int64_t ldo, const float *q, const float *k, const float *v, int64_t ld, int n, int head_dim, int h, int r0, int r1,
                        enum precision precision, void *scratch) {
    if (precision == PRECISION_F32 || head_dim % 2) {
        simd_attend_full(out, ldo, q, k, v, ld, n, head_dim, h, r0, r1, precision, scratch);
        return;
    }
    struct attention a;
    int blocks = (n + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS, last = n - (blocks - 1) * KV_PAGE_TOKENS;
    attention_new(&a, head_dim, blocks, scratch);
    int64_t lane = (int64_t)h * head_dim, key_step = (int64_t)a.pairs * KV_PAGE_TOKENS, value_step = (int64_t)BLOCK_PAIRS * a.vectors * 16;
    uint16_t *keys = a.rows, *values = keys + KV_PAGE_TOKENS * head_dim;
    for (int b = 0; b < blocks; b++) {
        int count = b == blocks - 1 ? last : KV_PAGE_TOKENS;
        for (int j = 0; j < count; j++)
            for (int d = 0; d < head_dim; d += 32) {
                __mmask32 m = mask32(head_dim - d);
                const float *kj = k + (int64_t)(b * KV_PAGE_TOKENS + j) * ld + lane + d, *vj = v + (int64_t)(b * KV_PAGE_TOKENS + j) * ld + lane + d;
                _mm512_mask_storeu_epi16(keys + j * head_dim + d, m, ROUND2(_mm512_maskz_loadu_ps((__mmask16)m, kj), _mm512_maskz_loadu_ps((__mmask16)(m >> 16), kj + 16)));
                _mm512_mask_storeu_epi16(values + j * head_dim + d, m, ROUND2(_mm512_maskz_loadu_ps((__mmask16)m, vj), _mm512_maskz_loadu_ps((__mmask16)(m >> 16), vj + 16)));
            }
        pack_block(&a, a.keys + b * key_step, a.values + b * value_step, keys, values, keys, values, count);
    }
    for (int r = r0; r < r1; r += QUERY_GROUP) {
        int queries = r1 - r < QUERY_GROUP ? r1 - r : QUERY_GROUP, count[QUERY_GROUP];
        for (int i = 0; i < queries; i++) query_start(&a, i, q + (r + i) * ld + lane);
        for (int b = 0; b < blocks; b++) {
            for (int i = 0; i < queries; i++) count[i] = b == blocks - 1 ? last : KV_PAGE_TOKENS;
            attend_block(&a, a.keys + b * key_step, a.values + b * value_step, queries, count);
        }
        for (int i = 0; i < queries; i++) query_finish(&a, i, out + (r + i) * ldo + lane);
    }
}
