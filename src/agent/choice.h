/* What may be chosen in a decision, how an answer names it and what the gatekeeper says to it. Three ways to answer:
 *   actions   {"action": NAME}                       one step or turn
 *   skills    {"skill": NAME} and its arguments      {"skill":"go_to","x":12,"y":7}, {"skill":"use_item","item":2}
 *   steps     {"action": NAME} of the first steps of the offered skills: for a model that knows single steps only. The skill whose next
 *             step it wants most is run; of two that begin alike, the one named first in the prompt file. */
#ifndef AGENT_CHOICE_H
#define AGENT_CHOICE_H

#include "agent/ask.h"
#include "agent/skills.h"

struct choice {
    int action;       /* -1: a skill */
    int skill;
    int argument[2];
};

enum answers { ANSWER_ACTIONS, ANSWER_SKILLS, ANSWER_STEPS };
struct offer {
    enum answers answers;
    bool actions[ACTION_COUNT];   /* ANSWER_ACTIONS, ANSWER_STEPS */
    bool skills[MAX_SKILLS];      /* ANSWER_SKILLS, ANSWER_STEPS */
    int begins_with[ACTION_COUNT];/* ANSWER_STEPS: the skill of a first step */
    int count;
    bool note;                    /* the answer may carry a note for the scratchpad */
};

/* Sight is what the conditions of skills are judged on. skills and map may be NULL with ANSWER_ACTIONS. */
struct sight {
    const struct world_seen *seen;
    const struct map_memory *map;
    const struct skill_set *skills;
    enum scene scene;
};
void offer_make(const struct sight *s, enum answers answers, struct offer *out);
void offer_schema(const struct offer *o, const struct sight *s, struct buf *out);
/* Takes a choice out of the offer; false: nothing would be left, and it stays. */
bool offer_withdraw(struct offer *o, const struct choice *c);
/* What an answer names; false with the reason. note (NOTE_BYTES + 1) gets the answer's note or "". */
bool choice_parse(const char *text, const struct offer *o, const struct sight *s, struct choice *out, char *note, char *reason, size_t cap);
/* "walk_north", "go_to 12 7". */
void choice_print(const struct choice *c, const struct skill_set *skills, char *out, size_t cap);

/* The gatekeeper: NULL, or why this is impossible or forbidden here. Known walls, monsters in the way, things that are not there, tiles
 * that can't be reached; never anything that a player could not know. */
const char *gatekeeper_refuses(const struct choice *c, const struct offer *o, const struct sight *s);

#endif
