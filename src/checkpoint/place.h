/* Where in its file a view of a tensor lies: for those who read it again by other means than the mapping. */
#ifndef CHECKPOINT_PLACE_H
#define CHECKPOINT_PLACE_H

#include "checkpoint/checkpoint.h"

struct file_place {
    const char *file; /* lives as long as the checkpoint */
    size_t offset;    /* of the view, from the start of the file */
};
/* False where `view`, of `bytes` bytes, is no part of a mapped file (aligned copies, converted vectors). */
bool checkpoint_place(const struct checkpoint *c, const void *view, size_t bytes, struct file_place *out);

#endif
