/* Scenes: what the game is asking for now, and which actions make sense in each. */
#ifndef AGENT_SCENE_H
#define AGENT_SCENE_H

#include "agent/agent.h"

enum scene { SCENE_NONE, SCENE_TITLE, SCENE_FIELD, SCENE_DIALOGUE, SCENE_CHOICE, SCENE_STAIRS, SCENE_MENU, SCENE_COUNT };
extern const char *const scene_name[SCENE_COUNT];

/* SCENE_NONE: no input is taken now (loading, printing, animation), or the game can't be read. */
enum scene scene_of(const struct world *w);

/* Sets offered[a] for the actions that make sense; returns how many. Walking is never filtered by walls: the model must see them. */
int scene_offers(const struct world *w, enum scene scene, bool offered[ACTION_COUNT]);

/* First bag slot of the first MENU_SLOTS whose item is used that way, -1 none. */
enum { MENU_SLOTS = 8 }; /* rows on the first page of the bag list */
int bag_find(const struct world *w, enum item_use use);
int bag_count_use(const struct world *w, enum item_use use); /* quantities of stacks summed */
/* The leader's move that L+A uses, NULL: none set or no PP. */
const struct move *leader_set_move(const struct world *w);
/* NULL when there is none. */
const struct monster *world_leader(const struct world *w);
const struct monster *foe_at(const struct world *w, int x, int y);

#endif
