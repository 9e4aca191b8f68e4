#include "agent/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* ---- the fields ----------------------------------------------------------------------------------------------------------- */

struct source {
    const struct world_seen *seen;
    const struct world *world;
    const struct monster *leader;
    enum scene scene;
    const struct prompt_memory *memory;
    const struct memory_lines *recalled;
    const struct prompt_view *view;
};

enum { VISITS_SHOWN = 9, RAY_MIN = 2, RAY_MAX = 6 };

static int visits_at(const struct source *s, int x, int y) {
    if (x < 0 || y < 0 || x >= MAP_WIDTH || y >= MAP_HEIGHT) return 0;
    int n = s->seen->visits[y][x];
    return n > VISITS_SHOWN ? VISITS_SHOWN : n;
}

/* Tiles stood on in the eighth of the circle around direction d, at a distance of RAY_MIN to RAY_MAX. */
static int visits_far(const struct source *s, int d) {
    int n = 0;
    for (int dy = -RAY_MAX; dy <= RAY_MAX; dy++) {
        for (int dx = -RAY_MAX; dx <= RAY_MAX; dx++) {
            int ax = abs(dx), ay = abs(dy);
            if ((ax > ay ? ax : ay) < RAY_MIN) continue;
            int sx = 2 * ax >= ay ? (dx > 0) - (dx < 0) : 0, sy = 2 * ay >= ax ? (dy > 0) - (dy < 0) : 0;
            if (sx == direction_dx[d] && sy == direction_dy[d]) n += visits_at(s, s->leader->at.x + dx, s->leader->at.y + dy) > 0;
        }
    }
    return n > VISITS_SHOWN ? VISITS_SHOWN : n;
}

enum field {
    FIELD_SCENE, FIELD_FLOOR, FIELD_HP, FIELD_MAX_HP, FIELD_BELLY, FIELD_LEVEL, FIELD_FOOD, FIELD_HEAL, FIELD_THROW, FIELD_PP, FIELD_LAST,
    FIELD_MESSAGE, FIELD_MEMORY, FIELD_HERE, FIELD_BEEN, FIELD_FAR = FIELD_BEEN + 8, FIELD_COUNT = FIELD_FAR + 8,
};
static const char *const fields[FIELD_COUNT] = {
    "scene", "floor", "hp", "max_hp", "belly", "level", /* of the leader */
    "food", "heal", "throw",                            /* how many such things are in the bag */
    "pp",                                               /* of the move that is set */
    "last",                                             /* the last actions, oldest first */
    "message",                                          /* the newest message since the step before */
    "memory",                                           /* what is recalled, a line each, with where it comes from */
    "here",                                             /* how often the leader stood on this tile */
    "been_s", "been_se", "been_e", "been_ne", "been_n", "been_nw", "been_w", "been_sw", /* ... on the neighbour tiles */
    "far_s", "far_se", "far_e", "far_ne", "far_n", "far_nw", "far_w", "far_sw",         /* tiles stood on farther that way */
};

/* False: no value now. */
static bool field_value(const struct source *s, int f, struct buf *out) {
    const struct world *w = s->world;
    const struct monster *l = s->leader;
    if (f == FIELD_SCENE) return buf_str(out, scene_name[s->scene]), true;
    if (f == FIELD_MESSAGE) return buf_str(out, s->memory->message), *s->memory->message;
    if (f == FIELD_MEMORY) {
        for (int i = 0; s->recalled && i < s->recalled->count; i++) {
            buf_printf(out, "%s%s (%s)", i ? "\n" : "", s->recalled->lines[i].text, s->recalled->lines[i].from);
        }
        return s->recalled && s->recalled->count > 0;
    }
    if (f == FIELD_LAST) {
        if (s->view->without & PART_MEMORY) return false;
        for (int i = 0; i < s->memory->last_count; i++) buf_printf(out, "%s%s", i ? " " : "", s->memory->last[i]);
        return s->memory->last_count > 0;
    }
    if (!l) return false;
    if (f >= FIELD_HERE && s->view->without & PART_MAP) return false;
    if (f >= FIELD_FAR) return buf_printf(out, "%d", visits_far(s, f - FIELD_FAR)), true;
    if (f >= FIELD_BEEN) {
        int d = f - FIELD_BEEN;
        return buf_printf(out, "%d", visits_at(s, l->at.x + direction_dx[d], l->at.y + direction_dy[d])), true;
    }
    const struct move *move = leader_set_move(w);
    switch (f) {
    case FIELD_FLOOR: return buf_printf(out, "B%dF", w->floor), true;
    case FIELD_HP: return buf_printf(out, "%d", l->hp), true;
    case FIELD_MAX_HP: return buf_printf(out, "%d", l->max_hp), true;
    case FIELD_BELLY: return buf_printf(out, "%d", l->belly), true;
    case FIELD_LEVEL: return buf_printf(out, "%d", l->level), true;
    case FIELD_FOOD: return buf_printf(out, "%d", bag_count_use(w, ITEM_USE_FOOD)), true;
    case FIELD_HEAL: return buf_printf(out, "%d", bag_count_use(w, ITEM_USE_HEAL)), true;
    case FIELD_THROW: return buf_printf(out, "%d", bag_count_use(w, ITEM_USE_THROW)), true;
    case FIELD_PP: return buf_printf(out, "%d", move ? move->pp : 0), true;
    case FIELD_HERE: return buf_printf(out, "%d", visits_at(s, l->at.x, l->at.y)), true;
    default: return false;
    }
}

static int field_find(const char *name, size_t n) {
    for (int i = 0; i < FIELD_COUNT; i++) {
        if (strlen(fields[i]) == n && !memcmp(fields[i], name, n)) return i;
    }
    return -1;
}

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
        if (field_find(line + i + 1, length) < 0) {
            return err_set(err, ERR_FORMAT, "%s line %d: unknown placeholder {%.*s}", name, number, (int)(length > 40 ? 40 : length), line + i + 1);
        }
        i += length + 1;
    }
    return inside ? err_set(err, ERR_FORMAT, "%s line %d: '[' without ']'", name, number) : 0;
}

int prompt_template_parse(const char *text, size_t n, const char *name, struct prompt_template *out, struct err *err) {
    *out = (struct prompt_template){.answers = ANSWER_SKILLS};
    struct buf parts[2] = {{0}, {0}}; /* system, user */
    int part = -1, code = 0, number = 0;
    if (memchr(text, 0, n)) return err_set(err, ERR_FORMAT, "%s: holds a NUL byte", name);
    for (size_t at = 0; at < n && !code;) {
        const char *line = text + at, *end = memchr(line, '\n', n - at);
        size_t length = end ? (size_t)(end - line) : n - at;
        at += length + 1;
        number++;
        if (length && line[length - 1] == '\r') length--;
        if (length && *line == '#') continue;
        if (length == 8 && !memcmp(line, "[system]", 8)) part = 0;
        else if (length == 6 && !memcmp(line, "[user]", 6)) part = 1;
        else if (part < 0 && length > 8 && length < 8 + sizeof out->version && !memcmp(line, "version ", 8)) memcpy(out->version, line + 8, length - 8);
        else if (part < 0 && length == 13 && !memcmp(line, "answers steps", 13)) out->answers = ANSWER_STEPS;
        else if (part < 0 && length > 7 && length < 7 + sizeof out->skills && !memcmp(line, "skills ", 7)) memcpy(out->skills, line + 7, length - 7);
        else if (part < 0 && length) {
            code = err_set(err, ERR_FORMAT, "%s line %d: expected 'version NAME', 'answers steps', 'skills NAME ...', '[system]' or '[user]'", name, number);
        }
        else if (part >= 0) {
            if (part == 1) code = check_line(line, length, name, number, err);
            if (parts[part].len) buf_char(&parts[part], '\n');
            buf_append(&parts[part], line, length);
        }
    }
    for (int i = 0; i < 2 && !code; i++) {
        while (parts[i].len && parts[i].data[parts[i].len - 1] == '\n') parts[i].data[--parts[i].len] = 0;
        if (parts[i].failed) code = err_set(err, ERR_MEMORY, "%s: out of memory", name);
        else if (!parts[i].len) code = err_set(err, ERR_FORMAT, "%s: the [%s] part is missing or empty", name, i ? "user" : "system");
    }
    if (!code && !*out->version) code = err_set(err, ERR_FORMAT, "%s: no 'version NAME' line before [system]", name);
    if (code) {
        buf_free(&parts[0]);
        buf_free(&parts[1]);
        return code;
    }
    out->system = parts[0].data;
    out->user = parts[1].data;
    return 0;
}

int prompt_template_load(const char *path, struct prompt_template *out, struct err *err) {
    struct buf text = {0};
    int code = file_read(path, 65536, &text, err);
    if (!code) code = prompt_template_parse(text.data ? text.data : "", text.len, path, out, err);
    buf_free(&text);
    return code;
}

void prompt_template_free(struct prompt_template *t) {
    free(t->system);
    free(t->user);
    *t = (struct prompt_template){0};
}

/* Fills one line; false: it is left out. */
static bool fill_line(const struct source *s, const char *line, size_t n, struct buf *out) {
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
            if (!field_value(s, field_find(line + i + 1, length), out)) inside ? (part_empty = true) : (ok = false);
            i += length + 1;
        } else {
            buf_char(out, line[i]);
        }
    }
    if (!ok) out->len = line_start;
    return ok;
}

int prompt_template_fill(const struct prompt_template *t, const struct prompt_view *v, char out[PROMPT_BYTES], struct err *err) {
    struct source s = {v->seen, &v->seen->now, world_leader(&v->seen->now), v->scene, v->memory, v->recalled, v};
    struct buf text = {0};
    for (const char *line = t->user; line;) {
        const char *end = strchr(line, '\n');
        size_t before = text.len;
        if (before) buf_char(&text, '\n');
        if (!fill_line(&s, line, end ? (size_t)(end - line) : strlen(line), &text)) text.len = before;
        line = end ? end + 1 : NULL;
    }
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
    if (log_new_from(m, seen) < seen->log_count) set_message(m, seen->log[seen->log_count - 1]);
    if ((scene == SCENE_DIALOGUE || scene == SCENE_CHOICE) && *seen->dialogue_text) set_message(m, seen->dialogue_text);
    m->log_count = seen->log_count;
    memcpy(m->log, seen->log, sizeof m->log);
}
