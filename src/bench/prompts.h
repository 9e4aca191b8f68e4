/* Prompts of an exact number of tokens: random ids from a seed, with frames of the game between them where the task has pictures.
 * Speed does not depend on what a text says; random ids make every prompt a new one to the prompt cache. */
#ifndef BENCH_PROMPTS_H
#define BENCH_PROMPTS_H

#include "base/buf.h"
#include "bench/matrix.h"
#include "qwen3vl.h"

/* Frames by how much is to be seen, told by the bytes of their PNG files: the smallest tenth and the largest half. */
struct frame_files {
    struct buf *files;          /* (count) ascending in size */
    int count;
    char missing[400];          /* why there are none */
};
/* folder: with frames/NAME.png. A folder that is not there leaves count 0 and says so in missing. */
void frame_files_read(const char *folder, struct frame_files *out);
void frame_files_free(struct frame_files *f);

struct prompt_maker {
    struct qvl_model *m;
    const struct frame_files *frames;
    int32_t *ids;               /* (count) ordinary tokens */
    size_t count;
    int32_t picture[3];         /* start, pad, end */
    int picture_tokens;         /* of one frame with its marks; 0: the model takes none or there are no frames */
};
int prompt_maker_open(struct prompt_maker *p, struct qvl_model *m, const struct frame_files *frames, struct err *err);
void prompt_maker_close(struct prompt_maker *p);

/* A session of `tokens` tokens. Equal seeds: equal prompts; the text from token `kept` on is that of the other seed. *pictures: how
 * many it has. ERR_LIMIT when a picture does not fit the prompt. */
int prompt_maker_make(const struct prompt_maker *p, const struct cell *c, int64_t tokens, uint64_t seed, int64_t kept, uint64_t tail_seed,
                struct qvl_session **out, int *pictures, struct err *err);

#endif
