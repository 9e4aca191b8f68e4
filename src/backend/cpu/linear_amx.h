/* Matrix products with bf16 activations on AMX tiles (Sapphire Rapids and later), over the unpacking of linear_avx512.h.
 *
 * Why: on these processors vdpbf16ps takes both 512-bit ports for two cycles, as long as the four look-ups with which NF4 unpacks 32 weights,
 * so decoding from NF4 was bound by the core and FP8 nearly so. A tile product of 16 outputs x 32 columns x 16 rows takes 16 cycles of a
 * unit of its own: a cycle for 32 weights of one row, and the same for 16 rows.
 *
 * Weights are the left operand, as they are stored: 16 outputs x 32 columns, the columns in the order of enum order. Activations are the
 * right operand: 16 pairs of columns x up to 16 rows of pairs. Every element of y is one chain of tile products over `in`, 32 columns each,
 * with a zero-padded end; a tile product adds (even columns) + (odd columns), both summed in order with fused multiply-adds (Intel
 * SDM, TDPBF16PS; operands below 2^-126 count as zero). This chain is the same whatever the number of rows or the place of a row
 * in a tile.
 *
 * Up to 16 rows (decoding) stream the matrix. What limits is how a core asks for memory: the processor's own read-ahead follows streams within
 * pages, so a block of 128 outputs is read as 16 streams, one for every 8 adjacent rows, and each stream is asked for a little ahead.
 * Rows side by side, as linear_avx512.h takes them, read a fifth more slowly here, and so do streams whose lines meet in one set of the
 * L1 cache (struct cut; bench/results/cpu-models.md).
 * More rows (prefill) go by blocks that stay in the L2 cache: 256 rows x 2048 columns packed once, 32 outputs x 2048 columns
 * unpacked at a time, 2 x 2 tiles of sums, which wait in memory between blocks of columns. */

enum {
    SIDE = 16,            /* outputs and rows of a tile */
    CHUNK = SIDE * 32,    /* elements of a tile of bf16 */
    GROUP = 4,            /* vectors that are unpacked together: 128 columns */
    ROW_TILES = 16,       /* prefill: tiles of rows, */
    COLUMN_VECTORS = 64,  /* vectors of columns */
    OUT_TILES = 32,       /* and tiles of outputs of a block */
    AHEAD = 512,          /* bytes that a stream is asked for ahead */
};

/* The scratch of one thread, cut up (everything starts on a cache line): 76 bytes a column and 1.8 MB, see cpu_ops_scratch_bytes. */
struct amx_scratch {
    uint8_t *tables;      /* FP8: (4 block rows, in / 128, 256) */
    float *absmax;        /* NF4: (4 block rows, absmax_piece); else (in) for a row that the checkpoint room expands */
    int64_t absmax_piece;
    uint16_t *rows;       /* decoding: (vectors, 16, rows of a tile, 2) */
    uint16_t *weights;    /* decoding: twice 4 tiles, within 8; prefill: (2, COLUMN_VECTORS) tiles */
    uint16_t *packed;     /* prefill: (ROW_TILES, COLUMN_VECTORS) tiles */
    float *sums;          /* prefill: (OUT_TILES + 1, ROW_TILES) tiles of (outputs, rows) */
};

static void amx_scratch(struct amx_scratch *s, struct task *t, void *scratch) {
    uint8_t *at = scratch;
    t->vectors = (t->in + 127) / 128 * GROUP;
    s->tables = t->tables = at;
    at += 4 * ((t->in + 127) / 128 * 256);
    t->planes = at;
    at += 4 * 256;
    s->absmax = t->absmax = (float *)at;
    s->absmax_piece = (BLOCK * ((t->in + 63) / 64) + 65 + 15) / 16 * 16;
    at += 4 * s->absmax_piece * (int64_t)sizeof *s->absmax;
    s->rows = (uint16_t *)at;
    at += t->vectors * CHUNK * 2;
    s->weights = (uint16_t *)at;
    at += 2 * COLUMN_VECTORS * CHUNK * 2;
    s->packed = (uint16_t *)at;
    at += ROW_TILES * COLUMN_VECTORS * CHUNK * 2;
    s->sums = (float *)at;
}

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Tiles 0..3 are sums, 4 and 5 weights, 6 and 7 activations. With one row of activations those and the sums are one column wide. */
static void tiles_begin(bool one_row) {
    struct tile_config c __attribute__((aligned(64))) = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = SIDE;
        c.row_bytes[i] = one_row && i != 4 && i != 5 ? 4 : 64;
    }
    _tile_loadconfig(&c);
}

/* A square of 32-bit elements, in place. */
static inline void transpose(__m512i r[SIDE]) {
    __m512i t[SIDE];
    for (int i = 0; i < SIDE; i += 2) t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    for (int i = 0; i < SIDE; i += 4)
        for (int k = 0; k < 2; k++) {
            r[i + 2 * k] = _mm512_unpacklo_epi64(t[i + k], t[i + 2 + k]);
            r[i + 2 * k + 1] = _mm512_unpackhi_epi64(t[i + k], t[i + 2 + k]);
        }
    for (int k = 0; k < 4; k++) { /* r[4 i + k] holds column k of every quarter, for rows 4 i .. 4 i + 3 */
        __m512i a = _mm512_shuffle_i32x4(r[k], r[4 + k], 0x88), b = _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0x88);
        __m512i c = _mm512_shuffle_i32x4(r[k], r[4 + k], 0xdd), d = _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0xdd);
        t[k] = _mm512_shuffle_i32x4(a, b, 0x88);
        t[8 + k] = _mm512_shuffle_i32x4(a, b, 0xdd);
        t[4 + k] = _mm512_shuffle_i32x4(c, d, 0x88);
        t[12 + k] = _mm512_shuffle_i32x4(c, d, 0xdd);
    }
    for (int i = 0; i < SIDE; i++) r[i] = t[i];
}

/* ---- operands ------------------------------------------------------------------------------------------------------------- */

/* Up to 16 rows of activations, vectors [v0, v1), as tiles of pairs: (v1 - v0, 16, 16, 2). Missing rows are zero. v0 and the whole are
 * multiples of the order's unit. */
static void pack_tiles(uint16_t *to, const struct task *t, const uint16_t *x, int64_t ldx, int rows, int64_t v0, int64_t v1) {
    for (int r = 0; r < rows; r++) pack_row(to + 32 * r, CHUNK, x + r * ldx + v0 * 32, t->in - v0 * 32, t->order, v1 - v0);
    for (int64_t v = v0; v < v1; v++, to += CHUNK) {
        __m512i m[SIDE];
        for (int r = 0; r < SIDE; r++) m[r] = r < rows ? _mm512_load_si512(to + 32 * r) : _mm512_setzero_si512();
        transpose(m);
        for (int r = 0; r < SIDE; r++) _mm512_store_si512(to + 32 * r, m[r]);
    }
}

/* ---- weights -------------------------------------------------------------------------------------------------------------- */

/* 16 outputs; of the last ones of a matrix `count` exist, the others repeat the first. */
struct panel {
    int64_t o[SIDE];
    int count;
    const uint8_t *row[SIDE];
    const float *absmax[SIDE]; /* NF4 */
};

static inline int64_t row_bytes_of(const struct task *t) { return t->order == ORDER_NF4 ? t->in / 2 : t->order == ORDER_FP8 ? t->in : t->in * 2; }

/* What follows from p->o and p->count. absmax: of output `first` and those after it. */
static inline void panel_rows(struct panel *p, const struct task *t, const float *absmax, int64_t first) {
    for (int i = p->count; i < SIDE; i++) p->o[i] = p->o[0];
    for (int i = 0; i < SIDE; i++) {
        p->row[i] = (const uint8_t *)t->w->data + p->o[i] * row_bytes_of(t);
        if (absmax) p->absmax[i] = absmax + (p->o[i] - first) * (t->in / 64);
    }
}

/* Outputs o, o + step and so on. */
static inline void panel_new(struct panel *p, const struct task *t, int64_t o, int64_t step, int count, const float *absmax, int64_t first) {
    p->count = count;
    for (int i = 0; i < SIDE; i++) p->o[i] = o + i * step;
    panel_rows(p, t, absmax, first);
}

static inline __mmask64 mask64(int64_t left) { return left >= 64 ? ~0ull : left <= 0 ? 0 : (1ull << left) - 1; }

/* Where the four vectors of a group go, in elements from the first. */
struct places {
    int b, c, d;
};

/* Columns [128 g, 128 g + 128) of outputs [first, first + 4) of a panel. FP8: f is the table of those columns. left: how many
 * of the columns exist, 128 or fewer. What lies `ahead` bytes from them in rows `ask` is asked for. */
static inline __attribute__((always_inline)) void expand_group(const enum order order, uint16_t *to, const struct places at, const struct panel *p,
                                                               const int first, int64_t g, const struct fp8_table f, const struct constants c,
                                                               const int64_t left, const uint8_t *const *ask, int64_t ahead) {
    EACH(i, 4) {
        uint16_t *out = to + 32 * (first + i);
        const int64_t column = order == ORDER_NF4 ? g * 64 : order == ORDER_FP8 ? g * 128 : g * 256;
        const uint8_t *row = p->row[first + i] + column;
        const char *later = ask ? (const char *)ask[first + i] + column + ahead : (const char *)row + ahead;
        if (order == ORDER_FP8) {
            _mm_prefetch(later, _MM_HINT_T1);
            _mm_prefetch(later + 64, _MM_HINT_T1);
            struct two m = fp8_expand(left >= 64 ? _mm512_loadu_si512(row) : _mm512_maskz_loadu_epi8(mask64(left), row), f, c.sign);
            _mm512_store_si512(out, m.a);
            _mm512_store_si512(out + at.b, m.b);
            m = fp8_expand(left >= 128 ? _mm512_loadu_si512(row + 64) : _mm512_maskz_loadu_epi8(mask64(left - 64), row + 64), f, c.sign);
            _mm512_store_si512(out + at.c, m.a);
            _mm512_store_si512(out + at.d, m.b);
        } else if (order == ORDER_NF4) {
            _mm_prefetch(later, _MM_HINT_T0);
            struct four m = nf4_expand(left >= 128 ? _mm512_loadu_si512(row) : _mm512_maskz_loadu_epi64(0x0f, row), p->absmax[first + i] + 2 * g, c);
            _mm512_store_si512(out, m.a);
            _mm512_store_si512(out + at.b, m.b);
            _mm512_store_si512(out + at.c, m.c);
            _mm512_store_si512(out + at.d, m.d);
        } else {
            EACH(k, 4) {
                const uint16_t *e = (const uint16_t *)(const void *)row + 32 * k;
                _mm_prefetch(later + 64 * k, _MM_HINT_T1);
                _mm512_store_si512(out + (k == 0 ? 0 : k == 1 ? at.b : k == 2 ? at.c : at.d), left >= 128 ? _mm512_loadu_si512(e) : load32(e, left - 32 * k));
            }
        }
    }
}

/* The same of all 16 outputs, any order, any width. */
static void expand_panel_group(const struct task *t, uint16_t *to, const struct places at, const struct panel *p, int64_t g) {
    const struct fp8_table f = fp8_table(t, t->order == ORDER_FP8 ? g * GROUP : 0);
    const struct constants c = constants_new(t);
    const int64_t left = t->in - g * 128 < 128 ? t->in - g * 128 : 128;
    for (int i = 0; i < SIDE; i += 4) {
        if (t->order == ORDER_FP8) expand_group(ORDER_FP8, to, at, p, i, g, f, c, left, NULL, 0);
        else if (t->order == ORDER_NF4) expand_group(ORDER_NF4, to, at, p, i, g, f, c, left, NULL, 0);
        else expand_group(ORDER_PLAIN, to, at, p, i, g, f, c, left, NULL, 0);
    }
}

/* What must be known before outputs [o, o1) of one block row of 128 are unpacked, kept in the `piece`-th place of the scratch. */
static const float *prepare_outputs(struct task *t, struct amx_scratch *s, int piece, int64_t o, int64_t o1) {
    if (t->order == ORDER_FP8) {
        t->tables = s->tables + piece * ((t->in + 127) / 128 * 256);
        t->tables_row = -1;
        fp8_tables(t, o);
    } else if (t->order == ORDER_NF4) {
        t->absmax = s->absmax + piece * s->absmax_piece;
        return nf4_absmax(t, o, (int)(o1 - o));
    }
    return NULL;
}

/* ---- decoding -------------------------------------------------------------------------------------------------------------- */

struct stream {
    struct task *t;
    struct amx_scratch *s;
    float *y;
    int64_t ldy;
    int rows;
};

/* The sums of a panel to y. */
static inline void store_panel(const struct stream *f, const struct panel *p, const int side) {
    float sums[SIDE * SIDE] __attribute__((aligned(64)));
    const float *bias = f->t->w->bias;
    _tile_stored(0, sums, 4 * side);
    for (int i = 0; i < p->count; i++) {
        int64_t o = p->o[i];
        for (int r = 0; r < f->rows; r++) f->y[r * f->ldy + o] = sums[i * side + r] + (bias ? bias[o] : 0);
    }
}

/* How a block of outputs is cut: 16 streams of `step` adjacent rows each; a panel takes one row of every stream. 8 rows of the widths that
 * models have are a multiple of 4 KiB, so the 16 rows of a panel meet in one set of the L1 cache, which holds 12 lines; and as matrices in files begin
 * anywhere, most loads need a line again that the load before it brought. `turned`: every other stream begins one row earlier, which makes two sets with 8
 * rows each. The two last rows of the eight longer streams are the last panel. */
struct cut {
    int64_t o, step;
    bool turned;
};

static inline void panel_of_cut(struct panel *p, const struct task *t, const struct cut *c, int64_t k, const float *absmax) {
    p->count = SIDE;
    if (!c->turned)
        for (int i = 0; i < SIDE; i++) p->o[i] = c->o + i * c->step + k;
    else if (k < c->step - 1)
        for (int i = 0; i < SIDE; i++) p->o[i] = c->o + i * c->step - i % 2 + k;
    else
        for (int i = 0; i < SIDE; i++) p->o[i] = c->o + (i | 1) * c->step + c->step - 2 + i % 2;
    panel_rows(p, t, absmax, c->o);
}

/* Outputs [o, end) of one block of 128. While a group of columns is unpacked, the one before it is multiplied, a quarter later: its first
 * column is complete only after its last four outputs. What is stored and what is loaded differ in the address within 4 KiB, by which the processor guesses
 * whether a load depends on a store. The first products are of whatever lies there and come to nothing. */
static inline __attribute__((always_inline)) void stream_block(struct stream *f, const enum order order, int64_t o, int64_t end, const int side) {
    const struct task *t = f->t;
    const float *absmax = prepare_outputs(f->t, f->s, 0, o, end);
    const int64_t step = (end - o) / SIDE, panels = step + ((end - o) % SIDE != 0), groups = t->vectors / GROUP, whole = t->in / 128;
    const struct cut cut = {o, step, order != ORDER_PLAIN && panels == step && step >= 4}, after = {end, step, cut.turned};
    struct constants c = constants_new(t);
    /* Else the compiler makes them anew for every four outputs, on the very ports that unpacking is short of. */
    __asm__("" : "+v"(c.nibbles), "+v"(c.second), "+v"(c.high), "+v"(c.sign));
    const struct places at = {CHUNK, 4 * CHUNK, 5 * CHUNK};
    const int64_t row_bytes = row_bytes_of(t), group_bytes = order == ORDER_NF4 ? 64 : order == ORDER_FP8 ? 128 : 256;
    if (order == ORDER_NF4 && t->w->absmax_u8)
        for (int64_t b = 0; b < BLOCK * (t->in / 64); b += 64) _mm_prefetch((const char *)t->w->absmax_u8 + end * (t->in / t->w->block_size) + b, _MM_HINT_T1);
    struct panel ring[4]; /* the one that is multiplied, the one that is unpacked, the one that is asked for */
    uint16_t *to = f->s->weights, *from = to + 2 * CHUNK;
    const uint16_t *const rows = f->s->rows, *x = rows;
#define PLACE(q) (((q) & 1) * CHUNK + ((q) >> 1) * 4 * CHUNK)
#define MULTIPLY(tile, UNPACK)             \
    do {                                   \
        _tile_loadd(4, tile, 64);          \
        _tile_loadd(6, x, 4 * side);       \
        x += 32 * side;                    \
        UNPACK;                            \
        _tile_dpbf16ps(0, 4, 6);           \
    } while (0)
    if (step) panel_of_cut(ring, t, &cut, 0, absmax);
    for (int64_t k = 0;; k++) {
        struct panel *here = &ring[k & 3], *there = &ring[(k + 1) & 3];
        if (k == step && k < panels) panel_new(here, t, o + step * SIDE, 1, (int)((end - o) % SIDE), absmax, o);
        if (k + 1 < step) panel_of_cut(there, t, &cut, k + 1, absmax);
        else panel_of_cut(there, t, &after, 0, NULL); /* beyond the matrix too: asking reads nothing */
        for (int64_t g = 0; g < groups; g++) {
            const bool hot = k < panels && g < whole, within = (g + 1) * group_bytes + AHEAD <= row_bytes;
            const uint8_t *const *ask = order == ORDER_PLAIN ? NULL : within ? here->row : there->row; /* not turned, the next row of a stream follows */
            const int64_t ahead = within || (!ask && k + 1 < step) ? AHEAD : AHEAD + (ask ? -row_bytes : (end - o - step) * row_bytes);
            const struct fp8_table table = fp8_table(t, order == ORDER_FP8 && hot ? g * GROUP : 0);
            if (hot) MULTIPLY(to + PLACE(3), expand_group(order, to, at, here, 0, g, table, c, 128, ask, ahead));
            else MULTIPLY(to + PLACE(3), );
            if (g == 1 || groups == 1) { /* of the panel before, everything is multiplied */
                const int64_t done = groups == 1 ? k - 2 : k - 1;
                if (done >= 0) store_panel(f, &ring[done & 3], side);
                if (done == panels - 1) return;
                _tile_zero(0);
                x = rows;
            }
            if (hot) EACH(q, 3) MULTIPLY(from + PLACE(q), expand_group(order, to, at, here, 4 * q + 4, g, table, c, 128, ask, ahead));
            else EACH(q, 3) MULTIPLY(from + PLACE(q), );
            if (!hot && k < panels) expand_panel_group(t, to, at, here, g);
            uint16_t *swap = to;
            to = from;
            from = swap;
        }
    }
}

static inline __attribute__((always_inline)) void stream_order(struct stream *f, const enum order order, int64_t o0, int64_t o1) {
    for (int64_t o = o0, end; o < o1; o = end) {
        end = o / BLOCK * BLOCK + BLOCK < o1 ? o / BLOCK * BLOCK + BLOCK : o1;
        if (f->rows == 1) stream_block(f, order, o, end, 1);
        else stream_block(f, order, o, end, SIDE);
    }
}

static void stream(struct stream *f, int64_t o0, int64_t o1) {
    if (f->t->order == ORDER_FP8) stream_order(f, ORDER_FP8, o0, o1);
    else if (f->t->order == ORDER_NF4) stream_order(f, ORDER_NF4, o0, o1);
    else stream_order(f, ORDER_PLAIN, o0, o1);
}

/* ---- prefill --------------------------------------------------------------------------------------------------------------- */

/* One pair of tiles of outputs (weights unpacked at w0 and w1) times one pair of tiles of rows. */
static void multiply_tiles(float *s00, int64_t row_tile, int64_t out_tile, const uint16_t *w0, const uint16_t *w1, const uint16_t *x0, const uint16_t *x1,
                           int64_t vectors, bool first) {
    float *s01 = s00 + row_tile, *s10 = s00 + out_tile, *s11 = s10 + row_tile;
    if (first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, s00, 64);
        _tile_loadd(1, s01, 64);
        _tile_loadd(2, s10, 64);
        _tile_loadd(3, s11, 64);
    }
    for (int64_t v = 0; v < vectors; v++) {
        _tile_loadd(4, w0 + v * CHUNK, 64);
        _tile_loadd(6, x0 + v * CHUNK, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, x1 + v * CHUNK, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, w1 + v * CHUNK, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, s00, 64);
    _tile_stored(1, s01, 64);
    _tile_stored(2, s10, 64);
    _tile_stored(3, s11, 64);
}

/* Sums of a tile (outputs, rows) to y. */
static void store_tile(float *y, int64_t ldy, const float *sums, int rows, const float *bias, int count) {
    __m512i m[SIDE];
    for (int i = 0; i < SIDE; i++) m[i] = _mm512_load_si512(sums + SIDE * i);
    transpose(m);
    __mmask16 mask = (__mmask16)((1u << count) - 1);
    __m512 add = bias ? _mm512_maskz_loadu_ps(mask, bias) : _mm512_setzero_ps();
    for (int r = 0; r < rows; r++) _mm512_mask_storeu_ps(y + r * ldy, mask, _mm512_add_ps(_mm512_castsi512_ps(m[r]), add));
}

/* Vectors [v0, v1) of a panel, as (v1 - v0, 16, 32). */
static void expand_panel_block(struct task *t, uint16_t *to, const struct panel *p, int64_t v0, int64_t v1) {
    const struct places at = {CHUNK, 2 * CHUNK, 3 * CHUNK};
    if (t->order == ORDER_PLAIN && t->w->storage != STORAGE_BF16) {
        for (int i = 0; i < SIDE; i++) expand_row(t, to + 32 * i, CHUNK, p->o[i], v0, v1);
        return;
    }
    for (int64_t g = v0 / GROUP; g < v1 / GROUP; g++, to += GROUP * CHUNK) expand_panel_group(t, to, at, p, g);
}

/* Up to 256 rows, outputs [o0, o1) of up to four blocks of 128. `same`: the rows are those of the call before, and still packed where all of
 * `in` is one block of columns. */
static void multiply_block(struct task *t, struct amx_scratch *s, float *y, int64_t ldy, const uint16_t *x, int64_t ldx, int rows, int64_t o0, int64_t o1, bool same) {
    const int64_t tile = SIDE * SIDE, packed = (int64_t)COLUMN_VECTORS * CHUNK;
    const int row_tiles = (rows + 2 * SIDE - 1) / (2 * SIDE) * 2;
    struct {
        int64_t o, start;
        int count, piece;
        const float *absmax;
    } panels[OUT_TILES + 1];
    int count = 0;
    int piece = 0;
    for (int64_t o = o0; o < o1; piece++) {
        int64_t end = o / BLOCK * BLOCK + BLOCK < o1 ? o / BLOCK * BLOCK + BLOCK : o1, start = o;
        const float *absmax = prepare_outputs(t, s, piece, o, end);
        for (; o < end; o += SIDE) {
            panels[count].o = o;
            panels[count].start = start;
            panels[count].count = end - o < SIDE ? (int)(end - o) : SIDE;
            panels[count].piece = piece;
            panels[count++].absmax = absmax;
        }
        o = end;
    }
    panels[count] = panels[count - 1]; /* an odd last panel is multiplied twice */
    for (int64_t v0 = 0; v0 < t->vectors; v0 += COLUMN_VECTORS) {
        int64_t v1 = v0 + COLUMN_VECTORS < t->vectors ? v0 + COLUMN_VECTORS : t->vectors;
        for (int r = 0; r < row_tiles && !(same && t->vectors <= COLUMN_VECTORS); r++) {
            int left = rows - r * SIDE;
            pack_tiles(s->packed + r * packed, t, x + r * SIDE * ldx, ldx, left < 0 ? 0 : left < SIDE ? left : SIDE, v0, v1);
        }
        for (int k = 0; k < count; k += 2) {
            for (int i = 0; i < 2; i++) {
                struct panel p;
                panel_new(&p, t, panels[k + i].o, 1, panels[k + i].count, panels[k + i].absmax, panels[k + i].start);
                if (t->order == ORDER_FP8) t->tables = s->tables + panels[k + i].piece * ((t->in + 127) / 128 * 256);
                expand_panel_block(t, s->weights + i * packed, &p, v0, v1);
            }
            float *sums = s->sums + k * ROW_TILES * tile;
            for (int r = 0; r < row_tiles; r += 2)
                multiply_tiles(sums + r * tile, tile, ROW_TILES * tile, s->weights, s->weights + packed, s->packed + r * packed,
                               s->packed + (r + 1) * packed, v1 - v0, v0 == 0);
        }
    }
    for (int k = 0; k < count; k++)
        for (int r = 0; r < rows; r += SIDE)
            store_tile(y + r * ldy + panels[k].o, ldy, s->sums + (k * ROW_TILES + r / SIDE) * tile, rows - r < SIDE ? rows - r : SIDE,
                       t->w->bias ? t->w->bias + panels[k].o : NULL, panels[k].count);
}

static void linear_amx(float *y, int64_t ldy, const uint16_t *x, int64_t ldx, int rows, const struct linear_weight *w, int64_t o0, int64_t o1,
                       void *scratch) {
    if (rows <= 0 || o0 >= o1) return;
    struct task t;
    struct amx_scratch s;
    task_new(&t, w, scratch);
    amx_scratch(&s, &t, scratch);
    bool streams = t.order != ORDER_PLAIN || w->storage == STORAGE_BF16;
    if (rows <= SIDE && streams) {
        struct stream f = {.t = &t, .s = &s, .y = y, .ldy = ldy, .rows = rows};
        tiles_begin(rows == 1);
        if (rows == 1) pack_row(s.rows, 32, x, t.in, t.order, t.vectors);
        else pack_tiles(s.rows, &t, x, ldx, rows, 0, t.vectors);
        stream(&f, o0, o1);
    } else {
        tiles_begin(false);
        for (int r = 0; r < rows; r += ROW_TILES * SIDE)
            for (int64_t o = o0, end; o < o1; o = end) {
                end = o / BLOCK * BLOCK + OUT_TILES * SIDE < o1 ? o / BLOCK * BLOCK + OUT_TILES * SIDE : o1;
                multiply_block(&t, &s, y + r * ldy, ldy, x + r * ldx, ldx, rows - r < ROW_TILES * SIDE ? rows - r : ROW_TILES * SIDE, o, end, o > o0);
            }
    }
    _tile_release();
}
