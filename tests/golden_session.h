/* Sessions from the messages of a golden. */
#ifndef GOLDEN_SESSION_H
#define GOLDEN_SESSION_H

#include "golden.h"
#include "qwen3vl.h"

static inline enum qvl_role golden_role(const char *name) {
    return !strcmp(name, "system") ? QVL_SYSTEM : !strcmp(name, "assistant") ? QVL_ASSISTANT : QVL_USER;
}

/* Appends every message of the golden. */
static inline void golden_messages(const struct golden *g, struct qvl_session *s) {
    struct err err = {0};
    for (uint32_t i = 0; i < g->messages->count; i++) {
        const struct json *m = g->messages->items[i], *content = json_get(m, "content");
        struct qvl_part parts[8] = {0};
        uint8_t *owned[64];
        const uint8_t *frames[16];
        int owned_count = 0, count = 0;
        for (uint32_t k = 0; k < content->count; k++) {
            const struct json *p = content->items[k];
            const char *type = json_as_string(json_get(p, "type"), "");
            int width = (int)json_as_integer(json_get(p, "width"), 0), height = (int)json_as_integer(json_get(p, "height"), 0);
            struct qvl_part *to = &parts[count++];
            if (!strcmp(type, "text")) {
                to->text = json_as_string(json_get(p, "text"), "");
                continue;
            }
            to->width = width, to->height = height;
            if (!strcmp(type, "image")) {
                to->rgb = owned[owned_count++] = golden_picture(width, height, (int)json_as_integer(json_get(p, "seed"), 0));
                continue;
            }
            const struct json *seeds = json_get(p, "seeds");
            to->frames = frames;
            to->frame_count = (int)seeds->count;
            to->fps = json_as_number(json_get(p, "fps"), 0);
            for (uint32_t f = 0; f < seeds->count; f++)
                frames[f] = owned[owned_count++] = golden_picture(width, height, (int)seeds->items[f]->integer);
        }
        int r = qvl_session_message(s, golden_role(json_as_string(json_get(m, "role"), "")), parts, count, &err);
        for (int k = 0; k < owned_count; k++) free(owned[k]);
        if (r) fail_msg("%s: %s", g->path, err.message);
    }
}

static inline struct qvl_model *golden_model(const char *name, const struct qvl_options *options) {
    struct err err = {0};
    struct qvl_model *m;
    char path[200];
    snprintf(path, sizeof path, "tests/golden/%s", name);
    if (qvl_load(path, options, &m, &err)) fail_msg("%s", err.message);
    return m;
}

static inline struct qvl_session *golden_session(struct qvl_model *m, const struct golden *g) {
    struct err err = {0};
    struct qvl_session *s;
    if (qvl_session_new(m, &s, &err)) fail_msg("%s", err.message);
    golden_messages(g, s);
    return s;
}

static inline bool golden_exists(const char *model, const char *name) {
    char path[200];
    snprintf(path, sizeof path, "tests/golden/%s/cases/%s.json", model, name);
    return file_exists(path);
}

#endif
