/* Ways of skills: where a target is and which step leads there, on what was seen. */
#ifndef AGENT_SKILL_WAYS_H
#define AGENT_SKILL_WAYS_H

#include "agent/skills.h"

struct way {
    struct point goal;
    int direction;  /* of the next step; -1: there already */
    int steps;
    bool beside;    /* the goal is not to be entered: a foe, an ally */
};
/* False: there is none, or it can't be reached. Never changes the map memory. */
bool way_to(enum skill_target target, const struct situation *s, struct way *out);

/* The way in full, as the path finder would walk it if nothing changed; the skill's name is left alone. */
void way_plan(const struct world *w, const struct way *way, struct plan *out);

/* Direction of the foe to hit: the faced one, else the one that needs the smallest turn; -1 none is adjacent. */
int foe_beside(const struct world *w);
int ally_beside(const struct world *w);
/* The step after which the nearest foe in sight is farthest; -1: none leads farther away. */
int step_away(const struct world *w);

#endif
