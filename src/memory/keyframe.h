/* Which steps are worth remembering. A keyframe is a step at which, since the keyframe (or dropped duplicate) before, the scene, the floor,
 * the presence of foes or what is in the bag changed, or the picture as a whole. Duplicates of what this run saw lately are
 * dropped. It is worked out from what a run's lines say and nothing else, so that a store made again from runs has the same. */
#ifndef MEMORY_KEYFRAME_H
#define MEMORY_KEYFRAME_H

#include <stdint.h>

#include "memory/store.h"

enum keyframe_cause { KEYFRAME_FIRST = 1, KEYFRAME_SCENE = 2, KEYFRAME_FLOOR = 4, KEYFRAME_FIGHT = 8, KEYFRAME_INVENTORY = 16, KEYFRAME_PICTURE = 32 };
enum { KEYFRAME_CAUSES = 6 };
extern const char *const keyframe_cause_name[KEYFRAME_CAUSES]; /* by bit: "first", "scene", "floor", "fight", "inventory", "picture" */

enum {
    PICTURE_CHANGED = 22,  /* bits of 64 in which the picture hashes differ: measured, bench/results/memory.md */
    PICTURE_SAME = 4,      /* up to here the rest decides whether it is the same place */
    KEYFRAME_RECENT = 64,  /* keyframes among which duplicates are looked for */
    KEYFRAME_GRID = 64,    /* tiles in each direction that a floor may have */
};

struct keyframe_view {
    char frame_hash[33], scene[24];
    uint64_t picture_hash, bag;
    int floor, fight; /* fight: 1 foes in sight, 0 none, -1 unknown */
};

/* Of one run. A zeroed one is ready. */
struct keyframe_track {
    uint32_t ordinal;       /* of the last keyframe */
    int episode;            /* present one; 0: none yet */
    struct keyframe_view reference, recent[KEYFRAME_RECENT];
    int recent_count, recent_next;
    int grid_floor;
    uint64_t been[KEYFRAME_GRID]; /* bit x of row y: the leader stood there */
};
/* Fills new_tile, causes and ordinal of the next step of the run. */
void keyframe_track_step(struct keyframe_track *t, struct store_step *s);

/* "scene, fight" */
void keyframe_causes_text(unsigned causes, char out[80]);

#endif
