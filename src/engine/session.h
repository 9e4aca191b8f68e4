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
    int32_t *reply;          /* the model's own answer: the tokens as they were generated, end token aside; NULL: by its text */
    size_t reply_count, reply_content; /* reply_content: where the answer begins behind the think block; SIZE_MAX: inside a token */
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
/* Appends the model's own answer. exact: its text is what its tokens say (no stop string cut it); the next prompt then repeats the
 * tokens themselves, since tokenising the text again may cut it elsewhere, and nothing behind that would be known. */
int session_answer(struct qvl_session *s, const struct qvl_result *r, bool exact, struct err *err);

#endif
