#include "memory/keyframe.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

const char *const keyframe_cause_name[KEYFRAME_CAUSES] = {"first", "scene", "floor", "fight", "inventory", "picture"};

void keyframe_causes_text(unsigned causes, char out[80]) {
    size_t n = 0;
    *out = 0;
    for (int i = 0; i < KEYFRAME_CAUSES; i++) {
        if (causes >> i & 1) n += (size_t)snprintf(out + n, 80 - n, "%s%s", n ? ", " : "", keyframe_cause_name[i]);
    }
}

static struct keyframe_view view_of(const struct store_step *s) {
    struct keyframe_view v = {.picture_hash = s->picture_hash, .bag = s->bag, .floor = s->floor, .fight = s->foes < 0 ? -1 : s->foes > 0};
    snprintf(v.frame_hash, sizeof v.frame_hash, "%s", s->frame_hash ? s->frame_hash : "");
    snprintf(v.scene, sizeof v.scene, "%s", s->scene ? s->scene : "");
    return v;
}

/* Hash 0: runs of an older program do not have it. */
static int picture_difference(uint64_t a, uint64_t b) { return a && b ? __builtin_popcountll(a ^ b) : 0; }

static unsigned changes(const struct keyframe_view *from, const struct keyframe_view *to) {
    unsigned causes = 0;
    if (strcmp(from->scene, to->scene)) causes |= KEYFRAME_SCENE;
    if (from->floor != to->floor) causes |= KEYFRAME_FLOOR;
    if (from->fight != to->fight) causes |= KEYFRAME_FIGHT;
    if (from->bag != to->bag) causes |= KEYFRAME_INVENTORY;
    if (picture_difference(from->picture_hash, to->picture_hash) >= PICTURE_CHANGED) causes |= KEYFRAME_PICTURE;
    return causes;
}

static bool duplicate(const struct keyframe_track *t, const struct keyframe_view *v) {
    for (int i = 0; i < t->recent_count; i++) {
        const struct keyframe_view *r = &t->recent[i];
        if (!strcmp(r->frame_hash, v->frame_hash)) return true;
        if (v->picture_hash && r->picture_hash && __builtin_popcountll(v->picture_hash ^ r->picture_hash) <= PICTURE_SAME && !changes(r, v)) return true;
    }
    return false;
}

static bool stood_first(struct keyframe_track *t, const struct store_step *s) {
    if (s->floor != t->grid_floor) {
        memset(t->been, 0, sizeof t->been);
        t->grid_floor = s->floor;
    }
    if (s->x < 0 || s->y < 0 || s->x >= KEYFRAME_GRID || s->y >= KEYFRAME_GRID) return false;
    bool first = !(t->been[s->y] >> s->x & 1);
    t->been[s->y] |= (uint64_t)1 << s->x;
    return first;
}

void keyframe_track_step(struct keyframe_track *t, struct store_step *s) {
    struct keyframe_view v = view_of(s);
    unsigned causes = 0;
    if (s->episode != t->episode) {
        t->episode = s->episode;
        t->grid_floor = -1;
        causes = KEYFRAME_FIRST;
    } else {
        causes = changes(&t->reference, &v);
    }
    s->new_tile = stood_first(t, s);
    s->causes = 0;
    s->ordinal = 0;
    if (!causes) return;
    t->reference = v;
    if (duplicate(t, &v)) return;
    t->recent[t->recent_next] = v;
    t->recent_next = (t->recent_next + 1) % KEYFRAME_RECENT;
    if (t->recent_count < KEYFRAME_RECENT) t->recent_count++;
    s->causes = causes;
    s->ordinal = ++t->ordinal;
}
