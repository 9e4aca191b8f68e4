/* Checkpoints: exact dequantisation against torch and bitsandbytes, and the refusal of lying files (failure classes 1 to 3). */
#include "test.h"

#include <math.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/number.h"
#include "checkpoint_files.h"

#define QUANT "tests/golden/quant"

static const struct {
    const char *name;
    int64_t out, in;
    enum storage storage;
    enum dtype rounding;
    bool bias;
} matrices[] = {
    {"codes", 2, 128, STORAGE_FP8_BLOCK, DTYPE_F32, false},
    {"fp8", 130, 300, STORAGE_FP8_BLOCK, DTYPE_F32, false},
    {"fp8_whole", 128, 256, STORAGE_FP8_BLOCK, DTYPE_F32, false},
    {"nf4_nested", 160, 128, STORAGE_NF4, DTYPE_BF16, true},
    {"nf4_plain", 48, 128, STORAGE_NF4, DTYPE_BF16, true},
    {"nf4_rows", 16, 72, STORAGE_NF4, DTYPE_BF16, true},
    {"nf4_half", 8, 64, STORAGE_NF4, DTYPE_F16, true},
    {"nf4_single", 8, 64, STORAGE_NF4, DTYPE_F32, true},
    {"nf4_wide", 8, 256, STORAGE_NF4, DTYPE_BF16, true},
    {"bf16", 6, 10, STORAGE_BF16, DTYPE_BF16, false},
    {"f16", 6, 10, STORAGE_F16, DTYPE_F16, false},
    {"f32", 6, 10, STORAGE_F32, DTYPE_F32, false},
};
enum { MATRICES = sizeof matrices / sizeof *matrices };

static struct checkpoint *open_folder(const char *folder) {
    struct checkpoint *c = NULL;
    struct err err = {0};
    if (checkpoint_open(folder, &c, &err)) fail_msg("%s", err.message);
    return c;
}

static void check_matrices(struct checkpoint *c) {
    struct err err = {0};
    for (int i = 0; i < MATRICES; i++) {
        struct linear_weight w;
        char name[64];
        const float *want;
        int64_t n = matrices[i].out * matrices[i].in;
        if (checkpoint_linear(c, matrices[i].name, matrices[i].out, matrices[i].in, matrices[i].bias, &w, &err))
            fail_msg("%s", err.message);
        snprintf(name, sizeof name, "%s.reference", matrices[i].name);
        if (checkpoint_vector(c, name, n, &want, &err)) fail_msg("%s", err.message);
        assert_int_equal(w.storage, matrices[i].storage);
        assert_int_equal(w.rounding, matrices[i].rounding);
        assert_int_equal(w.bias != NULL, matrices[i].bias);
        float *got = malloc((size_t)n * sizeof *got);
        linear_weight_rows_f32(&w, 0, w.out, got);
        for (int64_t e = 0; e < n; e++)
            if (f32_to_bits(got[e]) != f32_to_bits(want[e]))
                fail_msg("%s: element %ld: %.9g, expected %.9g", matrices[i].name, (long)e, got[e], want[e]);
        for (int64_t r = 0; r < w.out; r++) { /* rows one by one give the same */
            float *row = got + r * w.in;
            memset(row, 0, (size_t)w.in * sizeof *row);
            linear_weight_rows_f32(&w, r, r + 1, row);
        }
        assert_memory_equal(got, want, (size_t)n * sizeof *got);
        free(got);
        assert_true(linear_weight_bytes(&w) >= (size_t)n / 2);
    }
}

static void dequantisation_is_exact(void **state) {
    (void)state;
    struct checkpoint *c = open_folder(QUANT);
    check_matrices(c);
    struct linear_weight w;
    assert_int_equal(checkpoint_linear(c, "nf4_nested", 160, 128, false, &w, NULL), 0);
    assert_int_equal(linear_weight_bytes(&w), 10240 + 320 + 2 * 4 + 1024 + 64);
    assert_int_equal(checkpoint_linear(c, "fp8", 130, 300, false, &w, NULL), 0);
    assert_int_equal(linear_weight_bytes(&w), 130 * 300 + 6 * 4);
    checkpoint_close(c);
}

/* Writers may leave the data at odd addresses: one more space in the header does it. */
static void unaligned_files_read_the_same(void **state) {
    (void)state;
    struct buf good = read_whole(QUANT "/model.safetensors");
    uint64_t n;
    memcpy(&n, good.data, 8);
    for (int shift = 1; shift < 4; shift++) {
        struct scratch s = scratch_new();
        struct buf b = safetensors_text(good.data + 8, (size_t)n, (int64_t)n + shift, 0);
        for (int i = 0; i < shift; i++) buf_char(&b, ' ');
        buf_append(&b, good.data + 8 + n, good.len - 8 - n);
        scratch_write(&s, "model.safetensors", b.data, b.len);
        struct checkpoint *c = open_folder(s.folder);
        check_matrices(c);
        checkpoint_close(c);
        buf_free(&b);
        scratch_remove(&s);
    }
    buf_free(&good);
}

union half {
    uint16_t u;
    _Float16 f;
};
static float compiler_f16(uint16_t v) { return (float)(union half){v}.f; }

static void conversions_round_trip(void **state) {
    (void)state;
    for (uint32_t v = 0; v < 65536; v++) {
        float b = bf16_to_f32((uint16_t)v), h = f16_to_f32((uint16_t)v);
        if (!isnan(b)) assert_int_equal(f32_to_bf16(b), v);
        if (!isnan(h)) assert_int_equal(f32_to_f16(h), v);
        assert_true(isnan(h) == isnan(compiler_f16((uint16_t)v)) && (isnan(h) || h == compiler_f16((uint16_t)v)));
    }
    for (uint32_t i = 0; i < 1000000; i++) { /* against the compiler's own conversion */
        float f = bits_to_f32(i * 4294u + 12345u);
        if (isnan(f)) continue;
        union half want = {.f = (_Float16)f};
        assert_int_equal(f32_to_f16(f), want.u);
    }
    assert_true(e4m3_to_f32(0x7E) == 448.0f && e4m3_to_f32(0x01) == 0x1p-9f && e4m3_to_f32(0x80) == 0.0f &&
                isnan(e4m3_to_f32(0xFF)));
}

static void goldens_of_every_format_open(void **state) {
    (void)state;
    static const char *const names[] = {"tiny-a", "tiny-b", "tiny-c", "tiny-fp8", "tiny-nf4", "tiny-nf4-plain"};
    uint8_t first[16], again[16];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char folder[64];
        snprintf(folder, sizeof folder, "tests/golden/%s", names[i]);
        struct checkpoint *c = open_folder(folder);
        const struct model_config *m = checkpoint_config(c);
        struct linear_weight w;
        struct err err = {0};
        assert_true(m->sampling.eos_count > 0);
        for (int layer = 0; layer < m->text.layers; layer++) {
            char name[96];
            snprintf(name, sizeof name, "model.language_model.layers.%d.mlp.down_proj", layer);
            if (checkpoint_linear(c, name, m->text.hidden, m->text.intermediate, false, &w, &err)) fail_msg("%s", err.message);
            assert_int_not_equal(checkpoint_linear(c, name, m->text.intermediate, m->text.hidden + 1, false, &w, &err), 0);
            assert_non_null(strstr(err.message, "expected ["));
        }
        if (checkpoint_linear(c, "model.visual.patch_embed.proj", m->vision.hidden,
                              3 * m->vision.temporal_patch * m->vision.patch * m->vision.patch, true, &w, &err))
            fail_msg("%s", err.message);
        assert_int_equal(checkpoint_linear(c, "no.such", 1, 1, false, &w, &err), ERR_MISSING);
        assert_null(checkpoint_find(c, "no.such.weight"));
        for (size_t k = 0; k < checkpoint_tensor_count(c); k++)
            assert_ptr_equal(checkpoint_find(c, checkpoint_tensor_at(c, k)->name), checkpoint_tensor_at(c, k));
        assert_null(checkpoint_tensor_at(c, checkpoint_tensor_count(c)));
        checkpoint_identity(c, i ? again : first);
        if (i) assert_memory_not_equal(first, again, 16);
        checkpoint_close(c);
    }
    struct checkpoint *c = open_folder("tests/golden/tiny-a");
    checkpoint_identity(c, again);
    assert_memory_equal(first, again, 16);
    checkpoint_close(c);
}

/* ---- lying weights ------------------------------------------------------------------------------------------------------ */

#define ONE "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}"

static void lying_headers_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *header;
        int64_t length; /* -1: true */
        size_t data;
        const char *says;
    } lies[] = {
        {"{" ONE "}", 0, 4, "header length: expected 2 to 100000000, found 0"},
        {"{" ONE "}", INT64_MAX, 4, "found 9223372036854775807"},
        {"{" ONE "}", 100000001, 4, "found 100000001"},
        {"{" ONE "}", 99999999, 4, "header length: expected at most the"},
        {"{" ONE "}", -1, 3, "within the 3 data bytes"},
        {"{" ONE "}", -1, 5, "data: expected 4 bytes after the header, found 5"},
        {" {" ONE "}", -1, 4, "expected '{' at byte 8"},
        {"[]", -1, 0, "expected '{'"},
        {"{}", -1, 1, "data: expected 0 bytes"},
        {"{" ONE "," ONE "}", -1, 4, "expected begin 4"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":["
         "0,0]}}",
         -1, 0, "unique names, found tensor a twice"},
        {"{" ONE ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}", -1, 6,
         "tensor b: data_offsets: expected begin 4 (no gap, no overlap), found 2"},
        {"{" ONE ",\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[5,9]}}", -1, 9,
         "expected begin 4 (no gap, no overlap), found 5"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[1,5]}}", -1, 5, "expected begin 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,4]}}", -1, 4,
         "tensor a: data_offsets: expected 16 bytes (F32 [4]), found [0, 4)"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}", -1, 4, "found [4, 0)"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,4],\"data_offsets\":[0,4]}}", -1, 4, "rank of at most 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", -1, 0,
         "shape: expected at most 2^64 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807,9223372036854775807,0],\"data_offsets\":[0,0]}}", -1, 0,
         "shape: expected at most 2^64 bytes"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775808],\"data_offsets\":[0,0]}}", -1, 0,
         "shape: expected an integer"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,0]}}", -1, 0, "shape: expected an integer"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", -1, 1, "shape: expected an integer"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[\"4\"],\"data_offsets\":[0,4]}}", -1, 4, "a string"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[[4]],\"data_offsets\":[0,4]}}", -1, 4, "a list"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0]}}", -1, 4, "data_offsets: expected 2 integers"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4,8]}}", -1, 4, "data_offsets: expected 2 integers"},
        {"{\"a\":{\"dtype\":\"Q4\",\"shape\":[4],\"data_offsets\":[0,4]}}", -1, 4, "dtype: expected one of"},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}", -1, 4,
         "dtype: expected one value, found the key twice"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", -1, 4, "incomplete"},
        {"{\"a\":7}", -1, 0, "tensor a: expected an object, found 7"},
        {"{\"a\":null}", -1, 0, "tensor a"},
        {"{\"__metadata__\":{\"x\":1},\"a\":7}", -1, 0, "expected an object"},
        {"{\"__metadata__\":{\"x\":{}}}", -1, 0, "__metadata__"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", -1, 0, "__metadata__: expected one value"},
        {"{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", -1, 0, "control characters"},
        {"{\"a\\u001b[31m\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", -1, 0, "control characters"},
        {"{\"\xFF\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", -1, 0, "UTF-8"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],", -1, 4, "header"},
        {"{" ONE "}}", -1, 4, "header"},
        {"{" ONE "}x", -1, 4, "header"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct scratch s = scratch_new();
        struct buf b = safetensors_text(lies[i].header, strlen(lies[i].header), lies[i].length, lies[i].data);
        scratch_write(&s, "model.safetensors", b.data, b.len);
        struct checkpoint *c = NULL;
        struct err err = {0};
        if (checkpoint_open(s.folder, &c, &err) == 0) fail_msg("accepted: %s", lies[i].header);
        if (!strstr(err.message, "model.safetensors") || !strstr(err.message, lies[i].says))
            fail_msg("%s\n  -> %s", lies[i].header, err.message);
        buf_free(&b);
        scratch_remove(&s);
    }
    struct scratch s = scratch_new();
    struct checkpoint *c = NULL;
    struct err err = {0};
    assert_int_equal(checkpoint_open(s.folder, &c, &err), ERR_MISSING);
    struct buf deep = {0}; /* an unknown field may hold anything, but not without bottom */
    buf_str(&deep, "{\"a\":{\"x\":");
    for (int i = 0; i < 100000; i++) buf_char(&deep, '[');
    struct buf b = safetensors_text(deep.data, deep.len, -1, 0);
    scratch_write(&s, "model.safetensors", b.data, b.len);
    assert_int_not_equal(checkpoint_open(s.folder, &c, &err), 0);
    assert_non_null(strstr(err.message, "128 levels"));
    buf_free(&b);
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4,8],"
                         "\"new\":[{\"x\":1}]}," ONE "}      ";
    b = safetensors_text(header, strlen(header), -1, 8); /* and this odd one is valid */
    scratch_write(&s, "model.safetensors", b.data, b.len);
    c = open_folder(s.folder);
    assert_int_equal(checkpoint_find(c, "b")->rank, 0);
    checkpoint_close(c);
    for (size_t n = 0; n < b.len; n++) { /* cut short anywhere */
        scratch_write(&s, "model.safetensors", b.data, n);
        assert_int_not_equal(checkpoint_open(s.folder, &c, &err), 0);
    }
    buf_free(&b);
    buf_free(&deep);
    scratch_remove(&s);
}

static void lying_indexes_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *index, *says;
    } lies[] = {
        {"{\"weight_map\":{\"a\":\"../model.safetensors\"}}", "plain name"},
        {"{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", "plain name"},
        {"{\"weight_map\":{\"a\":\"x/../one.safetensors\"}}", "plain name"},
        {"{\"weight_map\":{\"a\":\".safetensors\"}}", "plain name"},
        {"{\"weight_map\":{\"a\":\"one.bin\"}}", "plain name"},
        {"{\"weight_map\":{\"a\":7}}", "plain name"},
        {"{\"weight_map\":{\"a\":\"one\\u0000.safetensors\"}}", "plain name"},
        {"{\"weight_map\":{\"a\":\"absent.safetensors\"}}", "absent.safetensors: cannot open"},
        {"{\"weight_map\":{\"b\":\"one.safetensors\"}}",
         "weight_map: b: expected the tensor in one.safetensors, found it in none"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}", "expected in one shard, found in"},
        {"{\"weight_map\":{}}", "1 to 4096 shards"},
        {"{\"weight_map\":[]}", "weight_map"},
        {"{}", "weight_map"},
        {"[", "invalid JSON"},
    };
    struct scratch s = scratch_new();
    struct buf b = safetensors_text("{" ONE "}", strlen("{" ONE "}"), -1, 4);
    scratch_write(&s, "one.safetensors", b.data, b.len);
    scratch_write(&s, "two.safetensors", b.data, b.len);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        scratch_write(&s, "model.safetensors.index.json", lies[i].index, strlen(lies[i].index));
        struct checkpoint *c = NULL;
        struct err err = {0};
        if (checkpoint_open(s.folder, &c, &err) == 0) fail_msg("accepted: %s", lies[i].index);
        if (!strstr(err.message, "index.json") && !strstr(err.message, ".safetensors")) fail_msg("%s", err.message);
        if (!strstr(err.message, lies[i].says)) fail_msg("%s\n  -> %s", lies[i].index, err.message);
    }
    const char *fine =
        "{\"metadata\":{},\"weight_map\":{\"a\":\"one.safetensors\"}}"; /* as the 2B FP8 repository: no total_size */
    scratch_write(&s, "model.safetensors.index.json", fine, strlen(fine));
    checkpoint_close(open_folder(s.folder));
    buf_free(&b);
    scratch_remove(&s);
}

/* ---- lying quantisation metadata ---------------------------------------------------------------------------------------- */

/* Opens the quantised golden with one change and asks for one matrix. */
static void expect_refusal(const char *from, const char *to, const char *tensor, const void *bytes, size_t offset, size_t n,
                           const char *matrix, const char *says) {
    struct buf good = read_whole(QUANT "/model.safetensors");
    struct scratch s = scratch_new();
    struct err err = {0};
    struct linear_weight w;
    struct buf bad = {0};
    if (from) bad = replaced(&good, from, to);
    else buf_append(&bad, good.data, good.len);
    if (tensor) {
        struct checkpoint *c = open_folder(QUANT); /* finds where the tensor lies */
        const struct tensor *t = checkpoint_find(c, tensor);
        assert_non_null(t);
        char *at = memmem(bad.data, bad.len, t->data, t->bytes);
        assert_non_null(at);
        memcpy(at + offset, bytes, n);
        checkpoint_close(c);
    }
    scratch_write(&s, "model.safetensors", bad.data, bad.len);
    struct checkpoint *c = open_folder(s.folder);
    for (int i = 0; i < MATRICES; i++)
        if (!strcmp(matrices[i].name, matrix)) {
            if (checkpoint_linear(c, matrix, matrices[i].out, matrices[i].in, matrices[i].bias, &w, &err) == 0)
                fail_msg("accepted: %s", says);
            if (!strstr(err.message, matrix) || !strstr(err.message, says)) fail_msg("%s: %s", says, err.message);
        }
    checkpoint_close(c);
    scratch_remove(&s);
    buf_free(&bad);
    buf_free(&good);
}

static void lying_quantisation_is_refused(void **state) {
    (void)state;
    static const float bad_floats[] = {NAN, INFINITY, -INFINITY, 0.0f, -1.0f};
    for (int i = 0; i < 5; i++)
        expect_refusal(NULL, NULL, "fp8.weight_scale_inv", &bad_floats[i], 8, 4, "fp8",
                       "element 2: expected a finite value above 0");
    for (int i = 0; i < 3; i++) {
        expect_refusal(NULL, NULL, "nf4_nested.weight.nested_absmax", &bad_floats[i], 4, 4, "nf4_nested",
                       "element 1: expected a finite value");
        expect_refusal(NULL, NULL, "nf4_plain.weight.absmax", &bad_floats[i], 0, 4, "nf4_plain",
                       "element 0: expected a finite value");
    }
    expect_refusal("\"fp8.weight_scale_inv\":{\"dtype\":\"F32\",\"shape\":[2,3]",
                   "\"fp8.weight_scale_inv\":{\"dtype\":\"F32\",\"shape\":[3,2]", NULL, NULL, 0, 0, "fp8",
                   "shape: expected [2, 3]");
    expect_refusal("\"fp8.weight_scale_inv\"", "\"fp8.weight_scale_xxx\"", NULL, NULL, 0, 0, "fp8",
                   "expected beside it fp8.weight_scale_inv, found none");
    expect_refusal("\"fp8.weight_scale_inv\":{\"dtype\":\"F32\"", "\"fp8.weight_scale_inv\":{\"dtype\":\"I32\"", NULL, NULL, 0, 0,
                   "fp8", "dtype: expected F32, F16 or BF16, found I32");
    expect_refusal("\"nf4_nested.weight.nested_absmax\"", "\"nf4_nested.weight.nested_xxxxxx\"", NULL, NULL, 0, 0, "nf4_nested",
                   "nested_absmax, found none");
    expect_refusal("\"nf4_nested.weight.nested_quant_map\"", "\"nf4_nested.weight.nested_quant_xxx\"", NULL, NULL, 0, 0,
                   "nf4_nested", "nested_quant_map, found none");
    expect_refusal("\"nf4_nested.weight.quant_map\"", "\"nf4_nested.weight.quant_xxx\"", NULL, NULL, 0, 0, "nf4_nested",
                   "quant_map, found none");
    expect_refusal("\"nf4_nested.weight.absmax\"", "\"nf4_nested.weight.absxxx\"", NULL, NULL, 0, 0, "nf4_nested",
                   "absmax, found none");
    expect_refusal("\"nf4_nested.weight.quant_map\":{\"dtype\":\"F32\",\"shape\":[16]",
                   "\"nf4_nested.weight.quant_map\":{\"dtype\":\"I32\",\"shape\":[16]", NULL, NULL, 0, 0, "nf4_nested",
                   "expected 16 elements of F32");
    expect_refusal("quant_state.bitsandbytes__nf4", "quant_state.bitsandbytes__xx4", NULL, NULL, 0, 0, "nf4_half",
                   "nf4_half.weight");
    expect_refusal("\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.1294",
                   "\"nested_blocksize\": 000, \"nested_dtype\": \"float32\", \"nested_offset\": 0.1294", NULL, NULL, 0, 0,
                   "nf4_nested", "invalid JSON");
    static const struct {
        const char *from, *to, *says;
    } states[] = {
        {"\"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [160",
         "\"nf4\", \"blocksize\":  0, \"dtype\": \"bfloat16\", \"shape\": [160", "blocksize: expected a power of two"},
        {"\"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [160",
         "\"nf4\", \"blocksize\": -4, \"dtype\": \"bfloat16\", \"shape\": [160", "blocksize: expected a power of two"},
        {"\"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [160",
         "\"nf4\", \"blocksize\": 32, \"dtype\": \"bfloat16\", \"shape\": [160", "expected 640 elements"},
        {"\"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [160",
         "\"fp4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [160", "quant_type: expected \"nf4\""},
        {"\"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [160",
         "\"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat99\", \"shape\": [160", "dtype: expected bfloat16"},
        {"\"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [160, 128]",
         "\"nf4\", \"blocksize\": 64, \"dtype\": \"bfloat16\", \"shape\": [128, 160]",
         "shape: expected [160, 128], found [128, 160]"},
        {"\"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.1294",
         "\"nested_blocksize\": 255, \"nested_dtype\": \"float32\", \"nested_offset\": 0.1294", "nested_blocksize"},
        {"\"nested_offset\": 0.1294", "\"nested_offset\":  1e999", "nested_offset"},
    };
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        expect_refusal(states[i].from, states[i].to, NULL, NULL, 0, 0, "nf4_nested", states[i].says);
}

/* ---- lying configs ------------------------------------------------------------------------------------------------------ */

static void lying_configs_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *says;
    } lies[] = {
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 0",
         "text_config.num_attention_heads: expected an integer from 1 to 1024, found 0"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": \"4\"", "found \"4\""},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 3",
         "num_key_value_heads: expected a divisor of num_attention_heads 3, found 2"},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 0", "num_key_value_heads"},
        {"\"hidden_size\": 80", "\"hidden_size\": 2147483648",
         "text_config.hidden_size: expected an integer from 2 to 65536, found 2147483648"},
        {"\"hidden_size\": 80", "\"hidden_size\": -80", "hidden_size"},
        {"\"hidden_size\": 80", "\"hidden_size\": 96",
         "vision_config.out_hidden_size: expected text_config.hidden_size 96, found 80"},
        {"\"head_dim\": 32", "\"head_dim\": 31", "even"},
        {"\"head_dim\": 32", "\"head_dim\": 64", "mrope_section: expected a sum of head_dim / 2 = 32"},
        {"\"rope_theta\": 5000000.0", "\"rope_theta\": NaN", "invalid JSON"},
        {"\"rope_theta\": 5000000.0", "\"rope_theta\": null", "rope_theta: expected a number from 1 to 1e+12, found nothing"},
        {"\"rope_theta\": 5000000.0", "\"rope_theta\": 1e999", "rope_theta: expected a number"},
        {"\"rope_theta\": 5000000.0", "\"rope_theta\": -1", "rope_theta"},
        {"\"rope_type\": \"default\"", "\"rope_type\": \"yarn\"", "rope_type: expected \"default\", found \"yarn\""},
        {"\"mrope_interleaved\": true", "\"mrope_interleaved\": false", "mrope_interleaved: expected true"},
        {"\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": 0", "rms_norm_eps"},
        {"\"vocab_size\": 349", "\"vocab_size\": 300", "image_token_id: expected an integer from 0 to 299"},
        {"\"num_hidden_layers\": 3", "\"num_hidden_layers\": 1e9", "num_hidden_layers"},
        {"\"hidden_act\": \"silu\"", "\"hidden_act\": \"relu\"", "hidden_act: expected \"silu\", found \"relu\""},
        {"\"attention_bias\": false", "\"attention_bias\": true", "attention_bias: expected false, found true"},
        {"\"model_type\": \"qwen3_vl\"", "\"model_type\": \"llama\"", "model_type: expected \"qwen3_vl\", found \"llama\""},
        {"\"hidden_size\": 72", "\"hidden_size\": 74", "num_heads 1 times a multiple of 4"},
        {"\"num_position_embeddings\": 64", "\"num_position_embeddings\": 65", "square"},
        {"\"num_heads\": 1", "\"num_heads\": 0", "vision_config.num_heads"},
        {"\"patch_size\": 16", "\"patch_size\": 0", "patch_size"},
        {"\"spatial_merge_size\": 2", "\"spatial_merge_size\": 0", "spatial_merge_size"},
        {"\"in_channels\": 3", "\"in_channels\": 4", "in_channels"},
        {"\"depth\": 3", "\"depth\": 2", "deepstack_visual_indexes[1]: expected ascending block numbers below 2, found 2"},
        {"\"text_config\": {", "\"text_config\": 7, \"x\": {", "text_config: expected an object, found 7"},
        {"\"dtype\": \"bfloat16\"", "\"quantization_config\": {\"quant_method\": \"gptq\"}",
         "quant_method: expected \"fp8\" or \"bitsandbytes\", found \"gptq\""},
        {"\"dtype\": \"bfloat16\"", "\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [64, 128]}",
         "weight_block_size: expected [128, 128]"},
        {"\"dtype\": \"bfloat16\"",
         "\"quantization_config\": {\"quant_method\": \"bitsandbytes\", \"bnb_4bit_quant_type\": \"fp4\"}",
         "bnb_4bit_quant_type"},
        {"\"dtype\": \"bfloat16\"", "\"dtype\": \"bfloat16\", \"dtype\": 1", "twice"},
    };
    struct buf good = read_whole("tests/golden/tiny-a/config.json");
    struct scratch s = scratch_new();
    struct model_config m;
    struct err err = {0};
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct buf bad = replaced(&good, lies[i].from, lies[i].to);
        scratch_write(&s, "config.json", bad.data, bad.len);
        if (config_read(s.folder, &m, &err) == 0) fail_msg("accepted: %s", lies[i].to);
        if (!strstr(err.message, "/config.json") || !strstr(err.message, lies[i].says))
            fail_msg("%s\n  -> %s", lies[i].to, err.message);
        buf_free(&bad);
    }
    scratch_write(&s, "config.json", good.data, good.len);
    static const struct {
        const char *file, *text, *says;
    } others[] = {
        {"generation_config.json", "{\"temperature\": -1}", "temperature"},
        {"generation_config.json", "{\"top_k\": -1}", "top_k"},
        {"generation_config.json", "{\"top_p\": 2}", "top_p"},
        {"generation_config.json", "{\"eos_token_id\": 349}", "eos_token_id"},
        {"generation_config.json", "{\"eos_token_id\": [1, -1]}", "eos_token_id[1]"},
        {"generation_config.json", "{\"eos_token_id\": [1,2,3,4,5,6,7,8,9]}", "eos_token_id"},
        {"preprocessor_config.json", "{\"size\": {\"shortest_edge\": 0}}", "size.shortest_edge"},
        {"preprocessor_config.json", "{\"min_pixels\": 500, \"max_pixels\": 400}", "shortest_edge <= longest_edge"},
        {"preprocessor_config.json", "{\"patch_size\": 14}", "patch_size: expected an integer from 16 to 16, found 14"},
        {"preprocessor_config.json", "{\"image_std\": [0.5, 0, 0.5]}", "image_std"},
        {"preprocessor_config.json", "{\"image_mean\": [0.5, 0.5]}", "image_mean"},
        {"video_preprocessor_config.json", "[]]", "invalid JSON"},
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        scratch_write(&s, others[i].file, others[i].text, strlen(others[i].text));
        if (config_read(s.folder, &m, &err) == 0) fail_msg("accepted: %s", others[i].text);
        if (!strstr(err.message, others[i].file) || !strstr(err.message, others[i].says))
            fail_msg("%s\n  -> %s", others[i].text, err.message);
        char path[200];
        snprintf(path, sizeof path, "%s/%s", s.folder, others[i].file);
        unlink(path);
    }
    scratch_remove(&s);
    buf_free(&good);
}

static void both_spellings_of_configs_are_read(void **state) {
    (void)state;
    struct model_config now, then;
    struct err err = {0};
    struct scratch s = scratch_new();
    struct buf good = read_whole("tests/golden/tiny-a/config.json");
    if (config_read(s.folder, &now, &err)) fail_msg("%s", err.message);
    struct buf old = replaced(&good, "\"rope_parameters\": {", "\"rope_theta\": 5e6, \"rope_scaling\": {"),
               older = replaced(&old, "\"rope_theta\": 5000000.0,", ""),
               oldest = replaced(&older, "\"dtype\"", "\"torch_dtype\"");
    scratch_write(&s, "config.json", oldest.data, oldest.len);
    if (config_read(s.folder, &then, &err)) fail_msg("%s", err.message);
    assert_memory_equal(&now.text, &then.text, sizeof now.text);
    assert_true(now.text.rope_theta == 5e6 && now.text.mrope_section[1] == 5 && now.image.max_pixels == 16777216);
    const char *both = "{\"image_processor\": {\"size\": {\"shortest_edge\": 1024, \"longest_edge\": 4096}}, "
                       "\"video_processor\": {\"min_pixels\": 77}}";
    scratch_write(&s, "processor_config.json", both, strlen(both));
    if (config_read(s.folder, &then, &err)) fail_msg("%s", err.message);
    assert_true(then.image.min_pixels == 1024 && then.image.max_pixels == 4096 && then.video.min_pixels == 77);
    buf_free(&old), buf_free(&older), buf_free(&oldest), buf_free(&good);
    scratch_remove(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dequantisation_is_exact),
        cmocka_unit_test(unaligned_files_read_the_same),
        cmocka_unit_test(conversions_round_trip),
        cmocka_unit_test(goldens_of_every_format_open),
        cmocka_unit_test(lying_headers_are_refused),
        cmocka_unit_test(lying_indexes_are_refused),
        cmocka_unit_test(lying_quantisation_is_refused),
        cmocka_unit_test(lying_configs_are_refused),
        cmocka_unit_test(both_spellings_of_configs_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
