#include "base/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>

#include "base/file.h"

/* While a container is open its children are kept in a growing stack; closing copies them into the arena. */
struct frame {
    struct json *node;
    size_t first; /* index of its first child in the stacks */
};

struct parser {
    struct arena *arena;
    struct frame frames[JSON_MAX_DEPTH];
    int depth;
    struct json_member *stack; /* key is NULL inside arrays */
    size_t stack_len, stack_cap;
    const char *key;
    uint32_t key_len;
    struct json *root;
    const char *failure;
};

static int fail(struct parser *p, const char *why) {
    p->failure = why;
    return 0;
}

static int push(struct parser *p, struct json *node) {
    if (p->depth == 0) {
        p->root = node;
        return 1;
    }
    if (p->stack_len == p->stack_cap) {
        size_t cap = p->stack_cap ? p->stack_cap * 2 : 256;
        struct json_member *grown = realloc(p->stack, cap * sizeof *grown);
        if (!grown) return fail(p, "out of memory");
        p->stack = grown;
        p->stack_cap = cap;
    }
    p->stack[p->stack_len++] = (struct json_member){p->key, p->key_len, node};
    p->key = NULL;
    return 1;
}

static struct json *new_node(struct parser *p, enum json_type type) {
    struct json *node = arena_alloc(p->arena, sizeof *node);
    if (node) node->type = type;
    return node;
}

static int on_null(void *ctx) {
    struct parser *p = ctx;
    struct json *node = new_node(p, JSON_NULL);
    return node ? push(p, node) : fail(p, "out of memory");
}

static int on_bool(void *ctx, int value) {
    struct parser *p = ctx;
    struct json *node = new_node(p, JSON_BOOL);
    if (!node) return fail(p, "out of memory");
    node->boolean = value != 0;
    return push(p, node);
}

static int on_number(void *ctx, const char *text, size_t len) {
    struct parser *p = ctx;
    char copy[64];
    if (len >= sizeof copy) return fail(p, "a number has more than 63 characters");
    memcpy(copy, text, len);
    copy[len] = 0;
    struct json *node = new_node(p, JSON_NUMBER);
    if (!node) return fail(p, "out of memory");
    if (!strpbrk(copy, ".eE")) {
        errno = 0;
        long long value = strtoll(copy, NULL, 10);
        if (errno == 0) {
            node->is_integer = true;
            node->integer = value;
            return push(p, node);
        }
    }
    node->number = strtod(copy, NULL);
    return push(p, node);
}

static int on_string(void *ctx, const unsigned char *text, size_t len) {
    struct parser *p = ctx;
    if (len > UINT32_MAX) return fail(p, "a string is longer than 4 GiB");
    struct json *node = new_node(p, JSON_STRING);
    if (!node) return fail(p, "out of memory");
    node->string = arena_string(p->arena, (const char *)text, len);
    if (!node->string) return fail(p, "out of memory");
    node->count = (uint32_t)len;
    return push(p, node);
}

static int open_container(struct parser *p, enum json_type type) {
    if (p->depth == JSON_MAX_DEPTH) return fail(p, "nested deeper than 128 levels");
    struct json *node = new_node(p, type);
    if (!node) return fail(p, "out of memory");
    if (!push(p, node)) return 0;
    p->frames[p->depth++] = (struct frame){node, p->stack_len};
    return 1;
}

static int on_start_map(void *ctx) { return open_container(ctx, JSON_OBJECT); }
static int on_start_array(void *ctx) { return open_container(ctx, JSON_ARRAY); }

static int on_key(void *ctx, const unsigned char *text, size_t len) {
    struct parser *p = ctx;
    if (len > UINT32_MAX) return fail(p, "a key is longer than 4 GiB");
    p->key = arena_string(p->arena, (const char *)text, len);
    p->key_len = (uint32_t)len;
    return p->key ? 1 : fail(p, "out of memory");
}

static int compare_keys(const void *a, const void *b) {
    const struct json_member *x = *(const struct json_member *const *)a, *y = *(const struct json_member *const *)b;
    uint32_t n = x->key_len < y->key_len ? x->key_len : y->key_len;
    int order = memcmp(x->key, y->key, n);
    return order ? order : (x->key_len > y->key_len) - (x->key_len < y->key_len);
}

/* Duplicate keys are refused: two readers that disagree on which one counts are an attack on whoever trusts both. */
static bool has_duplicate_key(const struct json_member *members, uint32_t count, bool *out_of_memory) {
    if (count < 2) return false;
    const struct json_member **sorted = malloc(count * sizeof *sorted);
    if (!sorted) return *out_of_memory = true, false;
    for (uint32_t i = 0; i < count; i++) sorted[i] = &members[i];
    qsort(sorted, count, sizeof *sorted, compare_keys);
    bool found = false;
    for (uint32_t i = 1; i < count && !found; i++) found = compare_keys(&sorted[i - 1], &sorted[i]) == 0;
    free(sorted);
    return found;
}

static int close_container(struct parser *p) {
    struct frame frame = p->frames[--p->depth];
    size_t count = p->stack_len - frame.first;
    if (count > UINT32_MAX) return fail(p, "a container has more than 2^32 entries");
    struct json_member *children = p->stack ? p->stack + frame.first : NULL; /* no stack yet: an empty container at the top */
    if (frame.node->type == JSON_OBJECT) {
        bool out_of_memory = false;
        if (has_duplicate_key(children, (uint32_t)count, &out_of_memory)) return fail(p, "a key occurs twice in one object");
        frame.node->members = out_of_memory ? NULL : arena_array(p->arena, count, sizeof *children);
        if (count && !frame.node->members) return fail(p, "out of memory");
        if (count) memcpy(frame.node->members, children, count * sizeof *children);
    } else {
        frame.node->items = arena_array(p->arena, count, sizeof *frame.node->items);
        if (count && !frame.node->items) return fail(p, "out of memory");
        for (size_t i = 0; i < count; i++) frame.node->items[i] = children[i].value;
    }
    frame.node->count = (uint32_t)count;
    p->stack_len = frame.first;
    return 1;
}

static int on_end(void *ctx) { return close_container(ctx); }

static const yajl_callbacks callbacks = {
    .yajl_null = on_null,
    .yajl_boolean = on_bool,
    .yajl_number = on_number,
    .yajl_string = on_string,
    .yajl_start_map = on_start_map,
    .yajl_map_key = on_key,
    .yajl_end_map = on_end,
    .yajl_start_array = on_start_array,
    .yajl_end_array = on_end,
};

const struct json *json_parse(const char *text, size_t len, const char *what, struct arena *a, struct err *err) {
    struct parser *p = calloc(1, sizeof *p);
    yajl_handle handle = p ? yajl_alloc(&callbacks, NULL, p) : NULL;
    if (!handle) {
        free(p);
        err_set(err, ERR_MEMORY, "%s: out of memory", what);
        return NULL;
    }
    p->arena = a;
    yajl_status status = yajl_parse(handle, (const unsigned char *)text, len);
    if (status == yajl_status_ok) status = yajl_complete_parse(handle);
    const struct json *root = NULL;
    if (status == yajl_status_ok && p->root) {
        root = p->root;
    } else {
        size_t offset = yajl_get_bytes_consumed(handle);
        unsigned char *message = p->failure ? NULL : yajl_get_error(handle, 0, (const unsigned char *)text, len);
        if (message) message[strcspn((char *)message, "\n")] = 0;
        err_set(err, ERR_FORMAT, "%s: invalid JSON near byte %zu: %s", what, offset,
                p->failure ? p->failure : message ? (const char *)message : "empty document");
        if (message) yajl_free_error(handle, message);
    }
    yajl_free(handle);
    free(p->stack);
    free(p);
    return root;
}

const struct json *json_parse_file(const char *path, size_t limit, struct arena *a, struct err *err) {
    struct buf text = {0};
    const struct json *root = NULL;
    if (file_read(path, limit, &text, err) == 0) root = json_parse(text.data ? text.data : "", text.len, path, a, err);
    buf_free(&text);
    return root;
}

const struct json *json_get(const struct json *obj, const char *key) {
    if (!obj || obj->type != JSON_OBJECT) return NULL;
    size_t len = strlen(key);
    for (uint32_t i = 0; i < obj->count; i++) {
        const struct json_member *m = &obj->members[i];
        if (m->key_len == len && memcmp(m->key, key, len) == 0) return m->value;
    }
    return NULL;
}

double json_as_number(const struct json *v, double otherwise) {
    if (!v || v->type != JSON_NUMBER) return otherwise;
    return v->is_integer ? (double)v->integer : v->number;
}

int64_t json_as_integer(const struct json *v, int64_t otherwise) {
    if (!v || v->type != JSON_NUMBER) return otherwise;
    if (v->is_integer) return v->integer;
    return v->number >= -9e15 && v->number <= 9e15 && (double)(int64_t)v->number == v->number ? (int64_t)v->number : otherwise;
}

bool json_as_bool(const struct json *v, bool otherwise) { return v && v->type == JSON_BOOL ? v->boolean : otherwise; }

const char *json_as_string(const struct json *v, const char *otherwise) {
    return v && v->type == JSON_STRING ? v->string : otherwise;
}
