#include "bench/result.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"

enum column_type { COLUMN_TEXT, COLUMN_WHOLE, COLUMN_NUMBER };

#define TEXT(field) {#field, COLUMN_TEXT, offsetof(struct result, field), sizeof(((struct result *)0)->field)}
#define WHOLE(field) {#field, COLUMN_WHOLE, offsetof(struct result, field), 0}
#define NUMBER(field) {#field, COLUMN_NUMBER, offsetof(struct result, field), 0}
#define MEASURE(field)                                                              \
    {#field, COLUMN_NUMBER, offsetof(struct result, field.median), 0},              \
        {#field "_spread", COLUMN_NUMBER, offsetof(struct result, field.spread), 0}

static const struct column {
    const char *name;
    enum column_type type;
    size_t offset, size;
} columns[] = {
    TEXT(model), TEXT(weights), TEXT(task), NUMBER(picture_share), WHOLE(context), WHOLE(batch), WHOLE(best_of), TEXT(storage),
    TEXT(device), TEXT(kernels), TEXT(machine), TEXT(date), TEXT(version), TEXT(status), TEXT(reason), WHOLE(repeats),
    WHOLE(prompt_tokens), WHOLE(answer_tokens), MEASURE(prefill_tok_s), MEASURE(decode_tok_s), MEASURE(ttft_cold_ms),
    MEASURE(ttft_half_ms), MEASURE(ttft_prefix_ms), MEASURE(ttft_resident_ms), MEASURE(ttft_full_ms), NUMBER(token_p50_ms), NUMBER(token_p95_ms),
    NUMBER(token_p99_ms), NUMBER(picture_ms), NUMBER(memory_mib), NUMBER(host_mib), TEXT(energy), NUMBER(prefill_j_token),
    NUMBER(decode_j_token), NUMBER(read_gb_s), NUMBER(weight_mb), NUMBER(prefix_mb), NUMBER(suffix_mb), NUMBER(floor_tok_s),
    NUMBER(floor_share), NUMBER(wall_s)};
enum { COLUMNS = sizeof columns / sizeof *columns };

static const size_t file_limit = (size_t)256 << 20;

static char *text_at(const struct result *r, const struct column *c) { return (char *)r + c->offset; }
static int64_t *whole_at(const struct result *r, const struct column *c) { return (int64_t *)((char *)r + c->offset); }
static double *number_at(const struct result *r, const struct column *c) { return (double *)((char *)r + c->offset); }

void result_clear(struct result *r) {
    memset(r, 0, sizeof *r);
    for (int i = 0; i < COLUMNS; i++)
        if (columns[i].type == COLUMN_NUMBER) *number_at(r, &columns[i]) = NAN;
    r->picture_share = 0;
}

bool result_same_cell(const struct result *a, const struct result *b) {
    return !strcmp(a->model, b->model) && !strcmp(a->weights, b->weights) && !strcmp(a->task, b->task) &&
           fabs(a->picture_share - b->picture_share) < 1e-9 && a->context == b->context && a->batch == b->batch &&
           a->best_of == b->best_of;
}

int results_add(struct results *l, const struct result *r, struct err *err) {
    if (l->count == l->capacity) {
        size_t want = l->capacity ? 2 * l->capacity : 64;
        struct result *more = realloc(l->items, want * sizeof *more);
        if (!more) return err_set(err, ERR_MEMORY, "out of memory for %zu results", want);
        l->items = more;
        l->capacity = want;
    }
    l->items[l->count++] = *r;
    return 0;
}

void results_free(struct results *l) {
    free(l->items);
    *l = (struct results){0};
}

/* ---- writing ---- */

/* Seven digits: more are noise. */
static void put_number(struct buf *out, double v) { buf_printf(out, "%.7g", v); }

void result_write_json(const struct result *r, struct buf *out) {
    for (int i = 0; i < COLUMNS; i++) {
        const struct column *c = &columns[i];
        buf_printf(out, "%s\"%s\":", i ? "," : "{", c->name);
        if (c->type == COLUMN_TEXT) buf_json_string(out, text_at(r, c), strlen(text_at(r, c)));
        else if (c->type == COLUMN_WHOLE) buf_printf(out, "%" PRId64, *whole_at(r, c));
        else if (isfinite(*number_at(r, c))) put_number(out, *number_at(r, c));
        else buf_str(out, "null");
    }
    buf_str(out, "}\n");
}

static void csv_text(struct buf *out, const char *text) {
    if (!strpbrk(text, ",\"\n\r")) return buf_str(out, text);
    buf_char(out, '"');
    for (; *text; text++) {
        if (*text == '"') buf_char(out, '"');
        buf_char(out, *text == '\n' || *text == '\r' ? ' ' : *text); /* a row is a line */
    }
    buf_char(out, '"');
}

void result_write_csv_heading(struct buf *out) {
    for (int i = 0; i < COLUMNS; i++) buf_printf(out, "%s%s", i ? "," : "", columns[i].name);
    buf_char(out, '\n');
}

void result_write_csv(const struct result *r, struct buf *out) {
    for (int i = 0; i < COLUMNS; i++) {
        const struct column *c = &columns[i];
        if (i) buf_char(out, ',');
        if (c->type == COLUMN_TEXT) csv_text(out, text_at(r, c));
        else if (c->type == COLUMN_WHOLE) buf_printf(out, "%" PRId64, *whole_at(r, c));
        else if (isfinite(*number_at(r, c))) put_number(out, *number_at(r, c));
    }
    buf_char(out, '\n');
}

int result_append(const char *path, bool csv, const struct result *r, struct err *err) {
    struct buf line = {0};
    struct stat st;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666), code = 0;
    if (fd < 0 || fstat(fd, &st)) code = err_set(err, ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
    if (!code && csv && st.st_size == 0) result_write_csv_heading(&line);
    if (csv) result_write_csv(r, &line);
    else result_write_json(r, &line);
    if (!code && line.failed) code = err_set(err, ERR_MEMORY, "out of memory for a result");
    if (!code && (write(fd, line.data, line.len) != (ssize_t)line.len || fdatasync(fd))) {
        code = err_set(err, ERR_IO, "%s: cannot append a result: %s", path, strerror(errno));
        if (ftruncate(fd, st.st_size)) err_context(err, "(and a part of it could not be removed)");
    }
    if (fd >= 0) close(fd);
    buf_free(&line);
    return code;
}

/* ---- reading ---- */

static int take_text(const struct column *c, const char *text, size_t n, struct result *r, const char *where, struct err *err) {
    char *end, copy[64];
    if (c->type == COLUMN_TEXT) {
        if (n >= c->size) return err_set(err, ERR_FORMAT, "%s: %s has %zu bytes, at most %zu are expected", where, c->name, n, c->size - 1);
        memcpy(text_at(r, c), text, n);
        text_at(r, c)[n] = 0;
        return 0;
    }
    if (n == 0 && c->type == COLUMN_NUMBER) return 0; /* not measured */
    if (n == 0 || n >= sizeof copy) return err_set(err, ERR_FORMAT, "%s: %s: expected a number", where, c->name);
    memcpy(copy, text, n);
    copy[n] = 0;
    if (c->type == COLUMN_WHOLE) *whole_at(r, c) = strtoll(copy, &end, 10);
    else *number_at(r, c) = strtod(copy, &end);
    return *end ? err_set(err, ERR_FORMAT, "%s: %s: expected a number, found '%s'", where, c->name, copy) : 0;
}

static int read_json_line(const char *line, size_t n, const char *where, struct result *r, struct err *err) {
    struct arena arena = {0};
    const struct json *j = json_parse(line, n, where, &arena, err);
    int code = j ? 0 : ERR_FORMAT;
    if (j && j->type != JSON_OBJECT) code = err_set(err, ERR_FORMAT, "%s: expected a JSON object", where);
    for (int i = 0; !code && i < COLUMNS; i++) {
        const struct column *c = &columns[i];
        const struct json *v = json_get(j, c->name);
        if (!v || v->type == JSON_NULL) {
            if (c->type != COLUMN_NUMBER) code = err_set(err, ERR_FORMAT, "%s: %s is missing", where, c->name);
        } else if (c->type == COLUMN_TEXT && v->type == JSON_STRING) {
            code = take_text(c, v->string, v->count, r, where, err);
        } else if (c->type == COLUMN_WHOLE && v->type == JSON_NUMBER && v->is_integer) {
            *whole_at(r, c) = v->integer;
        } else if (c->type == COLUMN_NUMBER && v->type == JSON_NUMBER) {
            *number_at(r, c) = json_as_number(v, NAN);
        } else {
            code = err_set(err, ERR_FORMAT, "%s: %s: expected %s", where, c->name,
                           c->type == COLUMN_TEXT ? "a string" : c->type == COLUMN_WHOLE ? "a whole number" : "a number or null");
        }
    }
    arena_free(&arena);
    return code;
}

/* Takes one field off *at; returns its unquoted text in out. */
static int csv_field(const char **at, const char *end, struct buf *out, const char *where, struct err *err) {
    const char *p = *at;
    buf_clear(out);
    buf_str(out, "");
    if (p < end && *p == '"') {
        for (p++;; p++) {
            if (p == end) return err_set(err, ERR_FORMAT, "%s: a quoted field does not end", where);
            if (*p == '"' && p + 1 < end && p[1] == '"') p++;
            else if (*p == '"') break;
            buf_char(out, *p);
        }
        p++;
    } else {
        while (p < end && *p != ',') buf_char(out, *p++);
    }
    if (p < end && *p != ',') return err_set(err, ERR_FORMAT, "%s: expected a comma behind a quoted field", where);
    *at = p < end ? p + 1 : NULL;
    return out->failed ? err_set(err, ERR_MEMORY, "out of memory for a field") : 0;
}

static int read_csv_line(const char *line, size_t n, const char *where, bool heading, struct result *r, struct err *err) {
    struct buf field = {0};
    const char *at = line;
    int code = 0;
    for (int i = 0; !code && i < COLUMNS; i++) {
        if (!at) code = err_set(err, ERR_FORMAT, "%s: expected %d fields, found %d", where, (int)COLUMNS, i);
        if (!code) code = csv_field(&at, line + n, &field, where, err);
        if (code) break;
        const char *text = field.data ? field.data : "";
        if (!heading) code = take_text(&columns[i], text, field.len, r, where, err);
        else if (strcmp(text, columns[i].name))
            code = err_set(err, ERR_FORMAT, "%s: column %d: expected '%s', found '%s'", where, i + 1, columns[i].name, text);
    }
    if (!code && at) code = err_set(err, ERR_FORMAT, "%s: more than %d fields", where, (int)COLUMNS);
    buf_free(&field);
    return code;
}

int results_read(const char *path, struct results *out, struct err *err) {
    struct buf text = {0};
    *out = (struct results){0};
    int code = file_read(path, file_limit, &text, err), number = 0;
    bool csv = !code && text.len && text.data[0] != '{';
    for (size_t at = 0; !code && at < text.len;) {
        char *line = text.data + at, *end = memchr(line, '\n', text.len - at);
        if (!end) {
            out->torn = true;
            break;
        }
        struct result r;
        char where[300];
        size_t n = (size_t)(end - line);
        snprintf(where, sizeof where, "%.250s: line %d", path, ++number);
        result_clear(&r);
        if (csv) code = read_csv_line(line, n, where, number == 1, &r, err);
        else code = read_json_line(line, n, where, &r, err);
        if (!code && !(csv && number == 1)) code = results_add(out, &r, err);
        at = out->whole_bytes = (size_t)(end - text.data) + 1;
    }
    buf_free(&text);
    if (code) results_free(out);
    return code;
}
