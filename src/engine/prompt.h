/* A prompt: the tokens of a conversation with their positions and the pictures they stand for. */
#ifndef ENGINE_PROMPT_H
#define ENGINE_PROMPT_H

#include "engine/room.h"

/* What token i is to the cache: its id, or the content of the picture and the row in it. */
struct prompt {
    int32_t *ids;              /* (count) */
    int32_t *positions;        /* (count, 3) T, H, W */
    struct hash128 *keys;      /* (count) */
    int32_t *visual_index;     /* (count) which picture, -1 = text */
    int32_t *visual_row;       /* (count) row in that picture's features */
    int64_t count, capacity;
    int64_t next_position;     /* of a text token appended now */
    struct visual **visuals;   /* (visual_count) held */
    int visual_count;
};

/* Lays out ids (copied): every run of picture tokens takes the next of `visuals` (in order; pictures and videos each in their own
 * order, as transformers does). Counts must agree. */
int prompt_build(struct prompt *p, const struct qvl_model *m, const int32_t *ids, int64_t count, struct visual *const *visuals,
                 int visual_count, struct err *err);
/* Appends text tokens. */
int prompt_append(struct prompt *p, const int32_t *ids, int64_t count, struct err *err);
int prompt_copy(struct prompt *to, const struct prompt *from, struct err *err);
void prompt_free(struct prompt *p);

#endif
