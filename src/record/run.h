/* A run on disk: written step by step while it is played, read back by replay, reports and data sets. The format is specified
 * at the head of run.c. Nothing here knows the agent; src/app/subscribers.h connects this to the agent's events. */
#ifndef RECORD_RUN_H
#define RECORD_RUN_H

#include "base/arena.h"
#include "base/json.h"
#include "emulator/emulator.h"
#include "record/step.h"

/* ---- writing ---------------------------------------------------------------------------------------------------------- */

struct run;

struct run_options {
    const char *root;          /* NULL = "runs"; a new folder <YYYYmmdd-HHMMSS>-<pid> is made in it */
    const char *folder;        /* this very folder instead (must not hold a run yet), or NULL */
    const char *policy;        /* "model", "oracle", ... */
    const char *model;         /* what was loaded, as the user would name it; NULL when the policy asks no model */
    const char *model_detail;  /* one JSON object about it (device, storage, parameters, ...), or NULL */
    const char *settings;      /* one JSON object: every setting that the run depends on, or NULL */
    const char *arguments;     /* one JSON array of strings: how `play` was called, for --resume; or NULL */
    const char *rom_path;      /* as given by the user; where replay looks for the ROM */
    const void *rom; size_t rom_bytes; /* for its hash */
    uint32_t seed;             /* of the first episode */
    int episodes;              /* asked for */
    bool no_pictures;          /* no key frames */
};

/* Makes the folder and run.json. */
int run_create(const struct run_options *o, struct run **out, struct err *err);
const char *run_folder(const struct run *r);
/* The key frame kept of the step written last (file in the folder), or NULL. */
const char *run_last_picture(const struct run *r);

/* The emulator must be at the point from where the recorded presses start: its state is saved. */
int run_episode_begin(struct run *r, uint32_t seed, struct emulator *e, struct err *err);
/* One line, in the file when this returns (one write; to the disk at the latest two seconds or one episode later). */
int run_step(struct run *r, const struct step *s, struct err *err);
/* The same line without its chain, for whoever shows a step. */
void run_step_json(struct buf *b, int episode, const struct step *s);
/* e: at the end of the last step's presses (its state is hashed, the proof of the last step); NULL when it is gone. */
int run_episode_end(struct run *r, const struct episode_result *result, struct emulator *e, struct err *err);
/* Writes summary.json (totals over the episodes) and closes; frees r in every case. r may be NULL. After an error of any of the
 * functions above the run accepts nothing more, and this only closes it. */
int run_finish(struct run *r, struct err *err);

/* ---- going on with a run that was cut off (how: run_resume.c) ------------------------------------------------------------ */

/* Opens the run for writing behind its last whole line; a torn one is cut off. Then the open episode, if there is one, must be played
 * from its beginning; run_episode_begin and run_step compare instead of writing until the past has been lived again. An episode
 * that was stopped by the user is opened again. */
int run_resume(const char *folder, struct run **out, struct err *err);
bool run_open_episode(const struct run *r, uint32_t *seed); /* is there one still to be begun again? */
bool run_lives_again(const struct run *r);                  /* the next step is one on record */

struct run_past_step { /* strings live as long as the run */
    uint64_t first_frame;
    char frame_hash[33], state_hash[33], presses_hash[33];
    const char *action, *decided_by, *answer, *model, *route_reason; /* the last three may be NULL */
    int32_t *prompt_tokens, *answer_tokens, *refused_tokens; /* of a conversation's prompt only what its line adds */
    int prompt_token_count, answer_token_count, refused_token_count;
    const char *refused_answer;  /* or NULL */
    int history;
    float confidence;
    double ask_ms;
    bool has_picture;
    const struct key_press *presses; int press_count; /* of a person */
};
/* How skills did in the episodes that are over and not lived again. */
const struct skill_count *run_skills_before(const struct run *r, int *count);
/* A step on record of the part that is being lived again, NULL behind its last. */
const struct run_past_step *run_past_step(const struct run *r, uint32_t number);

/* ---- tokens of a conversation: lines tell what they add (run.c, prompt_from) ---- */

struct token_chain { /* ids of a line's prompt, then those of its answer; zeroed: none */
    int32_t *ids;
    int count, capacity;
};
/* How many ids a prompt begins with are those that the chain begins with. */
int token_chain_common(const struct token_chain *c, const int32_t *ids, int count);
/* The next line's. prompt may point into the chain. Out of memory: the chain is empty then, and the next line tells all. */
void token_chain_set(struct token_chain *c, const int32_t *prompt, int prompt_count, const int32_t *answer, int answer_count);
/* The prompt of a line that is read, put together behind the lines before it, which must all have come by here; NULL when it has none or does
 * not fit. Valid until the next call. */
const int32_t *token_chain_line(struct token_chain *c, const struct json *line, int *count);
void token_chain_free(struct token_chain *c);

/* ---- reading ---------------------------------------------------------------------------------------------------------- */

struct run_reader;

struct run_info { /* of run.json; strings live as long as the reader */
    int format;
    const char *program, *policy, *model, *rom_path, *rom_hash, *rom_title, *rom_code, *started_at;
    uint32_t seed;
    int episodes;
    bool finished;           /* the program ended the run itself (summary.json is there) */
    const struct json *json; /* all of it */
};

struct run_episode {
    int number;               /* from 1 */
    uint32_t seed;
    uint64_t start_frame;     /* emulator frame number when the state was saved */
    const char *start_state;  /* file name inside the run; plain or gzip */
    const char *start_hash;   /* state_hash of it */
    bool ended;               /* false: the program was killed during this episode */
    uint32_t steps;           /* valid when ended, as all below */
    const char *chain;        /* of its last line */
    uint64_t end_frame;
    const char *end_hash;     /* state_hash after the last presses, or NULL */
    const char *outcome, *cause;
    int resumed;              /* so many times the program was started again in it */
    bool returns;             /* the watchdog went back: the next one is the same episode */
    const struct json *end;   /* its end record */
};
/* From which on (its number) a run that goes on lives its episodes again: the last one and, when that is one after a return of the watchdog,
 * those before it; the count + 1 when nothing is open. */
int run_reader_reopens(const struct run_reader *r);
/* What the end record says, the seed and the totals. */
void run_episode_result(const struct run_episode *e, struct episode_result *out);

/* What replay, data sets and reports need of a line; strings live until the next call. */
struct run_line {
    int episode;
    uint32_t step;
    uint64_t first_frame;
    const char *frame_hash, *state_hash, *action, *decided_by, *scene, *chain;
    struct key_press presses[MAX_STEP_PRESSES];
    int press_count;
    const struct json *json; /* the whole line */
    const char *text;        /* the same as it stands in trajectory.jsonl */
    size_t bytes;
};

int run_open(const char *folder, struct run_reader **out, struct err *err);
void run_close(struct run_reader *r);
const struct run_info *run_reader_info(const struct run_reader *r);
int run_reader_episodes(const struct run_reader *r, const struct run_episode **out); /* returns how many were begun */
/* 1 and the next step, 0 at the end (a torn last line is left out; *torn says so when not NULL), negative: the file is broken
 * or was changed (every line carries a hash chained to the line before). */
int run_next(struct run_reader *r, struct run_line *out, bool *torn, struct err *err);
/* The chains as they stand: behind the last step read, and behind the last line of episodes.jsonl. */
void run_reader_chain(const struct run_reader *r, char steps[33], char episodes[33]);
/* The state file of an episode, unpacked (appended to out). */
int run_start_state(const struct run_reader *r, const struct run_episode *e, struct buf *out, struct err *err);

#endif
