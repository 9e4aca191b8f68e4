/* Reads a data set back: every entry and every picture, all of it input from outside. */
#include "record/dataset.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "record/hash.h"
#include "record/key_set.h"
#include "record/lines.h"
#include "record/png_file.h"

enum { PNG_LIMIT = 1 << 20 };

/* A relative name that stays inside the folder. */
static bool name_is_safe(const char *name) {
    if (!name || !name[0] || name[0] == '/' || strlen(name) > 200) return false;
    for (const char *p = name; p; p = strchr(p, '/')) {
        if (*p == '/') p++;
        if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || p[2] == 0)) return false;
        if (*p == 0) return false;
    }
    return true;
}

static int read_picture(const char *folder, const struct json *entry, uint8_t *rgb, struct err *err) {
    const char *name = json_as_string(json_get(entry, "frame_path"), NULL);
    if (!name_is_safe(name)) return err_set(err, ERR_FORMAT, "frame_path: expected a name inside the folder");
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/%s", PATH_MAX / 2, folder, name);
    struct buf png = {0};
    int code = file_read(path, PNG_LIMIT, &png, err);
    if (!code) code = png_decode(png.data, png.len, FRAME_WIDTH, FRAME_HEIGHT, rgb, path, err);
    buf_free(&png);
    return code;
}

static const struct {
    const char *name;
    enum json_type type;
    bool may_be_null;
} fields[] = {
    {"frame_id", JSON_STRING, false},    {"action", JSON_STRING, false}, {"buttons", JSON_ARRAY, false},      {"hold_ms", JSON_NUMBER, false},
    {"wait_ms", JSON_NUMBER, false},     {"seed", JSON_NUMBER, false},   {"captured_at", JSON_STRING, false}, {"frame_path", JSON_STRING, false},
    {"notes", JSON_STRING, false},       {"state", JSON_STRING, false},  {"world", JSON_OBJECT, false},       {"oracle_action", JSON_STRING, true},
    {"scene", JSON_STRING, false},       {"prompt", JSON_STRING, true},
};
enum { FIELD_COUNT = sizeof fields / sizeof *fields };

/* The same text for the same value, whatever the spacing in the file. */
static void print_json(struct buf *b, const struct json *j) {
    switch (j->type) {
    case JSON_NULL: buf_str(b, "null"); break;
    case JSON_BOOL: buf_str(b, j->boolean ? "true" : "false"); break;
    case JSON_NUMBER:
        if (j->is_integer) buf_printf(b, "%lld", (long long)j->integer);
        else buf_json_number(b, j->number);
        break;
    case JSON_STRING: buf_json_string(b, j->string, j->count); break;
    case JSON_ARRAY:
        for (uint32_t i = 0; i < j->count; i++) buf_char(b, i ? ',' : '['), print_json(b, j->items[i]);
        buf_str(b, j->count ? "]" : "[]");
        break;
    case JSON_OBJECT:
        for (uint32_t i = 0; i < j->count; i++) {
            buf_char(b, i ? ',' : '{');
            buf_json_string(b, j->members[i].key, j->members[i].key_len);
            buf_char(b, ':');
            print_json(b, j->members[i].value);
        }
        buf_str(b, j->count ? "}" : "{}");
        break;
    }
}

struct checker {
    const char *folder;
    struct dataset_check *check;
    const char *where; /* "line 17 (s00000001-00003)" */
    struct key_set pictures, names;
    struct buf scratch;
    uint8_t rgb[FRAME_PIXELS * 3];
};

static void problem(struct checker *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void problem(struct checker *c, const char *format, ...) {
    char text[1400], why[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    snprintf(text, sizeof text, "%.150s: %s", c->where, why);
    c->check->problems++;
    c->check->problem(c->check->user, text);
}

static void check_fields(struct checker *c, const struct json *entry) {
    for (int i = 0; i < FIELD_COUNT; i++) {
        const struct json *v = json_get(entry, fields[i].name);
        if (!v) problem(c, "field %s is missing", fields[i].name);
        else if (v->type != fields[i].type && !(fields[i].may_be_null && v->type == JSON_NULL)) problem(c, "field %s has the wrong type", fields[i].name);
    }
    for (uint32_t i = 0; i < entry->count; i++) {
        int k = 0;
        while (k < FIELD_COUNT && strcmp(fields[k].name, entry->members[i].key) != 0) k++;
        if (k == FIELD_COUNT) problem(c, "unknown field %.60s", entry->members[i].key);
    }
}

static void check_action(struct checker *c, const struct json *entry, const char *field) {
    const struct json *v = json_get(entry, field);
    if (!v || v->type != JSON_STRING) return;
    for (int i = 0; i < c->check->known_count; i++) {
        if (strcmp(v->string, c->check->known_actions[i]) == 0) return;
    }
    problem(c, "%s: unknown action '%.60s'", field, v->string);
}

static int check_entry(struct checker *c, const struct json *entry, struct err *err) {
    char key[33];
    check_fields(c, entry);
    check_action(c, entry, "action");
    check_action(c, entry, "oracle_action");
    const struct json *id = json_get(entry, "frame_id"), *world = json_get(entry, "world");
    if (id && id->type == JSON_STRING) {
        hash_hex(id->string, id->count, NULL, 0, key);
        int added = key_set_add(&c->names, key);
        if (added < 0) return err_set(err, ERR_MEMORY, "out of memory");
        if (added == 0) problem(c, "frame_id occurs twice");
    }
    struct err why = {0};
    if (read_picture(c->folder, entry, c->rgb, &why)) {
        problem(c, "%s", why.message);
        return 0;
    }
    bool one_colour = true;
    for (int i = 3; i < FRAME_PIXELS * 3 && one_colour; i++) one_colour = c->rgb[i] == c->rgb[i % 3];
    if (one_colour) problem(c, "the picture is empty: all of it has one colour, #%02x%02x%02x", c->rgb[0], c->rgb[1], c->rgb[2]);
    if (!world) return 0;
    buf_clear(&c->scratch);
    print_json(&c->scratch, world);
    if (c->scratch.failed) return err_set(err, ERR_MEMORY, "out of memory");
    hash_hex(c->rgb, sizeof c->rgb, c->scratch.data, c->scratch.len, key);
    int added = key_set_add(&c->pictures, key);
    if (added < 0) return err_set(err, ERR_MEMORY, "out of memory");
    if (added == 0) problem(c, "picture and world repeat an entry before");
    return 0;
}

int dataset_check(const char *folder, struct dataset_check *check, struct err *err) {
    char path[PATH_MAX], where[120], *line;
    size_t n;
    bool torn = false;
    snprintf(path, sizeof path, "%.*s/manifest.jsonl", PATH_MAX - 40, folder);
    struct line_reader lines;
    check->entries = check->problems = 0;
    int code = line_reader_open(path, &lines, err);
    if (code) return code;
    struct checker *c = calloc(1, sizeof *c);
    if (!c) {
        line_reader_close(&lines);
        return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    }
    c->folder = folder;
    c->check = check;
    c->where = where;
    while (!code && (code = line_reader_next(&lines, &line, &n, &torn, err)) == 1) {
        struct arena a = {0};
        struct err why = {0};
        code = 0;
        check->entries++;
        snprintf(where, sizeof where, "line %llu", (unsigned long long)lines.number);
        const struct json *entry = json_parse(line, n, "entry", &a, &why);
        if (!entry) problem(c, "%s", why.message);
        else if (entry->type != JSON_OBJECT) problem(c, "expected an object");
        else {
            snprintf(where, sizeof where, "line %llu (%.60s)", (unsigned long long)lines.number, json_as_string(json_get(entry, "frame_id"), "no frame_id"));
            code = check_entry(c, entry, err);
        }
        arena_free(&a);
    }
    snprintf(where, sizeof where, "manifest.jsonl");
    if (!code && torn) problem(c, "the last line is torn (no newline at its end)");
    if (!code && check->entries == 0) problem(c, "no entries");
    line_reader_close(&lines);
    key_set_free(&c->pictures);
    key_set_free(&c->names);
    buf_free(&c->scratch);
    free(c);
    return code;
}

int dataset_each(const char *folder, int (*visit)(void *user, const struct json *entry, const uint8_t *rgb, struct err *err), void *user, struct err *err) {
    char path[PATH_MAX], what[PATH_MAX + 40], *line;
    size_t n;
    snprintf(path, sizeof path, "%.*s/manifest.jsonl", PATH_MAX - 40, folder);
    struct line_reader lines;
    int code = line_reader_open(path, &lines, err);
    if (code) return code;
    uint8_t *rgb = malloc(FRAME_PIXELS * 3);
    if (!rgb) code = err_set(err, ERR_MEMORY, "%s: out of memory", path);
    while (!code && (code = line_reader_next(&lines, &line, &n, NULL, err)) == 1) {
        struct arena a = {0};
        snprintf(what, sizeof what, "%s: line %llu", path, (unsigned long long)lines.number);
        const struct json *entry = json_parse(line, n, what, &a, err);
        code = entry ? read_picture(folder, entry, rgb, err) : err->code;
        if (!code) code = visit(user, entry, rgb, err);
        arena_free(&a);
    }
    line_reader_close(&lines);
    free(rgb);
    return code;
}
