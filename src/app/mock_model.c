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

static int answer(void *user, const struct question *q, struct answer *out, struct err *err) {
    const struct mock_model *m = user;
    int at = (int)((q->decision - 1) % (uint32_t)m->script.count);
    if (asprintf(&out->text, "{\"action\":\"%s\"}", m->script.names[at]) < 0) {
        out->text = NULL;
        return err_set(err, ERR_MEMORY, "out of memory for an answer");
    }
    snprintf(out->reason, sizeof out->reason, "mock: action %d of the script, no model was asked", at + 1);
    question_token(q, out->text, strlen(out->text));
    return 0;
}

struct answerer mock_model_answerer(struct mock_model *m) { return (struct answerer){answer, m}; }
