/* The agent's loop: observe, ask, act, until the dungeon is cleared, the leader has fainted or the budget is used up. It knows the
 * game only through struct world_seen and the picture. Whoever wants to watch subscribes to its events; a run is the same with
 * none or all of them. */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include "emulator/emulator.h"
#include "qwen3vl.h"
#include "record/recalled.h"
#include "record/step.h"

/* The 200 fixed seeds on which everything is measured; never used in training. */
enum { AGENT_TEST_SEED_FIRST = 1000000, AGENT_TEST_SEEDS = 200 };

enum policy { POLICY_MODEL, POLICY_ORACLE, POLICY_RANDOM, POLICY_OMNISCIENT, POLICY_EXTERNAL, POLICY_COUNT };
extern const char *const policy_name[]; /* "model", "oracle", "random", "omniscient", "external" */

/* What one decision is: a step (or hit, bite, throw ...), or a skill of many turns. */
enum acting { ACT_BY_STEPS, ACT_BY_SKILLS };

/* What the model is told: picture and words, or one of them, so that perception can be measured. */
enum see { SEE_BOTH, SEE_RAM, SEE_PICTURE, SEE_COUNT };
extern const char *const see_name[SEE_COUNT]; /* "both", "ram", "picture" */

/* Parts around the model, POLICY_MODEL only; each can be left out, to measure what it brings. */
enum part {
    PART_MEMORY = 1,     /* the last actions and recalled lines in the prompt */
    PART_MAP = 2,        /* where the leader has been and which end of the map is walked to; without it skills and prompt forget */
    PART_STUCK = 4,      /* stuckness and its ladder: stronger model, other prompt, forced exploration */
    PART_GATEKEEPER = 8, /* impossible actions are refused, the reason given back once, then a safe default */
    PART_SAFEGUARD = 16, /* heals and eats in time when the model does not */
    PART_COUNT = 5, PART_ALL = 31,
};
extern const char *const part_name[PART_COUNT]; /* "memory", "map", "stuckness", "gatekeeper", "safeguards" */

/* What happens to the picture before the model sees it: controls that show whether it looks. */
enum picture { PICTURE_REAL, PICTURE_BLANK, PICTURE_OTHER_SEED };

enum { UPSCALE_MAX = 4 };

struct agent_events {
    void *user;
    /* Published when seed and reset are done and before the first observation, with at least one drawn frame between the two.
     * From here on every key pressed must appear in a step's presses (the recorder keeps the emulator state of this moment). */
    void (*episode_begun)(void *user, uint32_t seed, struct emulator *e);
    /* What is decided on: picture, what is seen, prompt, what is offered; before anybody is asked. */
    void (*observed)(void *user, const struct step *s);
    void (*token)(void *user, const char *text, size_t n); /* as the model answers */
    /* The same token by token, where who answers tells probabilities. text may be a part of a UTF-8 sequence; forced: nothing else was
     * allowed. */
    void (*piece)(void *user, const char *text, size_t n, float probability, bool forced);
    /* A skill walks: where to and which way; again when it changes its mind, and with count 0 when it is over. */
    void (*planned)(void *user, const struct plan *plan);
    void (*acted)(void *user, struct emulator *e);         /* after each run of frames while acting: a new picture may be there */
    void (*step_done)(void *user, const struct step *s);
    void (*episode_done)(void *user, const struct episode_result *r);
};

struct answerer;
struct control;
struct agent_options {
    enum policy policy;
    struct qvl_model *model;   /* POLICY_MODEL, this or the next */
    const struct answerer *answerer; /* who answers in its place: agent/ask.h */
    /* POLICY_EXTERNAL: somebody outside decides (pmd-agent env). Sees the observation and what is offered; returns an action,
     * or a negative number to stop. An action that is not offered becomes a labelled fallback. */
    int (*external)(void *user, const struct step *s, const bool offered[]);
    void *external_user;
    /* Memory: fills the lines that the prompt's {memory} shows (zeroed before). s is the observation: scene, seen, picture. */
    void (*recall)(void *user, const struct step *s, struct memory_lines *out);
    void *recall_user;
    int history;               /* POLICY_MODEL: so many exchanges stay in the prompt (agent/conversation.h); 0: each question stands alone */
    bool scratchpad;           /* answers may carry a note, which goes into step.note (agent/recall.h shows the notes again) */
    /* The first rung when the agent is stuck: may a stronger model be asked? s->stuck says how, s->stuck_level since how many rungs; called
     * once more with level 0 when the game goes on. False: nobody stronger is there, and the next rung is tried. why: for the record. */
    bool (*escalate)(void *user, const struct step *s, char *why, size_t cap);
    void *escalate_user;
    const char *prompt_file;   /* NULL = configs/prompts/tinywoods.txt of the project (home.h) */
    enum picture picture;
    enum see see;
    int upscale;               /* the picture is shown so many times as large (1 to UPSCALE_MAX); 0: 1 */
    enum acting acting;
    unsigned parts;            /* enum part; 0: the model alone */
    bool watchdog;             /* out of a soft-lock the agent may go back to an earlier state (agent.c, go_back) */
    int perception_every;      /* at every so-manieth decision the model is also asked what it sees; 0: never (agent/perceive.h) */
    const struct skill_count *rates; /* how skills did before, for the prompt; copied */
    int rate_count;
    const char *skill_folder;  /* NULL = configs/skills of the project */
    int max_decisions;         /* per episode; 0 = default 2000 */
    bool greedy;               /* default sampling: greedy unless temperature is set */
    float temperature;
    float epsilon;             /* probability of a random legal step instead (data recording); 0 = never */
    float mix;                 /* probability that the fair oracle's action is taken instead of the model's (data recording) */
    bool ask_oracle;           /* fill step.oracle_action whoever decides */
    bool make_prompt;          /* fill step.prompt and step.actions also when no model is asked (data recording) */
    bool draw_all;             /* draw every frame while acting (for watching), else only the observed ones */
    volatile bool *stop;       /* set from a signal handler: finish the record and return OUTCOME_STOPPED */
    struct control *control;   /* somebody outside may pause, take over, ...: agent/control.h; NULL: nobody */
    const struct agent_events *events; /* array ended by an all-zero entry, or NULL */
};

struct agent;
/* options is copied; the emulator must have the game loaded. */
int agent_new(struct emulator *e, const struct agent_options *options, struct agent **out, struct err *err);
void agent_free(struct agent *a);
/* Starts a new game with this seed (reset, title screen, seed word, START) and plays it to its end. */
int agent_play_episode(struct agent *a, uint32_t seed, struct episode_result *out, struct err *err);

/* ---- the teachers, also used to label data --------------------------------------------------------------------------- */

/* Actions: walk_/hit_ with north, ne, east, se, south, sw, west, nw; use_move, eat, heal, throw, wait; proceed, stay (stairs);
 * next (dialogue); yes, no (choice); close (menu). No name is a prefix of another. */
enum { ACTION_WALK = 0, ACTION_HIT = 8, ACTION_USE_MOVE = 16, ACTION_EAT, ACTION_HEAL, ACTION_THROW, ACTION_WAIT, ACTION_PROCEED,
       ACTION_STAY, ACTION_NEXT, ACTION_YES, ACTION_NO, ACTION_CLOSE, ACTION_COUNT };
extern const char *const action_name[ACTION_COUNT]; /* walk/hit + direction 0..7 as in world.h */
int action_by_name(const char *name); /* -1 unknown */

struct oracle; /* remembers nothing between steps */
struct oracle *oracle_new(bool omniscient);
void oracle_free(struct oracle *o);
/* The fair oracle reads seen only; the omniscient one reads world too. Always returns an action fit for the scene. */
int oracle_decide(struct oracle *o, const struct world *world, const struct world_seen *seen, const char **reason);

#endif
