/* The words that go with the picture: a template file filled with what a player would know.
 *
 * Template file (UTF-8, at most 64 KiB):
 *     # at the start of a line: a comment
 *     version NAME            kept in the run, first line that is no comment
 *     answers steps           with `play --act skills`: the model knows single steps only (agent/choice.h); without it: skills
 *     skills NAME ...         those that are offered, the ones named first first; without it: all of the folder
 *     scratchpad              answers with skills may carry a note of the model to itself
 *     [system]                the lines below are the system text; [system field], [system dialogue], [system choice], [system stairs],
 *                             [system menu], [system title]: what follows it in that scene
 *     [user]                  the lines below follow the picture in the user's message
 *     [stuck]                 follows them when the agent is stuck and nobody stronger can be asked
 *     [refused]               all of the turn that follows a refused answer, where a conversation is kept
 * In [user], [stuck] and [refused] {name} is replaced (names: prompt_fields.c). A line with a {name} that has no value now is left out; so
 * is a part in [square brackets] of a line. The last line ends without a newline. An unknown {name} is an error when the file is read.
 * What stays the same from step to step belongs first: it is computed once. In the system text {catalogue} is replaced once, by all
 * skills (or actions) with what they do.
 *
 * Where a conversation is kept (play --history), the system text is [system] alone, and what belongs to a scene is told in the turn in
 * which it comes up. What a line begins with then says when it is left out; without a conversation these signs do nothing:
 *     ~  what it says is what the conversation said last under this heading (the first word of each of its lines, if there are
 *        several: `~map:{rows}` tells rows that changed). When its value is gone, "none" is told once in its place
 *     +  the conversation holds that very line
 *     -  always, where a conversation is kept */
#ifndef AGENT_PROMPT_H
#define AGENT_PROMPT_H

#include "agent/choice.h"
#include "agent/conversation.h"

struct prompt_template {
    char version[32], skills[512];
    enum answers answers;       /* ANSWER_SKILLS or ANSWER_STEPS */
    bool unstick, scratchpad;   /* unstick: there is a [stuck] part */
    char *system[SCENE_COUNT];  /* malloc'ed, all: [system] and what belongs to the scene */
    char *always, *scene[SCENE_COUNT]; /* the two apart; scene: NULL none */
    char *user, *stuck, *refused;      /* the last two may be NULL */
};
int prompt_template_load(const char *path, struct prompt_template *out, struct err *err);
int prompt_template_parse(const char *text, size_t n, const char *name, struct prompt_template *out, struct err *err);
void prompt_template_free(struct prompt_template *t);
/* Fills {catalogue} in the system texts. skills NULL: actions are what is chosen. */
int prompt_template_catalogue(struct prompt_template *t, const struct skill_set *skills, struct err *err);

/* What is remembered between steps. */
enum { PROMPT_LAST = 6, PROMPT_MESSAGE = 48 };
struct prompt_memory {
    char last[PROMPT_LAST][48];        /* actions or skills, oldest first */
    int last_count;
    char log[MAX_LOG][256];            /* as it was at the step before */
    int log_count, log_new;            /* from log_new on: since the step before */
    char message[PROMPT_MESSAGE + 1];  /* the newest since the step before; "" none */
};
void prompt_forget(struct prompt_memory *m); /* a new episode */
void prompt_observe(struct prompt_memory *m, const struct world *seen, enum scene scene);
void prompt_did(struct prompt_memory *m, const char *what);

/* What the fields are filled from. */
struct prompt_view {
    const struct world_seen *seen;
    enum scene scene;
    const struct prompt_memory *memory;
    const struct memory_lines *recalled; /* NULL: none */
    unsigned without;                    /* enum part: PART_MEMORY, PART_MAP: what these know is left out */
    bool picture_only;                   /* nothing that was read from the game's memory */
    bool unstick;                        /* with the [stuck] part */
    const struct map_memory *map;
    const struct offer *offer;           /* of skills */
    const struct skill_set *skills;
    const struct skill_count *rates;     /* how the skills did so far */
    int rate_count;
    const char *refused, *stuck, *skill_end; /* as in struct step; NULL or "": nothing */
    const char *instead;                 /* what was done since the last answer in its place; NULL or "": nothing */
    struct conversation *conversation;   /* that this turn will be added to; NULL: there is none */
    bool after_refusal;                  /* the [refused] part only (a conversation and such a part are there) */
};
enum { PROMPT_BYTES = 12288 };
/* Fills the user text; returns its length, or negative when it does not fit. */
int prompt_template_fill(const struct prompt_template *t, const struct prompt_view *v, char out[PROMPT_BYTES], struct err *err);

#endif
