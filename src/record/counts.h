/* What was done by whom, summed over episodes and printed: turns by who decided, what the parts around the model did, skills. */
#ifndef RECORD_COUNTS_H
#define RECORD_COUNTS_H

#include "base/buf.h"
#include "base/json.h"
#include "record/step.h"

struct run_counts {
    long long turns_by[DECIDED_BY_COUNT];
    struct part_counts parts;
    struct perception_score perception;
    struct skill_count skills[SKILL_COUNTS];
    int skill_count;
};
void counts_add(struct run_counts *c, const struct episode_result *r);
/* The parts of an episode that ended in soft-locks belong to its last one. */
void episode_result_join(struct episode_result *to, const struct episode_result *before);
void parts_join(struct part_counts *to, const struct part_counts *more);
/* One more try of a skill; past SKILL_COUNTS names nothing is counted. */
void count_skill(struct skill_count *skills, int *count, const char *name, int used, int succeeded);
/* ,"turns_by":{...},"parts":{...},"skills":{"explore":{"used":N,"succeeded":N},...} */
void counts_json(const struct run_counts *c, struct buf *out);
/* Back from an object that holds it (the end of an episode on record); what is missing stays 0. */
void counts_read(const struct json *object, struct episode_result *out);

#endif
