/* The agent's inside, shared by the files of this room: agent.c (the loop), decide.c and model_choice.c (who decides what), donor.c (the
 * picture of another seed). Private to this room. */
#ifndef AGENT_ROOM_H
#define AGENT_ROOM_H

#include "agent/ask.h"
#include "agent/choice.h"
#include "agent/hands.h"
#include "agent/perceive.h"
#include "agent/prompt.h"
#include "agent/stuck.h"

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

    struct world_seen seen;     /* newest */
    struct world_seen observed; /* as it was decided on */
    struct map_memory map;
    struct stuck stuck;
    bool escalated;             /* a stronger model was asked for and not yet given back */
    struct skill_set skills;    /* of the folder, those that the prompt file names first */
    struct skill_count rates[SKILL_COUNTS]; /* of all episodes, for the prompt */
    int rate_count;
    uint8_t *large;             /* the picture upscaled; NULL: it is shown as it is */
    struct buf saved;           /* the watchdog's: state of a free field; empty: none */
    uint32_t saved_at;          /* decision */
    int saved_floor, turns_before; /* turns_before: of the parts of the episode that ended in a soft-lock */
    struct perceiver perceiver;
    struct perception perception;
    struct choice choice;
    struct plan plan;
    char action_text[48], refused[200], note[NOTE_BYTES + 1], skill_end[160];
    struct conversation conversation;
    char *refused_answer;       /* of this decision */
    int32_t *refused_tokens;
    int refused_token_count;
    bool after_refusal;         /* the turn being written follows a refusal */
    char instead[160];          /* actions since the last answer that were not the model's */
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

/* decide.c. What to do in a->choice, with everything about it in *s; not 0: the run ends with err. */
int agent_decide(struct agent *a, struct step *s, struct err *err);
/* Fills a->prompt_text; again in the same step after a refusal. */
int prompt_make(struct agent *a, struct step *s, const struct sight *sight, const struct offer *offer, struct err *err);
struct choice action_choice(int action);
struct choice safe_choice(enum scene scene);
void reason_add(struct agent *a, const char *text);
/* What was done in place of an answer: the next turn of a conversation says so. */
void note_instead(struct agent *a, const char *what);
void refusal_free(struct agent *a);

/* model_choice.c */
/* Looks whether the agent is stuck; true: the ladder has decided. */
bool stuck_ladder(struct agent *a, struct step *s, const struct sight *sight);
int model_choose(struct agent *a, struct step *s, const struct sight *sight, const struct offer *offered, struct err *err);
struct map_memory *agent_map(struct agent *a); /* NULL: none is kept */

/* donor.c */
int donor_new(struct agent *a, struct err *err);
/* The donor's next picture, of the field when ours is one. */
const uint8_t *donor_picture(struct agent *a, bool field);

#endif
