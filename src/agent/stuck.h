/* Is the agent stuck? Judged on what is seen only. Progress is: a new floor, new tiles on the map, coming nearer than before to the
 * stairs or, while they are unknown, to where the map ends. Without it for too long, or with the same sights again and again, the agent is stuck,
 * and a ladder is climbed rung by rung until there is progress: a stronger model, another prompt, forced exploration. */
#ifndef AGENT_STUCK_H
#define AGENT_STUCK_H

#include "agent/map_memory.h"

enum stuck_kind { STUCK_NOT, STUCK_SAME_STATE, STUCK_TO_AND_FRO, STUCK_NOTHING_NEW, STUCK_TEXT, STUCK_KINDS };
extern const char *const stuck_name[STUCK_KINDS]; /* NULL, "same_state", "to_and_fro", "nothing_new", "text" */

enum { STUCK_RECENT = 24, RUNG_MODEL = 1, RUNG_PROMPT = 2, RUNG_FORCE = 3 };

struct stuck {
    enum stuck_kind kind;
    int level;                /* rung, 0: not stuck */
    int waited;               /* decisions on this rung */
    uint64_t sights[STUCK_RECENT]; /* of the last decisions, newest last */
    struct point at[STUCK_RECENT];
    int recent;
    int floor_serial, known, nearest, quiet_from; /* quiet_from: turn of the last progress */
    uint64_t text;
    int text_same;
    int forced;               /* times that exploration was forced on this floor: each makes the next come sooner */
};

void stuck_reset(struct stuck *s);
/* Once a decision, before it is made. turns: of the episode so far. */
void stuck_observe(struct stuck *s, const struct world_seen *seen, enum scene scene, int turns);
/* Up to a higher rung. */
void stuck_climb(struct stuck *s);
/* After forced exploration: what was before counts no more. */
void stuck_forced(struct stuck *s, int turns);

#endif
