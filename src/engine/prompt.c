#include "engine/prompt.h"

#include <stdlib.h>

static int reserve(struct prompt *p, int64_t count, struct err *err) {
    if (count <= p->capacity) return 0;
    int64_t want = count + count / 4 + 64;
    int32_t *ids = realloc(p->ids, (size_t)want * sizeof *ids);
    if (ids) p->ids = ids;
    int32_t *positions = realloc(p->positions, (size_t)want * 3 * sizeof *positions);
    if (positions) p->positions = positions;
    struct hash128 *keys = realloc(p->keys, (size_t)want * sizeof *keys);
    if (keys) p->keys = keys;
    int32_t *index = realloc(p->visual_index, (size_t)want * sizeof *index);
    if (index) p->visual_index = index;
    int32_t *row = realloc(p->visual_row, (size_t)want * sizeof *row);
    if (row) p->visual_row = row;
    if (!ids || !positions || !keys || !index || !row)
        return err_set(err, ERR_MEMORY, "out of memory for a prompt of %lld tokens", (long long)count);
    p->capacity = want;
    return 0;
}

int prompt_append(struct prompt *p, const int32_t *ids, int64_t count, struct err *err) {
    int r = reserve(p, p->count + count, err);
    if (r) return r;
    /* A long prompt passes here before its first token: an array at a time. */
    const int64_t n = p->count;
    int32_t *positions = p->positions + 3 * n, first = (int32_t)p->next_position;
    struct hash128 *keys = p->keys + n;
    memcpy(p->ids + n, ids, (size_t)count * sizeof *ids);
    for (int32_t i = 0; i < count; i++) positions[3 * i] = positions[3 * i + 1] = positions[3 * i + 2] = first + i;
    for (int64_t i = 0; i < count; i++) keys[i] = (struct hash128){(uint32_t)ids[i], 0};
    memset(p->visual_index + n, 0xFF, (size_t)count * sizeof *p->visual_index); /* -1 */
    memset(p->visual_row + n, 0xFF, (size_t)count * sizeof *p->visual_row);
    p->count += count, p->next_position += count;
    return 0;
}

/* One temporal group (facts §3.3): T stays, H and W walk the merged grid, and text goes on behind the larger side. */
static void append_group(struct prompt *p, const struct qvl_model *m, int visual, int group) {
    const struct visual *v = p->visuals[visual];
    int merge = m->config->vision.merge, rows = v->grid_h / merge, cols = v->grid_w / merge;
    int32_t id = v->video ? m->config->video_token : m->config->image_token, base = (int32_t)p->next_position;
    for (int k = 0; k < rows * cols; k++) {
        int64_t n = p->count++;
        int32_t row = group * rows * cols + k;
        p->ids[n] = id;
        p->positions[3 * n] = base;
        p->positions[3 * n + 1] = base + k / cols;
        p->positions[3 * n + 2] = base + k % cols;
        p->keys[n] = hash_bytes(&v->hash, sizeof v->hash, (uint64_t)row + 3);
        p->visual_index[n] = visual;
        p->visual_row[n] = row;
    }
    p->next_position += rows > cols ? rows : cols;
}

static int next_visual(const struct prompt *p, int from, bool video) {
    while (from < p->visual_count && p->visuals[from]->video != video) from++;
    return from;
}

int prompt_build(struct prompt *p, const struct qvl_model *m, const int32_t *ids, int64_t count, struct visual *const *visuals,
                 int visual_count, struct err *err) {
    *p = (struct prompt){0};
    int r = reserve(p, count, err);
    if (r) return r;
    p->visuals = calloc((size_t)visual_count + 1, sizeof(struct visual *));
    if (!p->visuals) return err_set(err, ERR_MEMORY, "out of memory for a prompt");
    p->visual_count = visual_count;
    for (int i = 0; i < visual_count; i++) visual_hold(p->visuals[i] = visuals[i]);
    int at[2] = {next_visual(p, 0, false), next_visual(p, 0, true)}, group = 0;
    int64_t merged = (int64_t)m->config->vision.merge * m->config->vision.merge;
    const int32_t vocab = m->config->text.vocab, image_token = m->config->image_token, video_token = m->config->video_token;
    for (int64_t i = 0; i < count;) {
        int64_t text = i;
        while (i < count && ids[i] >= 0 && ids[i] < vocab && ids[i] != image_token && ids[i] != video_token) i++;
        if (i > text) prompt_append(p, ids + text, i - text, NULL); /* cannot fail: the space is reserved */
        if (i == count) break;
        if (ids[i] < 0 || ids[i] >= vocab)
            return err_set(err, ERR_ARGUMENT, "token id %d: expected 0 to %d (vocab_size of the model)", ids[i], vocab - 1);
        bool video = ids[i] == video_token;
        const char *kind = video ? "video" : "picture";
        if (at[video] == visual_count)
            return err_set(err, ERR_ARGUMENT, "the prompt has a %s token at %lld but no %s is left for it", kind, (long long)i,
                           kind);
        const struct visual *v = p->visuals[at[video]];
        int64_t need = v->tokens / v->grid_t, run = 0;
        while (i + run < count && ids[i + run] == ids[i] && run < need) run++;
        if (run < need)
            return err_set(err, ERR_ARGUMENT, "a %s of %d x %d patches needs %lld tokens, the prompt has %lld at %lld", kind,
                           v->grid_w, v->grid_h, (long long)(v->grid_h * (int64_t)v->grid_w / merged), (long long)run,
                           (long long)i);
        append_group(p, m, at[video], video ? group : 0);
        i += run;
        if (!video || ++group == v->grid_t) {
            at[video] = next_visual(p, at[video] + 1, video);
            if (video) group = 0;
        }
    }
    if (at[0] < visual_count || at[1] < visual_count)
        return err_set(err, ERR_ARGUMENT, "the prompt has no tokens for %s %d of %d", at[0] < visual_count ? "picture" : "video",
                       (at[0] < visual_count ? at[0] : at[1]) + 1, visual_count);
    return 0;
}

int prompt_copy(struct prompt *to, const struct prompt *from, struct err *err) {
    *to = (struct prompt){0};
    int r = reserve(to, from->count, err);
    if (r) return r;
    size_t n = (size_t)from->count;
    memcpy(to->ids, from->ids, n * sizeof *to->ids);
    memcpy(to->positions, from->positions, n * 3 * sizeof *to->positions);
    memcpy(to->keys, from->keys, n * sizeof *to->keys);
    memcpy(to->visual_index, from->visual_index, n * sizeof *to->visual_index);
    memcpy(to->visual_row, from->visual_row, n * sizeof *to->visual_row);
    to->count = from->count;
    to->next_position = from->next_position;
    to->visuals = calloc((size_t)from->visual_count + 1, sizeof(struct visual *));
    if (!to->visuals) return err_set(err, ERR_MEMORY, "out of memory for a prompt");
    for (int i = 0; i < from->visual_count; i++) visual_hold(to->visuals[i] = from->visuals[i]);
    to->visual_count = from->visual_count;
    return 0;
}

void prompt_free(struct prompt *p) {
    for (int i = 0; i < p->visual_count; i++) visual_drop(p->visuals[i]);
    free(p->visuals);
    free(p->ids);
    free(p->positions);
    free(p->keys);
    free(p->visual_index);
    free(p->visual_row);
    *p = (struct prompt){0};
}
