/* What checkpoint.c and linear.c share. Private to this room. */
#ifndef CHECKPOINT_ROOM_H
#define CHECKPOINT_ROOM_H

#include "checkpoint/safetensors.h"

struct checkpoint {
    char *folder;
    struct model_config config;
    struct safetensors *files; /* one per shard; their tensors keep file names that live in arena */
    size_t file_count;
    const struct tensor **tensors; /* of all files, ordered by name */
    size_t tensor_count;
    struct arena arena; /* names, lists, small converted vectors */
    void **copies;      /* malloc'ed: aligned copies and converted vectors too large for the arena */
    size_t copy_count, copy_cap;
    uint8_t identity[16];
};

/* Memory that lives as long as c; NULL when out of memory. */
void *checkpoint_memory(struct checkpoint *c, size_t bytes);

#endif
