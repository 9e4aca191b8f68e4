#include "agent/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/prompt_fields.h"
#include "base/file.h"

/* ---- the template ----------------------------------------------------------------------------------------------------------- */

static int check_line(const char *line, size_t n, const char *name, int number, struct err *err) {
    bool inside = false;
    for (size_t i = 0; i < n; i++) {
        if ((line[i] == '[' && inside) || (line[i] == ']' && !inside)) {
            return err_set(err, ERR_FORMAT, "%s line %d: '%c' without its partner (brackets do not nest)", name, number, line[i]);
        }
        if (line[i] == '[' || line[i] == ']') inside = !inside;
        if (line[i] != '{') continue;
        const char *end = memchr(line + i, '}', n - i);
        if (!end) return err_set(err, ERR_FORMAT, "%s line %d: '{' without '}'", name, number);
        size_t length = (size_t)(end - line) - i - 1;
        if (prompt_field_find(line + i + 1, length) < 0) {
            return err_set(err, ERR_FORMAT, "%s line %d: unknown placeholder {%.*s}", name, number, (int)(length > 40 ? 40 : length), line + i + 1);
        }
        i += length + 1;
    }
    return inside ? err_set(err, ERR_FORMAT, "%s line %d: '[' without ']'", name, number) : 0;
}

/* The parts of a file: [system], [system SCENE], [user], [stuck], [refused]. */
enum { PART_SYSTEM, PART_USER, PART_STUCK_LINES, PART_REFUSED, PART_SCENE, PARTS = PART_SCENE + SCENE_COUNT };

static bool is(const char *line, size_t n, const char *text) { return n == strlen(text) && !memcmp(line, text, n); }

/* -1: no head of a part. */
static int part_of(const char *line, size_t n) {
    if (is(line, n, "[system]")) return PART_SYSTEM;
    if (is(line, n, "[user]")) return PART_USER;
    if (is(line, n, "[stuck]")) return PART_STUCK_LINES;
    if (is(line, n, "[refused]")) return PART_REFUSED;
    for (int i = 0; i < SCENE_COUNT; i++) {
        char head[40];
        snprintf(head, sizeof head, "[system %s]", scene_name[i]);
        if (is(line, n, head)) return PART_SCENE + i;
    }
    return -1;
}

/* A line before the first part. */
static bool read_head(struct prompt_template *t, const char *line, size_t n) {
    if (n > 8 && n < 8 + sizeof t->version && !memcmp(line, "version ", 8)) return memcpy(t->version, line + 8, n - 8), true;
    if (n > 7 && n < 7 + sizeof t->skills && !memcmp(line, "skills ", 7)) return memcpy(t->skills, line + 7, n - 7), true;
    if (is(line, n, "answers steps")) return t->answers = ANSWER_STEPS, true;
    if (is(line, n, "scratchpad")) return t->scratchpad = true;
    return !n;
}

static int read_parts(const char *text, size_t n, const char *name, struct prompt_template *out, struct buf parts[PARTS], struct err *err) {
    int part = -1, code = 0, number = 0;
    for (size_t at = 0; at < n && !code;) {
        const char *line = text + at, *end = memchr(line, '\n', n - at);
        size_t length = end ? (size_t)(end - line) : n - at;
        at += length + 1;
        number++;
        if (length && line[length - 1] == '\r') length--;
        if (length && *line == '#') continue;
        int head = part_of(line, length);
        if (head >= 0) part = head;
        else if (part < 0 && !read_head(out, line, length)) {
            code = err_set(err, ERR_FORMAT, "%s line %d: expected 'version NAME', 'answers steps', 'skills NAME ...', 'scratchpad', or one of the parts "
                           "[system], [system SCENE], [user], [stuck], [refused]", name, number);
        } else if (part >= 0) {
            if (part >= PART_USER && part <= PART_REFUSED) code = check_line(line, length, name, number, err);
            if (parts[part].len) buf_char(&parts[part], '\n');
            buf_append(&parts[part], line, length);
        }
    }
    return code;
}

/* The system text of a scene: what holds always, then what holds there. */
static char *join_system(const struct buf *always, const struct buf *scene) {
    struct buf out = {0};
    buf_append(&out, always->data, always->len);
    if (scene->len) buf_char(&out, '\n'), buf_append(&out, scene->data, scene->len);
    buf_char(&out, 0);
    if (out.failed) buf_free(&out);
    return out.data;
}

int prompt_template_parse(const char *text, size_t n, const char *name, struct prompt_template *out, struct err *err) {
    *out = (struct prompt_template){.answers = ANSWER_SKILLS};
    struct buf parts[PARTS] = {{0}};
    if (memchr(text, 0, n)) return err_set(err, ERR_FORMAT, "%s: holds a NUL byte", name);
    int code = read_parts(text, n, name, out, parts, err);
    for (int i = 0; i < PARTS && !code; i++) {
        while (parts[i].len && parts[i].data[parts[i].len - 1] == '\n') parts[i].data[--parts[i].len] = 0;
        if (parts[i].failed) code = err_set(err, ERR_MEMORY, "%s: out of memory", name);
        else if (!parts[i].len && i <= PART_USER) code = err_set(err, ERR_FORMAT, "%s: the [%s] part is missing or empty", name, i ? "user" : "system");
    }
    if (!code && !*out->version) code = err_set(err, ERR_FORMAT, "%s: no 'version NAME' line before [system]", name);
    for (int i = 0; i < SCENE_COUNT && !code; i++) {
        if (!(out->system[i] = join_system(&parts[PART_SYSTEM], &parts[PART_SCENE + i]))) code = err_set(err, ERR_MEMORY, "%s: out of memory", name);
    }
    out->unstick = parts[PART_STUCK_LINES].len > 0;
    char **kept[PARTS] = {&out->always, &out->user, &out->stuck, &out->refused};
    for (int i = 0; i < SCENE_COUNT; i++) kept[PART_SCENE + i] = &out->scene[i];
    for (int i = 0; i < PARTS; i++) {
        if (code || !parts[i].len) buf_free(&parts[i]);
        else *kept[i] = parts[i].data;
    }
    if (code) prompt_template_free(out);
    return code;
}

int prompt_template_load(const char *path, struct prompt_template *out, struct err *err) {
    struct buf text = {0};
    int code = file_read(path, 65536, &text, err);
    if (!code) code = prompt_template_parse(text.data ? text.data : "", text.len, path, out, err);
    buf_free(&text);
    return code;
}

void prompt_template_free(struct prompt_template *t) {
    for (int i = 0; i < SCENE_COUNT; i++) free(t->system[i]), free(t->scene[i]);
    free(t->always);
    free(t->user);
    free(t->stuck);
    free(t->refused);
    *t = (struct prompt_template){0};
}

/* Fills one line; false: it is left out. */
static bool fill_line(const struct prompt_view *v, const char *line, size_t n, struct buf *out) {
    size_t line_start = out->len, part_start = 0;
    bool inside = false, part_empty = false, ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        if (line[i] == '[') {
            inside = true, part_empty = false, part_start = out->len;
        } else if (line[i] == ']') {
            inside = false;
            if (part_empty) out->len = part_start;
        } else if (line[i] == '{') {
            size_t length = (size_t)((const char *)memchr(line + i, '}', n - i) - line) - i - 1;
            if (!prompt_field_value(v, prompt_field_find(line + i + 1, length), out)) inside ? (part_empty = true) : (ok = false);
            i += length + 1;
        } else {
            buf_char(out, line[i]);
        }
    }
    if (!ok) out->len = line_start;
    return ok;
}

/* ---- what a conversation leaves out ------------------------------------------------------------------------------------------ */

static uint64_t line_key(const char *template_line, const char *word, size_t n) {
    uint64_t h = 0xCBF29CE484222325u ^ (uintptr_t)template_line; /* FNV-1a; the template stays where it is */
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)word[i]) * 0x100000001B3u;
    return h;
}

static size_t first_word(const char *line, size_t n) {
    size_t k = 0;
    while (k < n && line[k] != ' ' && line[k] != ':') k++;
    return k;
}

/* Takes the lines out of text (from `from` on) that the conversation holds; a heading goes with the last of its lines. */
static void leave_out_told(struct conversation *c, const char *template_line, bool whole, struct buf *text, size_t from) {
    size_t to = from, heading = 0;
    bool first = true, several = memchr(text->data + from, '\n', text->len - from);
    for (size_t at = from; at < text->len; first = false) {
        const char *line = text->data + at, *end = memchr(line, '\n', text->len - at);
        size_t n = end ? (size_t)(end - line) : text->len - at;
        bool keep = (first && several) || conversation_tells(c, line_key(template_line, line, whole ? n : first_word(line, n)), line, n);
        at += n + 1;
        if (!keep) continue;
        if (to > from) text->data[to++] = '\n';
        memmove(text->data + to, line, n);
        to += n;
        if (first && several) heading = to;
    }
    text->len = several && to == heading ? from : to;
    text->data[text->len] = 0;
}

/* A line whose value is gone: what was told of it does not hold any more. */
static bool tell_none(struct conversation *c, const char *line, size_t n, struct buf *out) {
    size_t head = 0, from = out->len;
    while (head < n && line[head] != '{' && line[head] != '[') head++;
    uint64_t key = line_key(line, line, first_word(line, head));
    if (!head || !conversation_knows(c, key)) return false;
    buf_append(out, line, head);
    if (line[head - 1] != ' ') buf_char(out, ' ');
    buf_str(out, "none");
    if (!out->failed && conversation_tells(c, key, out->data + from, out->len - from)) return true;
    out->len = from;
    return false;
}

/* A line with its sign, if it has one; false: it is left out. */
static bool put_line(const struct prompt_view *v, const char *line, size_t n, struct buf *out) {
    struct conversation *c = v->conversation && v->conversation->limit ? v->conversation : NULL;
    char sign = n && (*line == '~' || *line == '+' || *line == '-') ? *line : 0;
    if (!sign) return fill_line(v, line, n, out);
    if (c && sign == '-') return false;
    line++, n--;
    size_t from = out->len;
    if (!fill_line(v, line, n, out)) return c && sign == '~' && tell_none(c, line, n, out);
    if (!c || out->failed) return true;
    leave_out_told(c, line, sign == '+', out, from);
    return out->len > from;
}

static void fill_lines(const struct prompt_view *v, const char *lines, struct buf *text) {
    for (const char *line = lines; line;) {
        const char *end = strchr(line, '\n');
        size_t before = text->len;
        if (before) buf_char(text, '\n');
        if (!put_line(v, line, end ? (size_t)(end - line) : strlen(line), text)) text->len = before;
        line = end ? end + 1 : NULL;
    }
}

int prompt_template_fill(const struct prompt_template *t, const struct prompt_view *v, char out[PROMPT_BYTES], struct err *err) {
    struct buf text = {0};
    struct conversation *c = v->conversation && v->conversation->limit ? v->conversation : NULL;
    if (c && v->seen) conversation_place(c, v->seen->floor_serial);
    const char *rules = c && !v->after_refusal ? t->scene[v->scene] : NULL;
    if (rules && conversation_tells(c, line_key(rules, "", 0), rules, strlen(rules))) buf_str(&text, rules);
    fill_lines(v, v->after_refusal && t->refused ? t->refused : t->user, &text);
    if (v->unstick && t->stuck && !v->after_refusal) fill_lines(v, t->stuck, &text);
    int length = -1;
    if (text.failed) err_set(err, ERR_MEMORY, "out of memory for a prompt");
    else if (text.len >= PROMPT_BYTES) err_set(err, ERR_LIMIT, "the prompt has %zu bytes, at most %d fit", text.len, PROMPT_BYTES - 1);
    else {
        length = (int)text.len;
        if (length) memcpy(out, text.data, text.len);
        out[length] = 0;
    }
    buf_free(&text);
    return length;
}

static int replace_catalogue(char **text, const char *catalogue, struct err *err) {
    static const char mark[] = "{catalogue}";
    char *at = *text ? strstr(*text, mark) : NULL;
    if (!at) return 0;
    struct buf b = {0};
    buf_append(&b, *text, (size_t)(at - *text));
    buf_str(&b, catalogue);
    buf_str(&b, at + sizeof mark - 1);
    if (b.failed) return buf_free(&b), err_set(err, ERR_MEMORY, "out of memory for a prompt");
    free(*text);
    *text = b.data;
    return 0;
}

int prompt_template_catalogue(struct prompt_template *t, const struct skill_set *skills, struct err *err) {
    struct buf b = {0};
    tell_catalogue(skills, &b);
    int code = b.failed ? err_set(err, ERR_MEMORY, "out of memory for a prompt") : 0;
    if (!code) code = replace_catalogue(&t->always, b.data ? b.data : "", err);
    for (int i = 0; i < SCENE_COUNT && !code; i++) code = replace_catalogue(&t->system[i], b.data ? b.data : "", err);
    buf_free(&b);
    return code;
}

/* ---- memory ------------------------------------------------------------------------------------------------------------------ */

void prompt_forget(struct prompt_memory *m) { memset(m, 0, sizeof *m); }

void prompt_did(struct prompt_memory *m, const char *what) {
    if (m->last_count == PROMPT_LAST) memmove(m->last, m->last + 1, (PROMPT_LAST - 1) * sizeof *m->last), m->last_count--;
    snprintf(m->last[m->last_count++], sizeof *m->last, "%s", what);
}

/* Lower case, plain ASCII, one line. */
static void set_message(struct prompt_memory *m, const char *text) {
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p && n < PROMPT_MESSAGE; p++) {
        if (*p >= 'A' && *p <= 'Z') m->message[n++] = (char)(*p + 32);
        else if (*p > ' ' && *p < 127) m->message[n++] = (char)*p;
        else if (n && m->message[n - 1] != ' ' && *p <= ' ') m->message[n++] = ' ';
    }
    while (n && m->message[n - 1] == ' ') n--;
    m->message[n] = 0;
}

/* The log is a ring of which we see a copy: what is new is what does not continue the old copy's tail. */
static int log_new_from(const struct prompt_memory *m, const struct world *w) {
    for (int skip = 0; skip < m->log_count; skip++) {
        int same = m->log_count - skip, i = 0;
        if (same > w->log_count) continue;
        while (i < same && !strcmp(m->log[skip + i], w->log[i])) i++;
        if (i == same) return same;
    }
    return 0;
}

void prompt_observe(struct prompt_memory *m, const struct world *seen, enum scene scene) {
    *m->message = 0;
    m->log_new = log_new_from(m, seen);
    if (m->log_new < seen->log_count) set_message(m, seen->log[seen->log_count - 1]);
    if ((scene == SCENE_DIALOGUE || scene == SCENE_CHOICE) && *seen->dialogue_text) set_message(m, seen->dialogue_text);
    m->log_count = seen->log_count;
    memcpy(m->log, seen->log, sizeof m->log);
}
