/* A session's messages and how they become a prompt. Private to this room. */
#ifndef ENGINE_SESSION_H
#define ENGINE_SESSION_H

#include "engine/prompt.h"

enum part_kind { PART_TEXT, PART_VISUAL };

struct session_part {
    enum part_kind kind;
    char *text;              /* owned */
    size_t text_len;
    struct visual *visual;   /* held */
};

/* A message, or raw tokens outside any template. */
struct session_item {
    bool raw;
    enum qvl_role role;
    struct session_part *parts;
    int part_count;
    char *reasoning;
    int32_t *ids;            /* raw */
    size_t id_count;
};

struct qvl_session {
    struct qvl_model *m;
    struct session_item *items;
    int count, capacity;
    struct prompt prompt;    /* of the items, with the generation prompt, when built */
    bool built;
};

/* The prompt of the session as it stands; belongs to the session. */
int session_prompt(struct qvl_session *s, const struct prompt **out, struct err *err);
/* Appends the model's own answer. */
int session_answer(struct qvl_session *s, const char *text, const char *thinking, struct err *err);

#endif
