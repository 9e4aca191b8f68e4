/* One decision of a run, as the agent publishes it and the recorder writes it (trajectory.jsonl, one line a step). */
#ifndef RECORD_STEP_H
#define RECORD_STEP_H

#include <stdbool.h>
#include <stdint.h>

#include "game/world.h"
#include "record/vote.h"

/* Who chose the action. BY_GATEKEEPER: the safe default after two refused answers. BY_STUCK: exploration forced because nothing moved on.
 * BY_SAFEGUARD: a rule that keeps the leader alive overruled the model. */
enum decided_by { BY_MODEL, BY_FALLBACK, BY_HUMAN, BY_RANDOM, BY_ORACLE, BY_OMNISCIENT, BY_EXTERNAL, BY_GATEKEEPER, BY_STUCK, BY_SAFEGUARD,
                  DECIDED_BY_COUNT };
extern const char *const decided_by_name[]; /* "model", "fallback", "human", "random", "oracle", "omniscient", "external", ... */

/* The way that a skill walks, from the next tile on. */
enum { MAX_PLAN = 96 };
struct plan {
    char skill[24];
    struct point goal;       /* -1, -1: none */
    struct point path[MAX_PLAN];
    int count;
};

/* Keys held for so many frames: what replay plays back. */
struct key_press {
    uint16_t keys;
    uint16_t frames;
};
enum { MAX_STEP_PRESSES = 256 };

/* What the model said that it saw, beside what the game's memory says is on the screen (agent/perceive.h). */
enum perception_field { PERCEIVE_FLOOR, PERCEIVE_HP, PERCEIVE_FOES, PERCEIVE_ITEMS, PERCEIVE_STAIRS, PERCEIVE_TEXT, PERCEIVE_MENU, PERCEPTION_FIELDS };
enum { PERCEPTION_NONE = -1 }; /* no usable answer; or nothing that could be seen there now */
extern const char *const perception_name[PERCEPTION_FIELDS]; /* "floor", "hp", "foes", ... */
struct perception { int said[PERCEPTION_FIELDS], truth[PERCEPTION_FIELDS]; };
/* Answers scored and those that agreed, by field. */
struct perception_score { int asked[PERCEPTION_FIELDS], agreed[PERCEPTION_FIELDS]; };
void perception_add(struct perception_score *s, const struct perception *p);

struct memory_lines;
struct step {
    uint32_t number;          /* from 1 */
    uint64_t first_frame;     /* emulator frame at the observation */
    char frame_hash[33];      /* of the observed 240x160 RGB picture */
    char state_hash[33];      /* of EWRAM and IWRAM at the observation */
    const uint8_t *frame;     /* the observed picture, RGB; valid during the event */
    const struct world *world;      /* full; for the recorder, tests and the omniscient yardstick only */
    const struct world_seen *seen;
    const char *scene;        /* "field", "dialogue", "stairs", "menu", ... */

    const char *system;       /* the system text as sent; NULL like prompt */
    const char *prompt;       /* the user text as sent, without the picture; NULL when no model was asked (unless
                                 agent_options.make_prompt) */
    const char *const *actions; int action_count;  /* the actions offered in this scene, by name; NULL like prompt */
    const char *pieces;       /* its tokens: a JSON array of [text, probability, forced], or NULL */
    const char *answer;       /* the model's answer text, or NULL */
    int history;              /* exchanges that stood before this prompt (agent/conversation.h) */
    const char *refused_answer;  /* the answer that the gatekeeper refused, or NULL: then answer is the one given after that */
    const int32_t *refused_tokens; int refused_token_count;
    const int32_t *prompt_tokens; int prompt_token_count; /* NULL when no model was asked */
    const int32_t *answer_tokens; int answer_token_count;
    const char *action;       /* "walk_north", "hit_ne", "eat", ... */
    const struct memory_lines *recalled; /* what memory told; NULL: it was not asked (agent/agent.h) */
    const char *note;         /* what the model wrote to its scratchpad with this answer, or NULL */
    const char *stuck;        /* how the agent is stuck: "same_state", "to_and_fro", "nothing_new", "text"; NULL: it is not */
    int stuck_level;          /* rung of the ladder: 1 stronger model, 2 other prompt, 3 forced exploration; 0 none */
    const char *refused;      /* what the gatekeeper refused and why, or NULL */
    const struct perception *perception; /* when the model was asked what it sees; else NULL */
    const struct plan *plan;  /* of the skill that was run, at its start; NULL: a single action */
    const char *skill_end;    /* how the skill ended, in words; NULL: a single action */
    enum decided_by decided_by;
    const char *reason;       /* why this action, or why a fallback; may be "" */
    float confidence;         /* probability of the action among the allowed ones; 0 when no model was asked */
    float calibrated;         /* how often such a confidence is right, 0: not known */
    const char *model, *route_reason; /* which of several models answered, and why that one; NULL: there is only one */
    const struct vote *votes; int vote_count; /* best of n, what was answered; 0: one answer */
    const char *oracle_action;/* what the fair oracle would do here; NULL when it was not asked */

    struct key_press presses[MAX_STEP_PRESSES]; /* what was then pressed, in order; frames include waiting */
    int press_count;

    /* milliseconds */
    double observe_ms, decode_ms, ask_ms, act_ms, total_ms;
    double image_ms, prefill_ms, generate_ms;   /* inside ask */
    double emulator_ms;                         /* of total: frames run by the emulator */
    double recall_ms, path_ms;                  /* of total: memory asked; searches on the seen map */
    int64_t cached_tokens;
};

enum outcome { OUTCOME_NONE, OUTCOME_CLEARED, OUTCOME_FAINTED, OUTCOME_LOST, OUTCOME_OUT_OF_BUDGET, OUTCOME_STOPPED, OUTCOME_STUCK };
extern const char *const outcome_name[]; /* "none", "cleared", "fainted", "lost", "out_of_budget", "stopped", "stuck" */

/* How often a skill was run and reached what it is for. */
enum { SKILL_COUNTS = 32 };
struct skill_count {
    char name[24];
    int used, succeeded;
};

/* What the parts around the model did in an episode. */
struct part_counts {
    int refused;       /* answers that the gatekeeper refused */
    int corrected;     /* of these, followed by a possible one when the reason was given back; the others became a safe default */
    int stuck[5];      /* times that the agent got stuck, by kind (agent/stuck.h); [0] unused */
    int escalated, prompt_changed, forced; /* rungs of the ladder that were tried */
    int safeguards;
    int restored;      /* returns to an earlier state, where that is allowed */
};

struct episode_result {
    uint32_t seed;
    enum outcome outcome;
    bool returns;            /* the watchdog goes back from here: another part of the episode follows */
    char cause[96];          /* of a failure: "fainted to Thornling on floor 2", "wind on floor 3", ... */
    int floor_reached, turns, decisions;
    int decided[DECIDED_BY_COUNT];
    int turns_by[DECIDED_BY_COUNT]; /* game turns that went by under decisions of each kind */
    struct part_counts parts;
    struct perception_score perception;
    struct skill_count skills[SKILL_COUNTS];
    int skill_count;
    double seconds, model_seconds, emulator_seconds;
    int64_t tokens;          /* prompt and generated tokens computed */
};

#endif
