/* Constrained decoding: whatever walk a model takes through the masks, the result is JSON that satisfies the schema. */
#include "test.h"

#include <math.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "text/constraint.h"

#define SMALL "tests/golden/text"
#define QWEN "../shared/data/qwen3-tokenizer"

static const char *const schemas[] = {
    "{\"type\":\"object\",\"properties\":{\"action\":{\"type\":\"string\",\"enum\":[\"walk_north\",\"walk_south\",\"walk\","
    "\"wait\",\"use_move\"]}},\"required\":[\"action\"],"
    "\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"reason\":{\"type\":\"string\",\"maxLength\":40},\"n\":{\"type\":\"integer\","
    "\"minimum\":-12,\"maximum\":305},"
    "\"ok\":{\"type\":\"boolean\"},\"none\":{\"type\":\"null\"},\"x\":{\"type\":\"number\"}},\"additionalProperties\":false}",
    "{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":7,\"maximum\":1100},\"minItems\":2,\"maxItems\":5}",
    "{\"type\":\"object\",\"properties\":{\"a\":{\"anyOf\":[{\"type\":\"string\",\"minLength\":3,\"maxLength\":6},{\"type\":"
    "\"integer\"},{\"type\":\"null\"},{\"const\":\"str\"},"
    "{\"type\":\"object\",\"properties\":{\"a\":{\"enum\":[1,12,123,true,null,\"x\\n\",1.5,-3]}}}]},\"b\\u00e9\\\"\":{\"type\":"
    "\"array\",\"items\":{\"type\":\"array\","
    "\"items\":{\"enum\":[\"\\u65e5\\u672c\",\"e\\u0301\"]},\"maxItems\":2},\"minItems\":0,\"maxItems\":3}}}",
    "{\"type\":\"integer\",\"minimum\":-5,\"maximum\":-1}",
    "{\"type\":\"number\"}",
    "{\"type\":\"string\",\"minLength\":1,\"maxLength\":9}",
    "{\"enum\":[1,10,100,\"a\",\"ab\"]}",
    "{\"type\":\"object\",\"properties\":{}}",
    "{\"type\":\"object\",\"properties\":{\"q\":{\"type\":\"array\",\"items\":{\"anyOf\":[{\"type\":\"string\"},{\"type\":"
    "\"string\",\"maxLength\":2}]},\"maxItems\":3},"
    "\"t\":{\"type\":\"array\",\"maxItems\":0}}}",
};

/* A validator of its own for the subset, on the parsed result. */
static bool satisfies(const struct json *schema, const struct json *v) {
    const struct json *any = json_get(schema, "anyOf"), *list = json_get(schema, "enum"), *one = json_get(schema, "const");
    for (uint32_t i = 0; any && i < any->count; i++)
        if (satisfies(any->items[i], v)) return true;
    if (any) return false;
    if (list || one) {
        for (uint32_t i = 0; i < (list ? list->count : 1); i++) {
            const struct json *e = list ? list->items[i] : one;
            if (e->type != v->type) continue;
            if (e->type == JSON_STRING && e->count == v->count && memcmp(e->string, v->string, e->count) == 0) return true;
            if (e->type == JSON_NUMBER && json_as_number(e, 0) == json_as_number(v, 1)) return true;
            if (e->type == JSON_NULL || (e->type == JSON_BOOL && e->boolean == v->boolean)) return true;
        }
        return false;
    }
    const char *type = json_get(schema, "type")->string;
    if (!strcmp(type, "null")) return v->type == JSON_NULL;
    if (!strcmp(type, "boolean")) return v->type == JSON_BOOL;
    if (!strcmp(type, "number")) return v->type == JSON_NUMBER && isfinite(json_as_number(v, NAN));
    if (!strcmp(type, "integer"))
        return v->type == JSON_NUMBER && v->is_integer && v->integer >= json_as_integer(json_get(schema, "minimum"), INT64_MIN) &&
               v->integer <= json_as_integer(json_get(schema, "maximum"), INT64_MAX);
    if (!strcmp(type, "string")) {
        if (v->type != JSON_STRING || utf8_valid_prefix(v->string, v->count) != v->count) return false;
        int64_t n = 0;
        for (uint32_t i = 0; i < v->count; i++) n += (v->string[i] & 0xC0) != 0x80;
        return n >= json_as_integer(json_get(schema, "minLength"), 0) &&
               n <= json_as_integer(json_get(schema, "maxLength"), INT64_MAX);
    }
    if (!strcmp(type, "array")) {
        if (v->type != JSON_ARRAY || v->count < json_as_integer(json_get(schema, "minItems"), 0) ||
            v->count > json_as_integer(json_get(schema, "maxItems"), INT64_MAX))
            return false;
        for (uint32_t i = 0; i < v->count; i++)
            if (!satisfies(json_get(schema, "items"), v->items[i])) return false;
        return true;
    }
    const struct json *properties = json_get(schema, "properties");
    if (v->type != JSON_OBJECT || v->count != properties->count) return false;
    for (uint32_t i = 0; i < v->count; i++)
        if (v->members[i].key_len != properties->members[i].key_len ||
            memcmp(v->members[i].key, properties->members[i].key, v->members[i].key_len) != 0 ||
            !satisfies(properties->members[i].value, v->members[i].value))
            return false;
    return true;
}

static uint64_t random_state = 88172645463325252u;
static uint64_t next_random(void) {
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return random_state;
}

static int32_t pick(const uint32_t *mask, int32_t vocab, int count) {
    uint64_t want = next_random() % (uint64_t)count;
    for (int32_t i = 0; i < vocab; i++)
        if (mask[i / 32] >> (i % 32) & 1 && want-- == 0) return i;
    return -1;
}

struct timing {
    double worst, total;
    int masks;
};

/* One random document; after a while it takes what closes strings and arrays. */
static void walk(const struct tokenizer *t, const struct grammar *g, const struct json *schema, bool use_forced,
                 struct timing *timing) {
    int32_t vocab = tokenizer_vocab(t);
    uint32_t *mask = calloc(((size_t)vocab + 31) / 32, 4);
    struct constraint_state *s = constraint_new(g);
    struct buf text = {0};
    size_t n;
    for (int step = 0;; step++) {
        bool done;
        const char *bytes;
        size_t forced = use_forced ? constraint_forced(s, &bytes) : 0;
        double start = clock_seconds();
        int count = constraint_mask(s, mask, &done);
        double took = clock_seconds() - start;
        if (timing) timing->total += took, timing->masks++, timing->worst = took > timing->worst ? took : timing->worst;
        assert_true(count >= 0);
        if (count == 0) {
            assert_true(done); /* never a dead end */
            break;
        }
        if (done && next_random() % 3 == 0) break;
        int32_t token = pick(mask, vocab, count);
        for (const char *closing = "]\""; step > 60 && *closing; closing++) /* hurry: take what closes, if it may come */
            for (int32_t i = 0; i < vocab; i++) {
                const char *piece = tokenizer_piece(t, i, &n);
                if (piece && n == 1 && *piece == *closing && mask[i / 32] >> (i % 32) & 1) token = i;
            }
        const char *piece = tokenizer_piece(t, token, &n);
        if (forced) { /* the token must agree with the forced text as far as both go */
            size_t m = n < forced ? n : forced;
            assert_memory_equal(piece, bytes, m);
        }
        struct constraint_state *copy = constraint_copy(s);
        assert_int_equal(constraint_accept(copy, token), 0);
        constraint_free(s);
        s = copy;
        buf_append(&text, piece, n);
        if (step >= 400) fail_msg("no end in sight: %.300s", text.data);
    }
    struct arena arena = {0};
    struct err err = {0};
    const struct json *v = json_parse(text.data, text.len, "result", &arena, &err);
    if (!v) fail_msg("%s: %s", err.message, text.data);
    if (!satisfies(schema, v)) fail_msg("does not satisfy its schema: %s", text.data);
    arena_free(&arena);
    buf_free(&text);
    constraint_free(s);
    free(mask);
}

static void walks_over(const char *folder, int rounds, bool print) {
    struct tokenizer *t = NULL;
    struct err err = {0};
    assert_int_equal(tokenizer_open(folder, &t, &err), 0);
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
        struct grammar *g;
        struct arena arena = {0};
        double start = clock_seconds();
        if (grammar_compile(schemas[i], strlen(schemas[i]), t, &g, &err)) fail_msg("%s", err.message);
        double compiled = clock_seconds() - start;
        const struct json *schema = json_parse(schemas[i], strlen(schemas[i]), "schema", &arena, &err);
        walk(t, g, schema, false, NULL); /* warm */
        struct timing timing = {0};
        for (int round = 0; round < rounds; round++) walk(t, g, schema, round % 2, &timing);
        if (print)
            fprintf(stderr, "schema %zu: compiled in %.2f ms; mask %.3f ms on average, %.3f at worst (%d)\n", i, compiled * 1e3,
                    timing.total / timing.masks * 1e3, timing.worst * 1e3, timing.masks);
        arena_free(&arena);
        grammar_free(g);
    }
    tokenizer_close(t);
}

static void random_walks(void **state) {
    (void)state;
    walks_over(SMALL, 300, false);
}

static void random_walks_in_the_full_vocabulary(void **state) {
    (void)state;
    if (!file_exists(QWEN "/tokenizer.json")) skip_because("no tokenizer in " QWEN);
    walks_over(QWEN, 12, true);
}

static void forced_text(void **state) {
    (void)state;
    struct tokenizer *t = NULL;
    struct grammar *g;
    const char *schema = "{\"type\":\"object\",\"properties\":{\"action\":{\"enum\":[\"walk_north\",\"walk_south\"]},\"end\":{"
                         "\"const\":true}}}",
               *bytes;
    assert_int_equal(tokenizer_open(SMALL, &t, NULL), 0);
    assert_int_equal(grammar_compile(schema, strlen(schema), t, &g, NULL), 0);
    struct constraint_state *s = constraint_new(g);
    size_t n = constraint_forced(s, &bytes);
    assert_int_equal(n, strlen("{\"action\":\"walk_"));
    assert_memory_equal(bytes, "{\"action\":\"walk_", n);
    struct token_list ids = {0};
    assert_int_equal(tokenizer_encode(t, bytes, n, false, &ids, NULL), 0);
    assert_int_equal(tokenizer_encode(t, "north", 5, false, &ids, NULL), 0);
    for (size_t i = 0; i < ids.count; i++) assert_int_equal(constraint_accept(s, ids.ids[i]), 0);
    n = constraint_forced(s, &bytes);
    assert_int_equal(n, strlen("\",\"end\":true}"));
    assert_int_equal(constraint_accept(s, tokenizer_added_id(t, "<|im_end|>")), -1);
    assert_int_equal(constraint_accept(s, ids.ids[0]), -1);
    assert_int_equal(constraint_accept(s, -5), -1);
    token_list_free(&ids);
    assert_int_equal(tokenizer_encode(t, bytes, n, false, &ids, NULL), 0);
    for (size_t i = 0; i < ids.count; i++) assert_int_equal(constraint_accept(s, ids.ids[i]), 0);
    bool done;
    uint32_t *mask = calloc(((size_t)tokenizer_vocab(t) + 31) / 32, 4);
    assert_int_equal(constraint_mask(s, mask, &done), 0);
    assert_true(done);
    free(mask);
    token_list_free(&ids);
    constraint_free(s);
    grammar_free(g);
    tokenizer_close(t);
}

/* The mask must say exactly what accept says. */
static void masks_agree_with_accept(void **state) {
    (void)state;
    struct tokenizer *t = NULL;
    assert_int_equal(tokenizer_open(SMALL, &t, NULL), 0);
    int32_t vocab = tokenizer_vocab(t);
    uint32_t *mask = calloc(((size_t)vocab + 31) / 32, 4);
    int extends = 0;
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
        struct grammar *g;
        assert_int_equal(grammar_compile(schemas[i], strlen(schemas[i]), t, &g, NULL), 0);
        struct constraint_state *s = constraint_new(g);
        for (int step = 0; step < 25; step++) {
            bool done;
            int count = constraint_mask(s, mask, &done);
            if (count == 0) break;
            for (int32_t id = 0; id < vocab; id++) {
                struct constraint_state *copy = constraint_copy(s);
                assert_int_equal(constraint_accept(copy, id) == 0, mask[id / 32] >> (id % 32) & 1);
                constraint_free(copy);
                size_t n, k;
                const char *piece = tokenizer_is_added(t, id) ? NULL : tokenizer_piece(t, id, &n);
                bool longer = false;
                for (int32_t other = 0; piece && other < vocab && !longer; other++) {
                    const char *more = mask[other / 32] >> (other % 32) & 1 ? tokenizer_piece(t, other, &k) : NULL;
                    longer = more && k > n && !memcmp(more, piece, n);
                }
                assert_int_equal(constraint_may_extend(s, id), longer);
                extends += longer;
            }
            assert_int_equal(constraint_accept(s, pick(mask, vocab, count)), 0);
        }
        constraint_free(s);
        grammar_free(g);
    }
    assert_true(extends > 0);
    free(mask);
    tokenizer_close(t);
}

static void unsupported_and_impossible_schemas_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *schema, *says;
    } bad[] = {
        {"[]", "a schema"},
        {"{}", "type, enum, const or anyOf"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}}}", "$ref"},
        {"{\"type\":\"string\",\"pattern\":\"(a+)+b\"}", "pattern"},
        {"{\"type\":\"string\",\"format\":\"date\"}", "format"},
        {"{\"type\":\"string\",\"minLength\":5,\"maxLength\":4}", "impossible"},
        {"{\"type\":\"string\",\"minLength\":-1}", "impossible"},
        {"{\"type\":\"integer\",\"minimum\":5,\"maximum\":4}", "impossible"},
        {"{\"type\":\"integer\",\"minimum\":1e300}", "impossible"},
        {"{\"type\":\"integer\",\"exclusiveMinimum\":5}", "exclusiveMinimum"},
        {"{\"type\":\"number\",\"minimum\":5}", "minimum"},
        {"{\"type\":\"array\"}", "items"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"minItems\":3,\"maxItems\":2}", "impossible"},
        {"{\"enum\":[]}", "enum"},
        {"{\"enum\":[[1]]}", "scalars"},
        {"{\"type\":\"string\",\"enum\":[1]}", "stated type"},
        {"{\"anyOf\":[]}", "anyOf"},
        {"{\"oneOf\":[{\"type\":\"null\"}]}", "oneOf"},
        {"{\"type\":[\"string\",\"null\"]}", "type as one name"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"}},\"required\":[\"b\"]}", "required"},
        {"{\"type\":\"object\",\"properties\":{},\"additionalProperties\":{\"type\":\"string\"}}", "additionalProperties"},
        {"{\"type\":\"frob\"}", "frob"},
        {"{\"type\":\"object\"", "invalid JSON"},
    };
    struct tokenizer *t = NULL;
    assert_int_equal(tokenizer_open(SMALL, &t, NULL), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct grammar *g = NULL;
        struct err err = {0};
        if (grammar_compile(bad[i].schema, strlen(bad[i].schema), t, &g, &err) == 0) fail_msg("accepted %s", bad[i].schema);
        if (!strstr(err.message, bad[i].says)) fail_msg("%s -> %s", bad[i].schema, err.message);
    }
    struct buf deep = {0};
    for (int i = 0; i < 40; i++) buf_str(&deep, "{\"type\":\"array\",\"items\":");
    buf_str(&deep, "{\"type\":\"null\"}");
    for (int i = 0; i < 40; i++) buf_str(&deep, "}");
    struct grammar *g = NULL;
    struct err err = {0};
    assert_int_not_equal(grammar_compile(deep.data, deep.len, t, &g, &err), 0);
    assert_non_null(strstr(err.message, "16 levels"));
    buf_clear(&deep);
    buf_str(&deep, "{\"anyOf\":[");
    for (int i = 0; i < 600; i++) buf_str(&deep, i ? ",{\"type\":\"string\"}" : "{\"type\":\"string\"}");
    buf_str(&deep, "]}");
    assert_int_not_equal(grammar_compile(deep.data, deep.len, t, &g, &err), 0);
    assert_non_null(strstr(err.message, "512"));
    buf_free(&deep);
    tokenizer_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_walks),
        cmocka_unit_test(random_walks_in_the_full_vocabulary),
        cmocka_unit_test(forced_text),
        cmocka_unit_test(masks_agree_with_accept),
        cmocka_unit_test(unsupported_and_impossible_schemas_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
