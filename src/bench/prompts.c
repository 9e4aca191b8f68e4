#include "bench/prompts.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { FRAMES_MOST = 4096 };
static const size_t frame_limit = (size_t)16 << 20;

/* ---- frames ---- */

static int by_size_then_content(const void *a, const void *b) {
    const struct buf *x = a, *y = b;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return memcmp(x->data, y->data, x->len);
}

void frame_files_read(const char *folder, struct frame_files *f) {
    char path[PATH_MAX];
    *f = (struct frame_files){0};
    snprintf(path, sizeof path, "%s/frames", folder);
    DIR *dir = opendir(path);
    f->files = calloc(FRAMES_MOST, sizeof *f->files);
    if (!dir || !f->files)
        snprintf(f->missing, sizeof f->missing, "no pictures: %.300s: %s", path, f->files ? strerror(errno) : "out of memory");
    for (struct dirent *d; dir && f->files && f->count < FRAMES_MOST && (d = readdir(dir));) {
        struct err err;
        size_t n = strlen(d->d_name);
        if (n < 4 || strcmp(d->d_name + n - 4, ".png")) continue;
        snprintf(path, sizeof path, "%s/frames/%s", folder, d->d_name);
        if (!file_read(path, frame_limit, &f->files[f->count], &err) && f->files[f->count].len) f->count++;
        else buf_free(&f->files[f->count]);
    }
    if (dir) closedir(dir);
    if (!f->count && !f->missing[0]) snprintf(f->missing, sizeof f->missing, "no pictures: %.300s/frames has no PNG file", folder);
    if (f->files) qsort(f->files, (size_t)f->count, sizeof *f->files, by_size_then_content);
}

void frame_files_free(struct frame_files *f) {
    for (int i = 0; i < f->count; i++) buf_free(&f->files[i]);
    free(f->files);
    *f = (struct frame_files){0};
}

static const struct buf *choose_frame(const struct frame_files *f, enum task task, uint64_t number) {
    uint64_t tenth = f->count >= 10 ? (uint64_t)f->count / 10 : 1, half = f->count >= 2 ? (uint64_t)f->count / 2 : 1;
    if (task == TASK_PICTURE_SIMPLE) return &f->files[number % tenth];
    if (task == TASK_PICTURE_COMPLEX) return &f->files[(uint64_t)f->count - 1 - number % half];
    return &f->files[number * 7919 % (uint64_t)f->count];
}

/* ---- tokens ---- */

static uint64_t mix(uint64_t z) { /* splitmix64's output function */
    z = (z + 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Everything but control tokens and the words like <think> that Qwen adds. */
static int ordinary_tokens(struct prompt_maker *p, struct err *err) {
    struct qvl_info info;
    qvl_model_info(p->m, &info);
    p->ids = malloc((size_t)info.vocab * sizeof *p->ids);
    if (!p->ids) return err_set(err, ERR_MEMORY, "out of memory for %d token ids", info.vocab);
    for (int32_t id = 0; id < info.vocab; id++) {
        size_t n;
        const char *bytes = qvl_token_bytes(p->m, id, &n);
        if (bytes && n && !(bytes[0] == '<' && n > 2)) p->ids[p->count++] = id;
    }
    return p->count > 1 ? 0 : err_set(err, ERR_FORMAT, "the model's tokenizer has no ordinary tokens");
}

static int mark(struct qvl_model *m, const char *text, int32_t *out, struct err *err) {
    int32_t *ids = NULL;
    size_t n = 0;
    int r = qvl_tokenize(m, text, strlen(text), true, &ids, &n, err);
    if (!r && n != 1) r = err_set(err, ERR_FORMAT, "the model's tokenizer has no %s", text);
    if (!r) *out = ids[0];
    free(ids);
    return r;
}

static int add_picture(const struct prompt_maker *p, struct qvl_session *s, enum task task, uint64_t number, struct err *err) {
    const struct buf *file = choose_frame(p->frames, task, number);
    const struct qvl_part part = {.encoded = file->data, .encoded_bytes = file->len};
    int r = qvl_session_raw_ids(s, p->picture, 3, err);
    return r ? r : qvl_session_raw_picture(s, &part, err);
}

int prompt_maker_open(struct prompt_maker *p, struct qvl_model *m, const struct frame_files *frames, struct err *err) {
    static const char *const marks[] = {"<|vision_start|>", "<|image_pad|>", "<|vision_end|>"};
    *p = (struct prompt_maker){.m = m, .frames = frames};
    int r = ordinary_tokens(p, err);
    for (int i = 0; !r && i < 3; i++) r = mark(m, marks[i], &p->picture[i], err);
    if (!r && frames->count) {
        struct qvl_session *s = NULL;
        int32_t *ids = NULL;
        size_t n = 0;
        r = qvl_session_new(m, &s, err);
        if (!r) r = add_picture(p, s, TASK_MIXED, 0, err);
        if (!r) r = qvl_session_ids(s, &ids, &n, err);
        p->picture_tokens = (int)n;
        free(ids);
        qvl_session_free(s);
    }
    if (r) prompt_maker_close(p);
    return r;
}

void prompt_maker_close(struct prompt_maker *p) {
    free(p->ids);
    *p = (struct prompt_maker){0};
}

static int count_pictures(const struct prompt_maker *p, const struct cell *c, int64_t tokens, int *out, struct err *err) {
    *out = 0;
    if (c->task == TASK_TEXT) return 0;
    if (!p->picture_tokens) return err_set(err, ERR_LIMIT, "%s", p->frames->missing);
    int64_t n = c->task == TASK_MIXED ? (int64_t)(c->picture_share * (double)tokens / p->picture_tokens + 0.5) : 1;
    if (n < 1) n = 1;
    if (n * p->picture_tokens >= tokens)
        return err_set(err, ERR_LIMIT, "%lld pictures of %d tokens do not fit a prompt of %lld tokens", (long long)n,
                       p->picture_tokens, (long long)tokens);
    *out = (int)n;
    return 0;
}

/* Text ids [from, to) of the whole text. */
static int add_text(const struct prompt_maker *p, struct qvl_session *s, int64_t from, int64_t to, int64_t at, uint64_t seed,
                    int64_t kept, uint64_t tail_seed, struct err *err) {
    if (to <= from) return 0;
    int32_t *ids = malloc((size_t)(to - from) * sizeof *ids);
    if (!ids) return err_set(err, ERR_MEMORY, "out of memory for a prompt of %lld tokens", (long long)(to - from));
    for (int64_t i = from; i < to; i++) {
        uint64_t key = at + (i - from) < kept ? seed : tail_seed;
        ids[i - from] = p->ids[mix(mix(key) + (uint64_t)i) % p->count];
    }
    int r = qvl_session_raw_ids(s, ids, (size_t)(to - from), err);
    free(ids);
    return r;
}

int prompt_maker_make(const struct prompt_maker *p, const struct cell *c, int64_t tokens, uint64_t seed, int64_t kept, uint64_t tail_seed,
                struct qvl_session **out, int *pictures, struct err *err) {
    *out = NULL;
    int r = count_pictures(p, c, tokens, pictures, err);
    if (!r) r = qvl_session_new(p->m, out, err);
    int64_t text = tokens - (int64_t)*pictures * p->picture_tokens, done = 0, at = 0;
    for (int i = 0; !r && i < *pictures; i++) { /* a picture, its share of the text, the next picture */
        r = add_picture(p, *out, c->task, mix(seed) % 1000003 + (uint64_t)i, err);
        at += p->picture_tokens;
        int64_t upto = text * (i + 1) / *pictures;
        if (!r) r = add_text(p, *out, done, upto, at, seed, kept, tail_seed, err);
        at += upto - done;
        done = upto;
    }
    if (!r && *pictures == 0) r = add_text(p, *out, 0, text, 0, seed, kept, tail_seed, err);
    if (r && *out) {
        qvl_session_free(*out);
        *out = NULL;
    }
    return r;
}
