#include "record/step.h"

const char *const decided_by_name[] = {"model", "fallback", "human", "random", "oracle", "omniscient", "external",
                                       "gatekeeper", "stuck", "safeguard"};
const char *const outcome_name[] = {"none", "cleared", "fainted", "lost", "out_of_budget", "stopped", "stuck"};

const char *const perception_name[PERCEPTION_FIELDS] = {"floor", "hp", "foes", "items", "stairs", "text", "menu"};

void perception_add(struct perception_score *s, const struct perception *p) {
    for (int i = 0; i < PERCEPTION_FIELDS; i++) {
        if (p->truth[i] == PERCEPTION_NONE) continue;
        s->asked[i]++;
        s->agreed[i] += p->said[i] == p->truth[i];
    }
}
