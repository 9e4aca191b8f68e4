#include "agent/stuck.h"

#include <string.h>

#include "agent/explore.h"

const char *const stuck_name[STUCK_KINDS] = {NULL, "same_state", "to_and_fro", "nothing_new", "text"};

enum {
    SAME_LIMIT = 4,      /* the same sight for the so-manieth time among the last STUCK_RECENT */
    FRO_DECISIONS = 12, FRO_TILES = 4, /* so many decisions of the field on so few tiles ... */
    FRO_TURNS = 10,      /* ... and so many turns without progress */
    QUIET_TURNS = 20,    /* without progress */
    QUIET_LEAST = 7,
    TEXT_LIMIT = 5,      /* the same text, answered so often */
    RUNG_DECISIONS = 6,  /* tries on one rung */
    FAR = 0xFFFF,
};

void stuck_reset(struct stuck *s) { *s = (struct stuck){.nearest = FAR}; }

static uint64_t mix(uint64_t hash, const void *data, size_t n) { /* FNV-1a, 64 bits */
    for (const uint8_t *p = data; n--; p++) hash = (hash ^ *p) * 0x100000001B3u;
    return hash;
}

/* What a player would call the same situation. */
static uint64_t sight_of(const struct world *w, enum scene scene) {
    const struct monster *l = world_leader(w);
    int32_t facts[8] = {scene, w->floor, l ? l->at.x : -1, l ? l->at.y : -1, l ? l->hp : -1, w->bag_count, w->foe_count, w->menu_cursor};
    uint64_t hash = mix(0xCBF29CE484222325u, facts, sizeof facts);
    for (int i = 0; i < w->foe_count; i++) hash = mix(hash, &w->foes[i].at, sizeof w->foes[i].at);
    return mix(hash, w->dialogue_text, strlen(w->dialogue_text));
}

/* Steps to the stairs, or while they are unknown to the nearest end of the map. */
static int nearest_goal(const struct world *w) {
    static const struct path_options plain;
    const struct monster *l = world_leader(w);
    struct distance_field from;
    int best = FAR;
    path_distances(w, &l->at, 1, &plain, &from);
    struct point p = w->stairs;
    if (p.x >= 0 && p.y >= 0 && p.x < MAP_WIDTH && p.y < MAP_HEIGHT && from.steps[p.y][p.x] != FAR) return from.steps[p.y][p.x];
    for (int y = 1; y < MAP_HEIGHT - 1; y++) {
        for (int x = 1; x < MAP_WIDTH - 1; x++) {
            if (from.steps[y][x] < best && tile_is_frontier(w, x, y)) best = from.steps[y][x];
        }
    }
    return best;
}

static int known_tiles(const struct world *w) {
    int n = 0;
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) n += w->tiles[y][x].visibility & 1;
    }
    return n;
}

static bool progress(struct stuck *s, const struct world_seen *seen) {
    const struct world *w = &seen->now;
    int known = known_tiles(w), nearest = nearest_goal(w);
    bool grew = known > s->known, nearer = nearest < s->nearest, floor = seen->floor_serial != s->floor_serial;
    if (floor) s->forced = 0;
    if (grew || floor) s->nearest = nearest; /* another goal, perhaps a farther one */
    else if (nearer) s->nearest = nearest;
    s->known = known;
    s->floor_serial = seen->floor_serial;
    return grew || nearer || floor;
}

static void remember(struct stuck *s, uint64_t sight, struct point at) {
    if (s->recent == STUCK_RECENT) {
        memmove(s->sights, s->sights + 1, sizeof s->sights - sizeof *s->sights);
        memmove(s->at, s->at + 1, sizeof s->at - sizeof *s->at);
        s->recent--;
    }
    s->sights[s->recent] = sight;
    s->at[s->recent++] = at;
}

static int times_seen(const struct stuck *s, uint64_t sight) {
    int n = 0;
    for (int i = 0; i < s->recent; i++) n += s->sights[i] == sight;
    return n;
}

/* Different tiles among the last FRO_DECISIONS, or many when there were not so many yet. */
static int tiles_of_late(const struct stuck *s) {
    int n = 0, first = s->recent - FRO_DECISIONS;
    if (first < 0) return FRO_DECISIONS;
    for (int i = first; i < s->recent; i++) {
        bool known = false;
        for (int k = first; k < i && !known; k++) known = s->at[k].x == s->at[i].x && s->at[k].y == s->at[i].y;
        n += !known;
    }
    return n;
}

static int shorter(const struct stuck *s, int turns) {
    int limit = turns >> (s->forced < 4 ? s->forced : 4);
    return limit < QUIET_LEAST ? QUIET_LEAST : limit;
}

static enum stuck_kind field_kind(const struct stuck *s, uint64_t sight, int quiet) {
    if (times_seen(s, sight) >= SAME_LIMIT) return STUCK_SAME_STATE;
    if (quiet >= shorter(s, FRO_TURNS) && tiles_of_late(s) <= FRO_TILES) return STUCK_TO_AND_FRO;
    return quiet >= shorter(s, QUIET_TURNS) ? STUCK_NOTHING_NEW : STUCK_NOT;
}

static bool foe_beside_leader(const struct world *w) {
    const struct monster *l = world_leader(w);
    for (int d = 0; d < 8; d++) {
        if (foe_at(w, l->at.x + direction_dx[d], l->at.y + direction_dy[d])) return true;
    }
    return false;
}

/* Text that comes again, whatever was answered. Short pauses of the field between do not count: talking to the same one again and again
 * is no progress either. */
static enum stuck_kind text_kind(struct stuck *s, uint64_t text) {
    s->text_same = s->text_same && s->text == text ? s->text_same + 1 : 1;
    s->text = text;
    return s->text_same > TEXT_LIMIT ? STUCK_TEXT : STUCK_NOT;
}

void stuck_observe(struct stuck *s, const struct world_seen *seen, enum scene scene, int turns) {
    const struct world *w = &seen->now;
    uint64_t sight = sight_of(w, scene);
    enum stuck_kind kind = STUCK_NOT;
    if (scene == SCENE_FIELD && world_leader(w)) {
        if (progress(s, seen)) {
            struct stuck fresh = {.nearest = s->nearest, .known = s->known, .floor_serial = s->floor_serial, .forced = s->forced, .quiet_from = turns};
            *s = fresh;
        }
        if (foe_beside_leader(w) && s->quiet_from < turns) s->quiet_from++; /* a fight takes its time */
        remember(s, sight, world_leader(w)->at);
        kind = field_kind(s, sight, turns - s->quiet_from);
        if (kind == STUCK_NOT && s->level) kind = s->kind; /* down only by progress */
    } else if (scene != SCENE_NONE) {
        uint64_t text = mix(scene == SCENE_MENU ? 7 : 5, w->dialogue_text, strlen(w->dialogue_text));
        kind = text_kind(s, text);
        if (kind == STUCK_NOT) return; /* between two decisions of the field */
    }
    s->kind = kind;
    if (kind == STUCK_NOT) s->level = s->waited = 0;
    else if (!s->level) s->level = RUNG_MODEL, s->waited = 0;
    else if (++s->waited >= RUNG_DECISIONS) stuck_climb(s);
}

void stuck_climb(struct stuck *s) {
    if (s->level < RUNG_FORCE) s->level++;
    s->waited = 0;
}

void stuck_forced(struct stuck *s, int turns) {
    struct stuck after = {.nearest = s->nearest, .known = s->known, .floor_serial = s->floor_serial, .forced = s->forced + 1, .quiet_from = turns};
    *s = after;
}
