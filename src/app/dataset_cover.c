/* A small data set that covers every scene. Episodes of the oracle and of chance are played with every picture drawn; pictures of
 * decisions and pictures between them (title card, printing text, animations, result) are sorted into categories; a tour opens the
 * menus that a good player never needs. Each category keeps a fair sample of what it was offered (reservoir sampling, Vitter's
 * algorithm R); in the end the categories are asked in turn until there are enough. All of it depends on the settings only. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/scene.h"
#include "app/dataset_record.h"
#include "record/dataset.h"
#include "record/key_set.h"
#include "record/png_file.h"

enum { MAX_CATEGORIES = 40, SAMPLE = 48, PENDING = 6, RANDOM_DECISIONS = 800 };

struct candidate {
    char path[64], key[33];
    struct buf png, line;
};

struct category {
    char name[32];
    int64_t offered;
    int count, taken, most; /* most: of the final choice */
    struct candidate sample[SAMPLE];
};

/* A picture between two decisions waits for the step that it belongs to. */
struct between {
    char category[32];
    struct world world;
    uint8_t rgb[FRAME_PIXELS * 3];
};

struct cover {
    const struct record_settings *s;
    struct category categories[MAX_CATEGORIES];
    int category_count, pending_count;
    struct between pending[PENDING];
    struct key_set pictures; /* a picture is taken once, whatever the world */
    uint64_t random;
    uint32_t seed;
    int code;
    struct err err;
};

static uint32_t random_below(struct cover *c, uint32_t n) { /* splitmix64, Vigna 2015 */
    uint64_t z = c->random += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (uint32_t)(((z ^ z >> 31) >> 32) * n >> 32);
}

/* What there is to see. w: what a player knows. */
static void field_category(const struct world *w, char out[32]) {
    const struct monster *l = world_leader(w);
    const char *kind = "room";
    bool corridor = l && l->at.x >= 0 && l->at.x < MAP_WIDTH && l->at.y >= 0 && l->at.y < MAP_HEIGHT && w->tiles[l->at.y][l->at.x].room == 255;
    bool trap = false, near = false;
    for (int i = 0; i < w->trap_count; i++) trap |= w->traps[i].visible;
    for (int i = 0; l && i < w->foe_count; i++) near |= abs(w->foes[i].at.x - l->at.x) <= 1 && abs(w->foes[i].at.y - l->at.y) <= 1;
    if (near) kind = corridor ? "foe_near_corridor" : "foe_near";
    else if (w->foe_count) kind = "foe";
    else if (l && l->max_hp > 0 && l->hp * 3 < l->max_hp) kind = "low_hp";
    else if (trap) kind = "trap";
    else if (w->stairs.x >= 0 && !corridor) kind = "stairs_known";
    else if (w->item_count && !corridor) kind = "item";
    else if (corridor) kind = "corridor";
    snprintf(out, 32, "field_%s%s", kind, w->window_mode == 3 ? "_strip" : "");
}

static void category_of(const struct world *w, const struct world *seen, char out[32]) {
    if (w->state == STATE_FIELD && seen) field_category(seen, out);
    else if (w->state == STATE_LOADING || w->state == STATE_UNREADABLE || w->state == STATE_GROUND) {
        bool over = w->exit_reason >= 500 || w->story_start_mode == 9 || w->story_start_mode == 12; /* pmd-red.md 2.5 */
        snprintf(out, 32, "%s", over ? w->exit_reason >= 550 || w->story_start_mode == 9 ? "result_won" : "result_lost" : "card");
    } else if (w->state == STATE_ANIMATION && w->window_mode == 3) snprintf(out, 32, "strip");
    else snprintf(out, 32, "%s", game_state_name[w->state]);
}

static struct category *find_category(struct cover *c, const char *name) {
    for (int i = 0; i < c->category_count; i++) {
        if (strcmp(c->categories[i].name, name) == 0) return &c->categories[i];
    }
    if (c->category_count == MAX_CATEGORIES) return NULL;
    struct category *k = &c->categories[c->category_count++];
    snprintf(k->name, sizeof k->name, "%s", name);
    k->most = strcmp(name, "title") == 0 ? 3 : strncmp(name, "menu_", 5) == 0 ? 2 : SAMPLE;
    return k;
}

static bool one_colour(const uint8_t *rgb) {
    for (int i = 3; i < FRAME_PIXELS * 3; i++) {
        if (rgb[i] != rgb[i % 3]) return false;
    }
    return true;
}

static int offer(struct cover *c, const char *category, const struct dataset_entry *e, struct err *err) {
    char picture[33];
    if (one_colour(e->rgb)) return 0;
    frame_hash(e->rgb, picture);
    int added = key_set_add(&c->pictures, picture);
    if (added < 0) return err_set(err, ERR_MEMORY, "out of memory");
    struct category *k = added ? find_category(c, category) : NULL;
    if (!k) return 0;
    k->offered++;
    int slot = k->count < SAMPLE ? k->count++ : (int)random_below(c, (uint32_t)k->offered);
    if (slot >= SAMPLE) return 0;
    struct candidate *m = &k->sample[slot];
    buf_clear(&m->png);
    buf_clear(&m->line);
    dataset_frame_path(e, m->path);
    int code = dataset_line(e, &m->line, m->key, err);
    return code ? code : png_encode(e->rgb, FRAME_WIDTH, FRAME_HEIGHT, 9, &m->png, err);
}

/* ---- while the agent plays ---------------------------------------------------------------------------------------------------- */

static void on_begin(void *user, uint32_t seed, struct emulator *e) {
    struct cover *c = user;
    (void)e;
    c->seed = seed;
    c->pending_count = 0;
}

/* Keeps some of the pictures in which nothing is asked of the player. */
static void on_act(void *user, struct emulator *e) {
    struct cover *c = user;
    struct memory_view memory;
    if (c->pending_count == PENDING) c->pending_count--; /* the newest is kept: results come last */
    struct between *b = &c->pending[c->pending_count];
    if (emulator_frame(e, b->rgb) == 0) return;
    emulator_memory(e, &memory);
    const struct rom_header *h = emulator_header(e);
    world_decode(&memory, h->title, h->code, &b->world);
    if (b->world.state == STATE_FIELD || b->world.state == STATE_STAIRS) return; /* decisions of their own */
    category_of(&b->world, NULL, b->category);
    if (strcmp(b->category, "animation") == 0 && random_below(c, 8)) return; /* most frames by far */
    for (int i = 0; i < c->pending_count; i++) {
        if (strcmp(c->pending[i].category, b->category) == 0 && random_below(c, 3)) return;
    }
    c->pending_count++;
}

static void on_step(void *user, const struct step *s) {
    struct cover *c = user;
    char category[32], notes[300];
    if (c->code) return;
    snprintf(notes, sizeof notes, "decided by %s%s%s", decided_by_name[s->decided_by], s->reason && s->reason[0] ? ": " : "", s->reason ? s->reason : "");
    struct dataset_entry e = {.seed = c->seed, .step = s->number, .rgb = s->frame, .world = s->world, .action = s->action, .presses = s->presses,
                              .press_count = s->press_count, .scene = s->scene, .oracle_action = s->oracle_action, .prompt = s->prompt, .notes = notes};
    category_of(s->world, s->seen ? &s->seen->now : NULL, category);
    c->code = offer(c, category, &e, &c->err);
    for (int i = 0; i < c->pending_count && !c->code; i++) {
        struct between *b = &c->pending[i];
        snprintf(notes, sizeof notes, "between decisions, while %s is carried out", s->action);
        struct dataset_entry n = {.seed = c->seed, .step = s->number, .part = i + 1, .rgb = b->rgb, .world = &b->world, .action = s->action,
                                  .scene = scene_name[scene_of(&b->world)], .notes = notes};
        c->code = offer(c, b->category, &n, &c->err);
    }
    c->pending_count = 0;
    if (c->code) *c->s->stop = true;
}

/* ---- the tour of the menus ------------------------------------------------------------------------------------------------------ */

static void press(struct emulator *e, uint32_t key) {
    emulator_run(e, key, 3, false);
    emulator_run(e, 0, 20, true);
}

/* From the emulator's present moment (the field): opens row `row` of the main menu `depth` levels deep, takes a picture, and closes. */
static int tour_stop(struct cover *c, struct emulator *e, int number, int row, int depth) {
    static uint8_t rgb[FRAME_PIXELS * 3];
    static struct world w;
    struct memory_view memory;
    char category[48];
    press(e, KEY_B);
    for (int i = 0; i < row; i++) press(e, KEY_DOWN);
    for (int i = 0; i < depth; i++) press(e, KEY_A);
    emulator_frame(e, rgb);
    emulator_memory(e, &memory);
    world_decode(&memory, emulator_header(e)->title, emulator_header(e)->code, &w);
    enum scene scene = scene_of(&w);
    if (scene != SCENE_MENU) return 0; /* this game has no such menu */
    snprintf(category, 32, w.state == STATE_HISTORY ? "history" : "menu_%d_%d", row, depth);
    struct key_press presses[] = {{KEY_B, 3}, {0, 20}};
    struct dataset_entry entry = {.seed = c->seed, .step = (uint32_t)number, .part = 9, .rgb = rgb, .world = &w, .action = action_name[ACTION_CLOSE],
                                  .presses = presses, .press_count = 2, .scene = scene_name[scene], .oracle_action = action_name[ACTION_CLOSE],
                                  .notes = "tour of the menus, opened by a script"};
    return offer(c, category, &entry, &c->err);
}

/* Where the tours start: states saved in the field by a subscriber. */
struct tour {
    struct buf state;
    struct emulator *e;
    uint32_t at_step;
};

static void tour_begin(void *user, uint32_t seed, struct emulator *e) {
    struct tour *t = user;
    (void)seed;
    t->e = e;
    t->at_step = 0;
}

static void tour_step(void *user, const struct step *s) {
    struct tour *t = user;
    if (s->number != 40) return;
    buf_clear(&t->state);
    if (emulator_state_save(t->e, &t->state, NULL) == 0) t->at_step = s->number;
}

static int tour(struct cover *c, struct emulator *e, struct tour *t) {
    int code = 0;
    for (int row = 0; row < 5 && !code; row++) {
        for (int depth = 0; depth < 3 && !code; depth++) {
            code = emulator_state_load(e, t->state.data, t->state.len, &c->err);
            if (!code) code = tour_stop(c, e, 90000 + 10 * row + depth, row, depth);
        }
    }
    return code;
}

/* ---- all of it ------------------------------------------------------------------------------------------------------------------ */

static int choose(struct cover *c, struct err *err) {
    struct dataset_writer *w;
    int code = dataset_create(c->s->out, -1, &w, err), total = 0;
    bool more = true;
    while (!code && more && total < c->s->cover) {
        more = false;
        for (int i = 0; i < c->category_count && !code && total < c->s->cover; i++) {
            struct category *k = &c->categories[i];
            if (k->taken >= k->count || k->taken >= k->most) continue;
            struct candidate *m = &k->sample[k->taken++];
            bool kept;
            code = dataset_add_made(w, m->path, &m->png, &m->line, m->key, &kept, err);
            total += kept;
            more = true;
        }
    }
    struct err close_err = {0};
    int close_code = dataset_close(w, &close_err);
    if (!code && close_code) {
        code = close_code;
        if (err) *err = close_err;
    }
    for (int i = 0; i < c->category_count; i++) {
        struct category *k = &c->categories[i];
        fprintf(stderr, "  %-24s %4d of %lld pictures\n", k->name, k->taken, (long long)k->offered);
    }
    fprintf(stderr, "%s: %d entries\n", c->s->out, total);
    if (!code && total < c->s->cover) code = err_set(err, ERR_STATE, "only %d different pictures were found; more --episodes are needed for %d", total, c->s->cover);
    return code;
}

static int play(struct cover *c, struct tour *t, struct err *err) {
    struct agent_events events[] = {{.user = c, .episode_begun = on_begin, .acted = on_act, .step_done = on_step},
                                    {.user = t, .episode_begun = tour_begin, .step_done = tour_step},
                                    {0}};
    struct record_settings chance = *c->s;
    chance.policy = POLICY_RANDOM;
    chance.max_decisions = RANDOM_DECISIONS;
    int code = 0;
    for (int i = 0; i < c->s->episodes && !code && !*c->s->stop; i++) {
        struct worker w;
        struct episode_result result;
        uint32_t seed = c->s->seed + (uint32_t)i;
        code = worker_open(i % 4 == 3 ? &chance : c->s, events, true, &w, err);
        if (!code) code = agent_play_episode(w.agent, seed, &result, err);
        if (!code && c->code) {
            code = c->code;
            if (err) *err = c->err;
        }
        if (!code && t->at_step && i % 4 == 0 && (code = tour(c, w.emulator, t)) && err) *err = c->err;
        worker_close(&w);
    }
    if (!code && *c->s->stop) code = err_set(err, ERR_CANCELLED, "stopped; nothing was written");
    return code;
}

int dataset_record_cover(struct record_settings *s, struct err *err) {
    struct cover *c = calloc(1, sizeof *c);
    struct tour t = {0};
    if (!c) return err_set(err, ERR_MEMORY, "out of memory");
    c->s = s;
    c->random = s->seed;
    int code = play(c, &t, err);
    if (!code) code = choose(c, err);
    for (int i = 0; i < c->category_count; i++) {
        for (int j = 0; j < SAMPLE; j++) buf_free(&c->categories[i].sample[j].png), buf_free(&c->categories[i].sample[j].line);
    }
    key_set_free(&c->pictures);
    buf_free(&t.state);
    free(c);
    return code;
}
