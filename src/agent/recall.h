/* Memory in the agent's loop, one for each game: at a keyframe the picture is embedded and memories like it are found; their lines, and
 * those of the scratchpad, go into the prompt; when the step is done, it and what was told go into the store. It knows what the
 * player sees (step->seen), nothing else.
 *
 *     struct agent_options o = {.recall = recall_tell, .recall_user = recall, ...};
 *     struct agent_events events[] = {run_events(&rec), recall_events(recall), {0}};     after the recorder
 *
 * At steps that are no keyframe the lines told last stay. Events cannot fail: the first error is kept, *stop is set. */
#ifndef AGENT_RECALL_H
#define AGENT_RECALL_H

#include "agent/agent.h"
#include "agent/embed.h"
#include "memory/memory.h"
#include "memory/scratchpad.h"
#include "record/run.h"

struct recall;
struct recall_options {
    struct memory *memory;   /* shared; NULL: the scratchpad only */
    int64_t memory_run;      /* its number of the run that is being recorded */
    struct run *record;      /* NULL: nothing is recorded, and nothing is added to memory either */
    struct qvl_model *model; /* makes the embeddings; NULL: near-time memories only */
    enum embed_kind kind;
    bool scratchpad;
    volatile bool *stop;     /* may be NULL */
};
enum { RECALL_TOLD = 4 };

int recall_new(const struct recall_options *o, struct recall **out, struct err *err);
void recall_free(struct recall *r);
void recall_set_run(struct recall *r, int64_t memory_run);
void recall_tell(void *user, const struct step *s, struct memory_lines *out);
struct agent_events recall_events(struct recall *r);
/* 0, or the first error of an event. */
int recall_error(const struct recall *r, struct err *err);

const struct scratchpad *recall_scratchpad(const struct recall *r);
/* A resumed run: one line of it after the other, as they were recorded, before the agent goes on. Keyframes and scratchpad go on from
 * there; the store has the steps already. */
int recall_resume(struct recall *r, const struct run_line *line, struct err *err);

/* A recorded line as the store takes it; strings point into the line. What is missing (runs of an older program) is unknown; a number
 * that makes no sense is an error naming the field. */
int store_step_of_line(const struct run_line *line, struct store_step *out, struct err *err);

/* What was done in the bag, foes and so on, from what is seen: the same numbers as from a line. */
void store_step_of_world(const struct world *seen, struct store_step *out);

/* Told in total, for the report. */
struct recall_totals {
    int keyframes, embedded, told;
    double embed_ms, recall_ms, store_ms; /* sums */
};
void recall_totals(const struct recall *r, struct recall_totals *out);

#endif
