#include "record/step.h"

const char *const decided_by_name[] = {"model", "fallback", "human", "random", "oracle", "omniscient", "external",
                                       "gatekeeper", "stuck", "safeguard"};
const char *const outcome_name[] = {"none", "cleared", "fainted", "lost", "out_of_budget", "stopped", "stuck"};
