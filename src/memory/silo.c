#include "memory/silo.h"

#include <stdlib.h>

int silo_level(uint32_t ordinal) {
    if (!ordinal) return 0;
    int level = __builtin_ctz(ordinal);
    return level < SILO_COUNT ? level : SILO_COUNT - 1;
}

static bool before(const struct silo_hit *a, const struct silo_hit *b) {
    return a->similarity != b->similarity ? a->similarity > b->similarity : a->id > b->id;
}

void silo_top_add(struct silo_top *t, int64_t id, float similarity) {
    struct silo_hit hit = {id, similarity};
    if (t->count == SILO_TOP && !before(&hit, &t->hit[SILO_TOP - 1])) return;
    int i = t->count < SILO_TOP ? t->count++ : SILO_TOP - 1;
    for (; i > 0 && before(&hit, &t->hit[i - 1]); i--) t->hit[i] = t->hit[i - 1];
    t->hit[i] = hit;
}

static void fuse_list(const struct silo_top *t, int bit, struct fused *out, int *count) {
    if (bit > 0 && bit < SILO_COUNT && t->count <= FUSE_TOP) return;
    for (int rank = 0; rank < t->count && rank < FUSE_TOP; rank++) {
        int i = 0;
        while (i < *count && out[i].id != t->hit[rank].id) i++;
        if (i == *count) out[(*count)++] = (struct fused){.id = t->hit[rank].id};
        out[i].score += 1.0f / (float)(FUSE_RANK + rank + 1);
        out[i].silos |= (uint8_t)(1 << bit);
        if (bit < SILO_COUNT) out[i].similarity = t->hit[rank].similarity;
    }
}

static int compare(const void *x, const void *y) {
    const struct fused *a = x, *b = y;
    if (a->score != b->score) return a->score < b->score ? 1 : -1;
    return a->id < b->id ? 1 : a->id > b->id ? -1 : 0;
}

int silo_fuse(const struct silo_lists *l, struct fused out[FUSED_MAX]) {
    int count = 0;
    for (int s = 0; s < SILO_COUNT; s++) fuse_list(&l->silo[s], s, out, &count);
    fuse_list(&l->near, SILO_COUNT, out, &count);
    qsort(out, (size_t)count, sizeof *out, compare);
    return count;
}
