#include "bench/matrix.h"

#include <stdlib.h>
#include <string.h>

const char *const task_names[TASK_COUNT] = {"text", "picture-simple", "picture-complex", "mixed"};

/* What is asked most: the speed of one answer, of a server at work, of best-of-n, of long contexts, and with a picture. */
static const struct cell standard[] = {
    {0, TASK_TEXT, 0, 1024, 1, 1},  {0, TASK_TEXT, 0, 1024, 8, 1},  {0, TASK_TEXT, 0, 1024, 64, 1}, {0, TASK_TEXT, 0, 1024, 8, 8},
    {0, TASK_TEXT, 0, 8192, 1, 1},  {0, TASK_TEXT, 0, 32768, 1, 1}, {0, TASK_PICTURE_COMPLEX, 0, 1024, 1, 1}};
enum { STANDARD = sizeof standard / sizeof *standard };

static int parse_one(const char *what, const char *text, const char **end, int64_t low, int64_t high, int64_t *out, struct err *err) {
    char *stop;
    long long v = strtoll(text, &stop, 10);
    bool digits = stop > text && text[0] >= '0' && text[0] <= '9';
    if (digits && (*stop == 'k' || *stop == 'K')) {
        v = v < 1 << 20 ? v * 1024 : -1;
        stop++;
    }
    if (!digits || v < low || v > high)
        return err_set(err, ERR_ARGUMENT, "%s: expected whole numbers from %lld to %lld (k: times 1024), found '%.40s'", what,
                       (long long)low, (long long)high, text);
    *out = v;
    *end = stop;
    return 0;
}

static int push(const char *what, int64_t v, int64_t *out, int *count, struct err *err) {
    for (int i = 0; i < *count; i++)
        if (out[i] == v) return err_set(err, ERR_ARGUMENT, "%s: %lld is there twice", what, (long long)v);
    if (*count == MATRIX_LIST) return err_set(err, ERR_ARGUMENT, "%s: more than %d entries", what, (int)MATRIX_LIST);
    out[(*count)++] = v;
    return 0;
}

int matrix_parse_whole(const char *what, const char *text, int64_t low, int64_t high, int64_t *out, int *count, struct err *err) {
    *count = 0;
    for (const char *p = text;; p++) {
        int64_t first, last;
        int r = parse_one(what, p, &p, low, high, &first, err);
        last = first;
        if (!r && *p == '-') {
            r = parse_one(what, p + 1, &p, low, high, &last, err);
            if (!r && last < first) r = err_set(err, ERR_ARGUMENT, "%s: '%s': a range ends before it begins", what, text);
        }
        for (int64_t v = first; !r && v <= last; v *= 2) r = push(what, v, out, count, err);
        if (r) return r;
        if (!*p) return 0;
        if (*p != ',') return err_set(err, ERR_ARGUMENT, "%s: expected a comma, found '%.40s'", what, p);
    }
}

int matrix_parse_shares(const char *what, const char *text, double *out, int *count, struct err *err) {
    *count = 0;
    for (const char *p = text;; p++) {
        char *end;
        double v = strtod(p, &end);
        if (end == p || !(v > 0 && v < 1) || (*end && *end != ','))
            return err_set(err, ERR_ARGUMENT, "%s: expected shares between 0 and 1, found '%.40s'", what, p);
        if (*count == MATRIX_LIST) return err_set(err, ERR_ARGUMENT, "%s: more than %d entries", what, (int)MATRIX_LIST);
        out[(*count)++] = v;
        p = end;
        if (!*p) return 0;
    }
}

int matrix_parse_tasks(const char *text, struct matrix *m, struct err *err) {
    m->task_count = 0;
    for (const char *p = text;; p++) {
        size_t n = strcspn(p, ",");
        int found = -1;
        for (int t = 0; t < TASK_COUNT; t++)
            if (strlen(task_names[t]) == n && !strncmp(p, task_names[t], n)) found = t;
        if (n == 3 && !strncmp(p, "all", 3)) {
            for (int t = 0; t < TASK_COUNT; t++) m->tasks[t] = (enum task)t;
            m->task_count = TASK_COUNT;
        } else if (found < 0 || m->task_count == TASK_COUNT) {
            return err_set(err, ERR_ARGUMENT, "--tasks: expected text, picture-simple, picture-complex, mixed or all, found '%.*s'",
                           n > 40 ? 40 : (int)n, p);
        } else {
            m->tasks[m->task_count++] = (enum task)found;
        }
        p += n;
        if (!*p) return 0;
    }
}

const char *matrix_name(const struct matrix *m) {
    if (m->full) return "full";
    return m->context_count || m->batch_count || m->best_count || m->task_count || m->share_count ? "chosen" : "standard";
}

/* Lists that were not given. */
static void complete(struct matrix *m) {
    static const int64_t batches[] = {1, 2, 4, 8, 16, 32, 64}, bests[] = {1, 2, 4, 8};
    if (!m->context_count)
        for (int64_t c = 1024; c <= (m->full ? 262144 : 1024); c *= 2) m->contexts[m->context_count++] = c;
    if (!m->batch_count) {
        m->batch_count = m->full ? 7 : 1;
        memcpy(m->batches, batches, sizeof batches);
    }
    if (!m->best_count) {
        m->best_count = m->full ? 4 : 1;
        memcpy(m->best_of, bests, sizeof bests);
    }
    if (!m->task_count) {
        m->task_count = m->full ? TASK_COUNT : 1;
        for (int t = 0; t < TASK_COUNT; t++) m->tasks[t] = (enum task)t;
        if (!m->full && m->share_count) m->tasks[0] = TASK_MIXED;
    }
    if (!m->share_count) m->shares[m->share_count++] = 0.5;
}

int matrix_cells(const struct matrix *given, int models, struct cell **out, size_t *count, struct err *err) {
    struct matrix m = *given;
    bool named = !strcmp(matrix_name(given), "standard");
    complete(&m);
    size_t most = (size_t)models * (named ? STANDARD
                                          : (size_t)(m.context_count * m.batch_count * m.best_count) *
                                                (size_t)(m.task_count + m.share_count));
    struct cell *list = malloc((most + 1) * sizeof *list);
    if (!list) return err_set(err, ERR_MEMORY, "out of memory for %zu cells", most);
    size_t n = 0;
    for (int model = 0; model < models; model++) {
        for (int i = 0; named && i < STANDARD; i++) list[n] = standard[i], list[n++].model = model;
        for (int t = 0; !named && t < m.task_count; t++)
            for (int s = 0; s < (m.tasks[t] == TASK_MIXED ? m.share_count : 1); s++)
                for (int c = 0; c < m.context_count; c++)
                    for (int b = 0; b < m.batch_count; b++)
                        for (int k = 0; k < m.best_count; k++)
                            list[n++] = (struct cell){model, m.tasks[t], m.tasks[t] == TASK_MIXED ? m.shares[s] : 0,
                                                      m.contexts[c], (int)m.batches[b], (int)m.best_of[k]};
    }
    *out = list;
    *count = n;
    return 0;
}
