/* What memory told the model at a step: lines of the prompt, each with where it comes from. Plain data between agent, record and views. */
#ifndef RECORD_RECALLED_H
#define RECORD_RECALLED_H

#include <stdint.h>

enum { MEMORY_LINES = 12 };
struct memory_line {
    char text[160], from[96]; /* "like floor 2, ...", "run 20260101-120000-17, seed 7, step 41"; "north is a dead end", "scratchpad, floor 1, step 12" */
    /* A memory: the step it is about; "" and 0 for a line of the scratchpad. */
    char run[128];
    int episode;
    uint32_t step;
    float score, similarity;
    unsigned silos;           /* bit s: found in silo s; bit 7: near in time */
    char picture[1200];       /* file of the picture that was seen then, where it was kept; else "" */
};
struct memory_lines {
    struct memory_line lines[MEMORY_LINES];
    int count;
    unsigned keyframe;        /* this step is one: why, as bits (memory/keyframe.h); 0: it is none */
    double embed_ms, recall_ms;
};

#endif
