/* Skills: actions of many turns, declared in configs/skills/ (one YAML file each) and carried out with the path finder on what a player
 * could know. A model chooses a skill where it would else choose every single step.
 *
 * A skill is a list of rules, tried from the top before every act: the first one whose conditions hold says what is done next. There
 * is no place in a program to lose, so a skill may be interrupted anywhere and begun again. It ends when no rule fits, when something
 * of `until` or `interrupt` has become true, when the scene is none of its own any more, or at a limit. Then `success` is judged.
 *
 *     name: fight                     # as the model says it: letters, digits, _
 *     description: attack the foe     # for the prompt
 *     arguments: [x, y]               # only for skills that take a tile or an item (see `arguments` in skill_file.c)
 *     when: [field, foe_seen]         # offered when all of these hold
 *     scenes: [field]                 # goes on in these; without it: the scene in which it began
 *     steps:
 *       - if: [foe_ahead, move_ready] # all must hold; without it: always
 *         do: use_move                # an act (skill_words.c), or  walk: stairs  (a target, skill_words.c)
 *     until: [room_new]               # done as soon as one of these is true
 *     interrupt: [foe_new, hp below 50]  # as soon as one of these, false at the start, is true
 *     success: [map_grew]             # all must hold in the end; without it: it ended by `until` or with nothing left to do
 *     limits: {turns: 40, acts: 60}   # of one call; defaults SKILL_TURNS, SKILL_ACTS
 *
 * A condition is a word, `not WORD`, or `hp below 50` / `belly above 10` (percent). */
#ifndef AGENT_SKILLS_H
#define AGENT_SKILLS_H

#include "agent/hands.h"
#include "agent/map_memory.h"

enum { MAX_SKILLS = 32, MAX_RULES = 12, MAX_CONDITIONS = 8, SKILL_NAME = 24, SKILL_TURNS = 60, SKILL_ACTS = 120 };

struct condition {
    uint8_t word; /* skill_words.c */
    bool negated;
    int16_t value; /* of below, above */
};
struct conditions {
    struct condition all[MAX_CONDITIONS];
    int count;
};

enum skill_target { TARGET_NONE, TARGET_STAIRS, TARGET_UNKNOWN, TARGET_ITEM, TARGET_FOE, TARGET_ALLY, TARGET_TILE, TARGET_AWAY, TARGET_COUNT };
/* Acts: those of agent.h, and these. */
enum { ACT_HIT = ACTION_COUNT, ACT_TALK, ACT_USE_ITEM, ACT_END };

struct rule {
    struct conditions when;
    int act;                  /* -1: walk to target */
    enum skill_target target;
};

enum skill_arguments { ARGUMENTS_NONE, ARGUMENTS_TILE, ARGUMENTS_ITEM }; /* x, y; item (row of the bag, from 1) */

struct skill {
    char name[SKILL_NAME], description[160];
    enum skill_arguments arguments;
    struct conditions when, until, interrupt, success;
    struct rule rules[MAX_RULES];
    int rule_count, turns, acts;
    uint32_t scenes; /* bit per enum scene; 0: the one in which it began */
};

struct skill_set {
    struct skill skills[MAX_SKILLS];
    const char *names[MAX_SKILLS];
    int count;
    int offered; /* the first so many are offered to whoever decides; the others can be run */
};

/* Reads all skills of the folder, those named (separated by blanks) first and in this order; only they are offered. NULL or "": all, by
 * name. Errors name file and line. */
int skill_set_load(const char *folder, const char *names, struct skill_set *out, struct err *err);
/* One skill from the text of its file. */
int skill_parse(const char *text, size_t n, const char *file, struct skill *out, struct err *err);
int skill_find(const struct skill_set *s, const char *name); /* -1 unknown */

/* ---- words ------------------------------------------------------------------------------------------------------------ */

/* What conditions are judged on. The start is that of the skill. */
struct situation {
    const struct world_seen *seen;
    const struct map_memory *map; /* NULL: none is kept */
    enum scene scene;
    int argument[2];
    /* at the start */
    enum scene start_scene;
    int start_hp, start_belly, start_bag, start_foes, start_items, start_known, start_room, start_floor, start_turns, turns, start_log;
    uint16_t start_met; /* foes met so far */
    char start_message[256];
    bool arrived;       /* the target of the last walk is reached */
};
/* Also sets the start to now. */
void situation_begin(struct situation *s, const struct world_seen *seen, const struct map_memory *map, enum scene scene, int turns);
bool condition_holds(const struct condition *c, const struct situation *s);
bool conditions_hold(const struct conditions *c, const struct situation *s); /* all; true when there are none */

/* "hp below 50" to a condition; false with the problem in words. */
bool condition_parse(const char *text, struct condition *out, char *problem, size_t cap);
void condition_print(const struct condition *c, char *out, size_t cap);
int act_by_name(const char *name);                    /* -1 */
enum skill_target target_by_name(const char *name);   /* TARGET_NONE */
int scene_by_word(const char *name);                  /* -1; as in conditions */

/* ---- running ---------------------------------------------------------------------------------------------------------- */

enum skill_end { SKILL_DONE, SKILL_NOTHING, SKILL_INTERRUPTED, SKILL_LIMIT, SKILL_FAILED, SKILL_OVER /* the dungeon, or stopped */ };
struct skill_result {
    enum skill_end end;
    bool success;
    bool ready;        /* the game takes input again (hands_ready) */
    int acts, turns;
    char words[160];   /* "interrupted: foe_new after 7 turns" */
};

/* What a skill is run with; seen and map are kept up to date. */
struct skill_room {
    struct hands *hands;
    struct world_seen *seen;
    struct map_memory *map;            /* NULL: none is kept */
    void (*did)(void *user, int act);  /* every single act (ACTION_... or ACT_...), after it was done; may be NULL */
    void *user;
};

/* Which skills are offered; returns how many. */
int skills_offer(const struct skill_set *s, const struct world_seen *seen, const struct map_memory *map, enum scene scene, bool offered[]);
/* The first act of a skill here and now (ACTION_... or ACT_...) and the way that it would walk (plan; may be NULL); -1: there is nothing
 * to do. Changes nothing. */
int skill_first_act(const struct skill *k, const struct world_seen *seen, const struct map_memory *map, enum scene scene,
                    const int argument[2], struct plan *plan);
/* Carries one out from a decision's beginning to the moment when the next decision is due. */
void skill_run(const struct skill *k, const struct skill_room *room, const int argument[2], struct skill_result *out);

#endif
