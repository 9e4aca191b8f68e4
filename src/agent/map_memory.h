/* What is remembered of a floor beyond what the screen shows: how much of it is known, where the map ends, where nobody has been, and
 * which end of the map is being walked to. Kept across steps; one for each floor of the episode. It holds only what was seen. */
#ifndef AGENT_MAP_MEMORY_H
#define AGENT_MAP_MEMORY_H

#include "agent/scene.h"

enum { MAP_FLOORS = 100 };

struct floor_memory {          /* of a floor that was left, or is being played */
    int16_t floor;
    int known, open, visited;  /* tiles: revealed, walkable, stood on */
    int rooms, items, foes;    /* seen */
    int steps;                 /* decisions of the field, or steps inside skills */
    struct point stairs;       /* -1, -1: never seen */
};

struct map_memory {
    int serial;                        /* world_seen.floor_serial that it is about */
    struct floor_memory floors[MAP_FLOORS];
    int floor_count;                   /* the last one is the present one */
    uint32_t known_at[MAP_HEIGHT][MAP_WIDTH]; /* step at which a tile was first known, 0 never */
    uint32_t last_new;                 /* step at which the map grew for the last time */
    uint32_t steps;                    /* on this floor */
    struct point goal;                 /* the end of the map that is walked to; -1, -1 none */
    uint64_t rooms_been;               /* bit per room */
};

void map_memory_reset(struct map_memory *m);
/* After every world_seen_update. */
void map_memory_update(struct map_memory *m, const struct world_seen *seen);

/* Ends of the known map that can be reached, nearest first; returns how many, at most max. */
struct map_end {
    struct point at;
    int steps;     /* of the way there */
    int direction; /* as the crow flies, 0..7 */
};
int map_ends(const struct world *w, struct map_end *out, int max);
enum { MAP_ENDS = MAP_WIDTH * 4 };
/* Is the goal still an end of the map, and at most two steps farther than the nearest? */
bool map_memory_keeps(const struct map_memory *m, const struct map_end *ends, int count);

/* "unknown E 5, SW 12" and "not been N 4": for prompts. Empty when there is nothing. */
void map_memory_text(const struct map_memory *m, const struct world_seen *seen, char *out, size_t cap);

#endif
