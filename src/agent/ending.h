/* How a dungeon ended, in words. */
#ifndef AGENT_ENDING_H
#define AGENT_ENDING_H

#include "record/step.h"

/* "fainted to Thornling on floor 2", "blown out by the wind on floor 3", ... */
void ending_cause(const struct world *w, enum outcome outcome, int floor, char *out, size_t cap);

#endif
