/* The matrices that decoding reads, read from their files into memory of the process: every one begins on a cache line, in pages of 2 MiB.
 *
 * Why: a file's bytes lie in the page cache where they came to lie, behind a header of any length, so most loads of a vector cross two cache lines; on
 * the virtual machine of bench/results/cpu-models.md parts of a file are read at 20 to 35 GB/s, memory of one's own at 32 to 35. The values are the same, so
 * are all results. It costs the memory once more (the file stays in the page cache as long as there is room) and a second or more at the start. */
#ifndef BACKEND_CPU_HELD_WEIGHTS_H
#define BACKEND_CPU_HELD_WEIGHTS_H

#include "backend/backend.h"

/* What hold_weights will take, reckoned from the tensors' names and sizes: the decoder's matrices and the head. */
size_t held_weights_bytes(const struct checkpoint *c);
/* Reads them, with all threads, and lets the model use them; released with the model. Before the first pass only. On failure (no memory; a file that
 * ends early or cannot be read, named with the offset) the model is as before. */
int hold_weights(struct backend_model *m, struct err *err);

#endif
