#include "app/mock_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/model_list.h"

struct mock_model {
    struct model_list script; /* the same kind of file: names, comments, blank lines */
};

int mock_model_open(const char *path, struct mock_model **out, struct err *err) {
    struct mock_model *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m) return err_set(err, ERR_MEMORY, "out of memory for a script");
    int code = model_list_read(path, false, &m->script, err);
    if (!code && !m->script.count) code = err_set(err, ERR_FORMAT, "%s: no action in it", path);
    for (int i = 0; !code && i < m->script.count; i++) {
        const char *name = m->script.names[i];
        char skill[24], rest[2];
        int x, y, words = sscanf(name, "skill %23[a-z0-9_] %d %d %1s", skill, &x, &y, rest);
        if (words >= 1 && words <= 3) continue;
        if (action_by_name(name) < 0) code = err_set(err, ERR_FORMAT, "%s: '%.60s' is no action (walk_north, hit_ne, eat, ...)", path, name);
    }
    if (code) return mock_model_close(m), code;
    *out = m;
    return 0;
}

void mock_model_close(struct mock_model *m) {
    if (!m) return;
    model_list_free(&m->script);
    free(m);
}

/* "skill go_to 12 7" as a model would say it. */
static char *skill_answer(const char *line) {
    char skill[24], *text = NULL;
    int x = 0, y = 0, words = sscanf(line, "skill %23[a-z0-9_] %d %d", skill, &x, &y), n;
    if (words == 3) n = asprintf(&text, "{\"skill\":\"%s\",\"x\":%d,\"y\":%d}", skill, x, y);
    else if (words == 2) n = asprintf(&text, "{\"skill\":\"%s\",\"item\":%d}", skill, x);
    else if (words == 1) n = asprintf(&text, "{\"skill\":\"%s\"}", skill);
    else n = asprintf(&text, "{\"action\":\"%s\"}", line);
    return n < 0 ? NULL : text;
}

static int answer(void *user, const struct question *q, struct answer *out, struct err *err) {
    const struct mock_model *m = user;
    int at = (int)((q->decision - 1) % (uint32_t)m->script.count);
    if (!(out->text = skill_answer(m->script.names[at]))) return err_set(err, ERR_MEMORY, "out of memory for an answer");
    snprintf(out->reason, sizeof out->reason, "mock: action %d of the script, no model was asked", at + 1);
    question_token(q, out->text, strlen(out->text));
    return 0;
}

struct answerer mock_model_answerer(struct mock_model *m) { return (struct answerer){answer, m}; }
