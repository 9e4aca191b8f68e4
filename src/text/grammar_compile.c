/* A JSON schema, of the subset that constraint.h states, into nodes. Keywords that only annotate are ignored; every other
 * keyword that is not implemented is refused by name, since ignoring it would break the promise that results satisfy the schema. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/constraint.h"
#include "text/grammar.h"
#include "text/python_json.h"

enum { SCHEMA_LIMIT = 1 << 20, MAX_LITERALS = 65536 };
static const int64_t safe_integer = 9007199254740991; /* 2^53 - 1: what every JSON reader holds exactly */

struct compiler {
    struct grammar *g;
    uint32_t cap;
    struct err *err;
    int code;
    int depth;
    char path[256]; /* of the schema being read, for errors */
};

static uint32_t fail(struct compiler *c, const char *expected, const char *found) {
    if (!c->code) c->code = err_set(c->err, ERR_ARGUMENT, "schema: %s: expected %s, found %s", c->path, expected, found);
    return 0;
}

static uint32_t no_memory(struct compiler *c) {
    if (!c->code) c->code = err_set(c->err, ERR_MEMORY, "schema: out of memory");
    return 0;
}

static uint32_t add_node(struct compiler *c, struct node n) {
    struct grammar *g = c->g;
    if (c->code) return 0;
    if (g->node_count == GRAMMAR_MAX_NODES) return fail(c, "at most 65535 values", "more");
    if (g->node_count == c->cap) {
        uint32_t cap = c->cap ? c->cap * 2 : 32;
        struct node *grown = realloc(g->nodes, cap * sizeof *grown);
        if (!grown) return no_memory(c);
        g->nodes = grown;
        c->cap = cap;
    }
    if (n.width > GRAMMAR_MAX_WIDTH) return fail(c, "at most 512 branches of anyOf that are open at once", "more");
    g->nodes[g->node_count] = n;
    return g->node_count++;
}

static struct text_slice keep(struct compiler *c, struct buf *b) {
    struct text_slice s = {b->failed ? NULL : arena_string(&c->g->arena, b->data ? b->data : "", b->len), (uint32_t)b->len};
    if (!s.text) no_memory(c);
    buf_clear(b);
    return s;
}

static int by_text(const void *a, const void *b) {
    const struct text_slice *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

/* ---- literals ----------------------------------------------------------------------------------------------------------- */

static bool has_type(const struct json *v, const char *type) {
    switch (v->type) {
    case JSON_NULL: return strcmp(type, "null") == 0;
    case JSON_BOOL: return strcmp(type, "boolean") == 0;
    case JSON_STRING: return strcmp(type, "string") == 0;
    case JSON_NUMBER:
        return strcmp(type, "number") == 0 || (strcmp(type, "integer") == 0 && (v->is_integer || v->number == floor(v->number)));
    default: return false;
    }
}

static uint32_t compile_literals(struct compiler *c, struct json *const *values, uint32_t count, const char *type) {
    if (count == 0 || count > MAX_LITERALS) return fail(c, "enum with 1 to 65536 values", count ? "more" : "none");
    struct text_slice *texts = arena_array(&c->g->arena, count, sizeof *texts);
    if (!texts) return no_memory(c);
    struct buf b = {0};
    for (uint32_t i = 0; i < count && !c->code; i++) {
        if (values[i]->type == JSON_ARRAY || values[i]->type == JSON_OBJECT)
            fail(c, "enum and const of scalars", "an array or object");
        else if (type && !has_type(values[i], type)) fail(c, "enum and const values of the stated type", "another one");
        else if (values[i]->type == JSON_NUMBER && !values[i]->is_integer && !isfinite(values[i]->number))
            fail(c, "finite numbers", "one beyond the range of doubles");
        else python_json(&b, values[i]), texts[i] = keep(c, &b);
    }
    buf_free(&b);
    if (c->code) return 0;
    qsort(texts, count, sizeof *texts, by_text);
    uint32_t distinct = 1;
    for (uint32_t i = 1; i < count; i++)
        if (by_text(&texts[distinct - 1], &texts[i]) != 0) texts[distinct++] = texts[i];
    return add_node(c, (struct node){.kind = NODE_LITERALS, .count = distinct, .texts = texts, .width = 1});
}

static uint32_t compile_words(struct compiler *c, const char *one, const char *two) {
    struct text_slice *texts = arena_array(&c->g->arena, 2, sizeof *texts);
    if (!texts) return no_memory(c);
    texts[0] = (struct text_slice){one, (uint32_t)strlen(one)};
    if (two) texts[1] = (struct text_slice){two, (uint32_t)strlen(two)};
    return add_node(c, (struct node){.kind = NODE_LITERALS, .count = two ? 2 : 1, .texts = texts, .width = 1});
}

/* ---- the other types ---------------------------------------------------------------------------------------------------- */

/* low and high of a pair of keywords, within [least, most]. */
static void read_range(struct compiler *c, const struct json *s, const char *low_key, const char *high_key, int64_t least,
                       int64_t most, int64_t *low, int64_t *high) {
    const struct json *l = json_get(s, low_key), *h = json_get(s, high_key);
    char expected[120];
    snprintf(expected, sizeof expected, "%s <= %s, integers within %" PRId64 " and %" PRId64, low_key, high_key, least, most);
    if (l) *low = json_as_integer(l, INT64_MIN);
    if (h) *high = json_as_integer(h, INT64_MIN);
    if ((l && (*low == INT64_MIN || *low < least || *low > most)) ||
        (h && (*high == INT64_MIN || *high < least || *high > most)) || *low > *high)
        fail(c, expected, "an impossible range");
}

static uint32_t compile_schema(struct compiler *c, const struct json *s);

static uint32_t compile_child(struct compiler *c, const struct json *s, const char *step, size_t n) {
    size_t length = strlen(c->path);
    snprintf(c->path + length, sizeof c->path - length, ".%.*s", (int)(n < 60 ? n : 60), step);
    uint32_t node = compile_schema(c, s);
    if (!c->code) c->path[length] = 0;
    return node;
}

static uint32_t compile_object(struct compiler *c, const struct json *s) {
    const struct json *properties = json_get(s, "properties"), *required = json_get(s, "required"),
                      *more = json_get(s, "additionalProperties");
    if (more && more->type != JSON_BOOL) return fail(c, "additionalProperties true or false", "a schema");
    if (properties && properties->type != JSON_OBJECT) return fail(c, "properties as an object", "another value");
    if (required && required->type != JSON_ARRAY) return fail(c, "required as a list", "another value");
    for (uint32_t i = 0; required && i < required->count; i++)
        if (!json_get(properties, json_as_string(required->items[i], "")))
            return fail(c, "required names among the properties", json_as_string(required->items[i], "no string"));
    uint32_t count = properties ? properties->count : 0, *children = arena_array(&c->g->arena, count + 1, sizeof *children);
    struct text_slice *texts = arena_array(&c->g->arena, count + 1, sizeof *texts);
    if (!children || !texts) return no_memory(c);
    struct buf b = {0};
    for (uint32_t i = 0; i < count && !c->code; i++) {
        const struct json_member *m = &properties->members[i];
        struct json name = {.type = JSON_STRING, .count = m->key_len, .string = m->key};
        buf_char(&b, i ? ',' : '{');
        python_json(&b, &name);
        buf_char(&b, ':');
        texts[i] = keep(c, &b);
        children[i] = compile_child(c, m->value, m->key, m->key_len);
    }
    buf_str(&b, count ? "}" : "{}");
    texts[count] = keep(c, &b);
    buf_free(&b);
    return add_node(c, (struct node){.kind = NODE_OBJECT, .count = count, .texts = texts, .children = children, .width = 1});
}

static uint32_t compile_array(struct compiler *c, const struct json *s) {
    struct node n = {.kind = NODE_ARRAY, .count = 1, .low = 0, .high = INT64_MAX, .width = 1};
    read_range(c, s, "minItems", "maxItems", 0, 1 << 30, &n.low, &n.high);
    const struct json *items = json_get(s, "items");
    if (!items && n.high != 0) return fail(c, "items (a schema) in an array", "none");
    uint32_t *child = arena_array(&c->g->arena, 1, sizeof *child);
    if (!child) return no_memory(c);
    if (items) *child = compile_child(c, items, "items", 5);
    else n.count = 0;
    n.children = child;
    return add_node(c, n);
}

static uint32_t compile_any(struct compiler *c, const struct json *list) {
    if (list->type != JSON_ARRAY || list->count == 0) return fail(c, "anyOf as a list of schemas", "another value");
    uint32_t *children = arena_array(&c->g->arena, list->count, sizeof *children), width = 0;
    if (!children) return no_memory(c);
    for (uint32_t i = 0; i < list->count && !c->code; i++) {
        char step[32];
        int n = snprintf(step, sizeof step, "anyOf[%u]", i);
        children[i] = compile_child(c, list->items[i], step, (size_t)n);
        if (!c->code) width += c->g->nodes[children[i]].width;
        if (width > GRAMMAR_MAX_WIDTH) fail(c, "at most 512 branches of anyOf that are open at once", "more");
    }
    return add_node(c, (struct node){.kind = NODE_ANY, .count = list->count, .children = children, .width = width});
}

/* Refuses every keyword that is neither implemented for this type nor a mere annotation. */
static void check_keywords(struct compiler *c, const struct json *s, const char *const *allowed) {
    static const char *const annotations[] = {"title",    "description", "default",  "examples",  "$schema", "$id",
                                              "$comment", "deprecated",  "readOnly", "writeOnly", NULL};
    for (uint32_t i = 0; i < s->count && !c->code; i++) {
        bool known = false;
        for (const char *const *k = annotations; *k; k++) known |= strcmp(*k, s->members[i].key) == 0;
        for (const char *const *k = allowed; *k; k++) known |= strcmp(*k, s->members[i].key) == 0;
        if (!known) fail(c, "a supported keyword", s->members[i].key);
    }
}

static uint32_t compile_typed(struct compiler *c, const struct json *s, const char *type) {
    static const char *const object[] = {"type", "properties", "required", "additionalProperties", NULL},
                             *const array[] = {"type", "items", "minItems", "maxItems", NULL},
                             *const string[] = {"type", "minLength", "maxLength", NULL},
                             *const integer[] = {"type", "minimum", "maximum", NULL}, *const plain[] = {"type", NULL};
    static const struct {
        const char *name;
        const char *const *keywords;
    } types[] = {{"object", object}, {"array", array},   {"string", string}, {"integer", integer},
                 {"number", plain},  {"boolean", plain}, {"null", plain}};
    int which = -1;
    for (int i = 0; i < 7; i++)
        if (strcmp(type, types[i].name) == 0) which = i;
    if (which < 0) return fail(c, "type object, array, string, integer, number, boolean or null", type);
    check_keywords(c, s, types[which].keywords);
    if (c->code) return 0;
    struct node n = {.width = 1, .low = 0, .high = INT64_MAX};
    switch (which) {
    case 0: return compile_object(c, s);
    case 1: return compile_array(c, s);
    case 2:
        n.kind = NODE_STRING;
        read_range(c, s, "minLength", "maxLength", 0, 1 << 30, &n.low, &n.high);
        return add_node(c, n);
    case 3:
        n.kind = NODE_INTEGER, n.low = -safe_integer, n.high = safe_integer;
        read_range(c, s, "minimum", "maximum", -safe_integer, safe_integer, &n.low, &n.high);
        return add_node(c, n);
    case 4: n.kind = NODE_NUMBER; return add_node(c, n);
    case 5: return compile_words(c, "false", "true");
    default: return compile_words(c, "null", NULL);
    }
}

static uint32_t compile_schema(struct compiler *c, const struct json *s) {
    static const char *const with_enum[] = {"type", "enum", NULL}, *const with_const[] = {"type", "const", NULL},
                             *const with_any[] = {"anyOf", NULL};
    if (c->code) return 0;
    if (!s || s->type != JSON_OBJECT) return fail(c, "a schema (an object)", "another value");
    if (c->depth == GRAMMAR_MAX_DEPTH) return fail(c, "nesting to 16 levels", "more");
    const struct json *type = json_get(s, "type"), *list = json_get(s, "enum"), *value = json_get(s, "const"),
                      *any = json_get(s, "anyOf");
    if (type && type->type != JSON_STRING) return fail(c, "type as one name", "a list or another value (use anyOf)");
    if (!type && !list && !value && !any) {
        check_keywords(c, s, with_any);
        return fail(c, "type, enum, const or anyOf", "none of them");
    }
    c->depth++;
    uint32_t node;
    if (list) {
        check_keywords(c, s, with_enum);
        node = list->type == JSON_ARRAY ? compile_literals(c, list->items, list->count, json_as_string(type, NULL))
                                        : fail(c, "enum as a list", "another value");
    } else if (value) {
        check_keywords(c, s, with_const);
        struct json *one = (struct json *)value;
        node = compile_literals(c, &one, 1, json_as_string(type, NULL));
    } else if (any) {
        check_keywords(c, s, with_any);
        node = compile_any(c, any);
    } else {
        node = compile_typed(c, s, type->string);
    }
    c->depth--;
    return node;
}

int grammar_compile(const char *schema, size_t n, const struct tokenizer *t, struct grammar **out, struct err *err) {
    *out = NULL;
    if (n > SCHEMA_LIMIT) return err_set(err, ERR_LIMIT, "schema: expected at most %d bytes, found %zu", SCHEMA_LIMIT, n);
    struct grammar *g = calloc(1, sizeof *g);
    if (!g) return err_set(err, ERR_MEMORY, "schema: out of memory");
    pthread_mutex_init(&g->lock, NULL);
    struct arena arena = {0};
    struct err local = {0};
    struct compiler c = {.g = g, .err = err ? err : &local, .path = "$"};
    const struct json *root = json_parse(schema, n, "schema", &arena, c.err);
    if (!root) c.code = c.err->code;
    g->root = compile_schema(&c, root);
    arena_free(&arena);
    g->t = t;
    if (!c.code && !(g->trie = token_trie_of(t))) no_memory(&c);
    if (c.code) return grammar_free(g), c.code;
    *out = g;
    return 0;
}

void grammar_free(struct grammar *g) {
    if (!g) return;
    for (int i = 0; i < GRAMMAR_CACHE; i++) free(g->cache[i].bits);
    pthread_mutex_destroy(&g->lock);
    arena_free(&g->arena);
    free(g->nodes);
    free(g);
}
