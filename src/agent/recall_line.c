/* Steps as memory stores them: from what is seen while playing, and from the lines of a run. Both must give the same. */
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "agent/recall.h"

/* 0: the bag is not known. */
static uint64_t bag_hash(const uint8_t (*items)[2], int count) { return XXH3_64bits_withSeed(items, (size_t)count * 2, 1) | 1; }

void store_step_of_world(const struct world *w, struct store_step *out) {
    const struct monster *m = w->leader >= 0 && w->leader < w->team_count ? &w->team[w->leader] : NULL;
    out->floor = w->floor;
    out->foes = w->foe_count;
    out->hp = m ? m->hp : -1;
    out->max_hp = m ? m->max_hp : -1;
    out->level = m ? m->level : -1;
    out->belly = m ? m->belly : -1;
    out->x = m ? m->at.x : -1;
    out->y = m ? m->at.y : -1;
    out->bag = 0;
    if (!w->has_bag) return;
    uint8_t items[MAX_BAG][2];
    for (int i = 0; i < w->bag_count; i++) items[i][0] = w->bag[i].id, items[i][1] = w->bag[i].quantity;
    out->bag = bag_hash(items, w->bag_count);
}

static int wrong(const struct run_line *line, const char *field, const char *expected, struct err *err) {
    return err_set(err, ERR_FORMAT, "step %u of episode %d: field %s: expected %s", line->step, line->episode, field, expected);
}

/* An integer of int's range, or absent (-1). */
static int take_number(const struct run_line *line, const char *field, int *out, struct err *err) {
    const struct json *v = json_get(line->json, field);
    *out = -1;
    if (!v || v->type == JSON_NULL) return 0;
    if (v->type != JSON_NUMBER || !v->is_integer || v->integer < INT16_MIN || v->integer > INT32_MAX) return wrong(line, field, "a whole number", err);
    *out = (int)v->integer;
    return 0;
}

static int take_bag(const struct run_line *line, uint64_t *out, struct err *err) {
    const struct json *v = json_get(line->json, "bag");
    uint8_t items[MAX_BAG][2];
    *out = 0;
    if (!v) return 0;
    if (v->type != JSON_ARRAY || v->count > MAX_BAG) return wrong(line, "bag", "an array of at most 20 pairs", err);
    for (uint32_t i = 0; i < v->count; i++) {
        const struct json *pair = v->items[i];
        for (uint32_t k = 0; k < 2; k++) {
            int64_t n = pair->type == JSON_ARRAY && pair->count == 2 ? json_as_integer(pair->items[k], -1) : -1;
            if (n < 0 || n > UINT8_MAX) return wrong(line, "bag", "pairs of numbers from 0 to 255", err);
            items[i][k] = (uint8_t)n;
        }
    }
    *out = bag_hash(items, (int)v->count);
    return 0;
}

static int take_text(const struct run_line *line, const char *field, const char **out, struct err *err) {
    const struct json *v = json_get(line->json, field);
    *out = NULL;
    if (!v || v->type == JSON_NULL) return 0;
    if (v->type != JSON_STRING || strlen(v->string) != v->count) return wrong(line, field, "text without NUL", err);
    *out = v->string;
    return 0;
}

int store_step_of_line(const struct run_line *line, struct store_step *s, struct err *err) {
    *s = (struct store_step){.episode = line->episode, .number = line->step, .first_frame = line->first_frame, .frame_hash = line->frame_hash,
                             .state_hash = line->state_hash, .scene = line->scene, .action = line->action, .decided_by = line->decided_by};
    struct { const char *field; int *out; } numbers[] = {{"floor", &s->floor}, {"hp", &s->hp},         {"max_hp", &s->max_hp},
                                                         {"level", &s->level}, {"belly", &s->belly},   {"foes", &s->foes}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (take_number(line, numbers[i].field, numbers[i].out, err)) return err->code;
    }
    const struct json *position = json_get(line->json, "position");
    s->x = s->y = -1;
    if (position) {
        bool pair = position->type == JSON_ARRAY && position->count == 2;
        int64_t x = pair ? json_as_integer(position->items[0], INT64_MAX) : INT64_MAX, y = pair ? json_as_integer(position->items[1], INT64_MAX) : INT64_MAX;
        if (x < INT16_MIN || x > INT16_MAX || y < INT16_MIN || y > INT16_MAX) return wrong(line, "position", "a pair of numbers", err);
        s->x = (int)x, s->y = (int)y;
    }
    const char *hash;
    if (take_bag(line, &s->bag, err) || take_text(line, "note", &s->note, err) || take_text(line, "picture", &s->picture, err) ||
        take_text(line, "picture_hash", &hash, err)) {
        return err->code;
    }
    if (!hash) return 0;
    char *end;
    s->picture_hash = strtoull(hash, &end, 16);
    return strlen(hash) == 16 && !*end ? 0 : wrong(line, "picture_hash", "16 hexadecimal digits", err);
}
