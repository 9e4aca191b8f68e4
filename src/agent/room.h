/* The agent's inside, shared by the files of this room: agent.c (the loop), decide.c (who decides what), donor.c (the picture of another
 * seed). Private to this room. */
#ifndef AGENT_ROOM_H
#define AGENT_ROOM_H

#include "agent/ask.h"
#include "agent/hands.h"
#include "agent/prompt.h"

struct agent {
    struct agent_options options;
    struct hands hands;
    struct prompt_template prompt;
    struct asker *asker;
    struct oracle *oracle;     /* decides, or teaches when options.ask_oracle is set */
    struct oracle *omniscient; /* decides */
    struct agent *donor;       /* plays another seed for PICTURE_OTHER_SEED; owns its emulator */
    struct emulator *own_emulator;
    uint64_t random;
    uint32_t seed, donor_runs;
    enum outcome donor_outcome;

    struct world_seen seen;
    struct prompt_memory memory;
    struct memory_lines recalled;
    uint8_t picture[FRAME_PIXELS * 3], shown[FRAME_PIXELS * 3];
    char prompt_text[PROMPT_BYTES], reason[320];
    struct step step;
    struct answer answer;
    struct episode_result result;
    int idle, idle_turns, idle_floor;
};

/* agent.c. Resets, waits for the title screen and sets the seed; ends with the first frame of the first step. */
int episode_begin(struct agent *a, uint32_t seed, struct err *err);
/* One decision, from the picture to the moment when the next is due. */
int episode_step(struct agent *a, enum outcome *outcome, struct err *err);

/* decide.c. The action to take, with everything about it in *s; negative: the run ends with err. */
int agent_decide(struct agent *a, struct step *s, struct err *err);
void reason_add(struct agent *a, const char *text);

/* donor.c */
int donor_new(struct agent *a, struct err *err);
/* The donor's next picture, of the field when ours is one. */
const uint8_t *donor_picture(struct agent *a, bool field);

#endif
