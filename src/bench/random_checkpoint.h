/* A checkpoint with the names, shapes, storage kinds and file layout of the Hub's, and random weights: real speed, meaningless
 * answers. Needs no network and no Python. What is assumed about the layouts: tools/make_checkpoint.py, whose twin this is. */
#ifndef BENCH_RANDOM_CHECKPOINT_H
#define BENCH_RANDOM_CHECKPOINT_H

#include "bench/shapes.h"

/* Writes into an existing folder. hollow: only what tells sizes and shapes is written, the weights are holes in the files (for
 * estimates: takes no time and no space). */
int random_checkpoint_write(const char *folder, const struct shape *s, enum shape_format format, bool hollow, struct err *err);
/* Removes what random_checkpoint_write wrote, and the folder. */
void random_checkpoint_remove(const char *folder);

#endif
