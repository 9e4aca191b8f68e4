/* Where to walk: to the stairs when they are known, past things worth having, else to where the map ends. */
#ifndef AGENT_EXPLORE_H
#define AGENT_EXPLORE_H

#include "agent/scene.h"

/* Direction of the next step, -1 none. w: what is known (all of the floor when `all`). */
int explore_step(const struct world *w, const struct world_seen *seen, bool all, const char **reason);
/* A tile on which the map ends: revealed, open, and beside it one that is not revealed. */
bool tile_is_frontier(const struct world *w, int x, int y);

#endif
