/* Plays recorded episodes again: ROM, seed and presses give the game, and the game says how it ended. No model and no run folder
 * takes part, and nothing of the record is believed but the presses. */
#include "app/eval.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/hands.h"
#include "agent/home.h"
#include "base/file.h"
#include "emulator/emulator.h"
#include "record/hash.h"

enum { ROM_LIMIT = 64 << 20 };

/* The machine as it stands where a record begins: an agent brings it there and is then stopped. */
struct start {
    struct buf state;
    char hash[33];
    bool stop;
    struct err err;
};

static void at_start(void *user, uint32_t seed, struct emulator *e) {
    struct start *s = user;
    (void)seed;
    emulator_state_hash(e, s->hash);
    emulator_state_save(e, &s->state, &s->err);
    s->stop = true;
}

static int go_to_start(struct emulator *e, uint32_t seed, struct start *s, struct err *err) {
    struct agent_events events[] = {{.user = s, .episode_begun = at_start}, {0}};
    struct agent_options o = {.policy = POLICY_ORACLE, .stop = (volatile bool *)&s->stop, .events = events};
    struct episode_result result;
    struct agent *a;
    int code = agent_new(e, &o, &a, err);
    if (code) return code;
    code = agent_play_episode(a, seed, &result, err);
    agent_free(a);
    if (!code && !s->state.len) code = err_set(err, ERR_STATE, "seed %u: no start was reached", seed);
    return code ? code : emulator_state_load(e, s->state.data, s->state.len, err);
}

/* 0: as recorded; 1: it differs, which is said. */
static int check(struct emulator *e, const struct eval_results *r, const struct eval_episode *recorded, struct err *err) {
    struct start start = {0};
    struct buf presses = {0};
    struct agent_options none = {.policy = POLICY_ORACLE};
    struct hands *h = calloc(1, sizeof *h);
    char hash[33];
    int code = h ? go_to_start(e, recorded->seed, &start, err) : err_set(err, ERR_MEMORY, "out of memory");
    buf_free(&start.state);
    if (!code) code = eval_presses_unpack(recorded->presses, &presses, err);
    const struct key_press *p = (const struct key_press *)(void *)presses.data;
    if (!code) {
        hands_open(h, e, &none);
        hands_begin(h);
        for (size_t i = 0; i < presses.len / sizeof *p; i++) hands_run(h, p[i].keys, p[i].frames, false);
        emulator_state_hash(e, hash);
        enum outcome outcome = hands_outcome(h);
        bool ended = outcome != OUTCOME_NONE; /* stuck, out of budget: the game itself went on */
        bool claims_end = !strcmp(recorded->outcome, "cleared") || !strcmp(recorded->outcome, "fainted") || !strcmp(recorded->outcome, "lost");
        const char *name = r->settings[recorded->setting].name;
        const char *differs = strcmp(start.hash, recorded->start_hash) ? "the start" : strcmp(hash, recorded->end_hash) ? "the memory at the end"
                              : ended != claims_end || (ended && strcmp(outcome_name[outcome], recorded->outcome)) ? "the outcome"
                              : h->floor != recorded->floor_reached                                                ? "the floor reached"
                                                                                                                     : NULL;
        if (differs) {
            fprintf(stderr, "%s, seed %u: %s differs: played again it is %s on floor %d (%s), on record %s on floor %d (%s)\n", name, recorded->seed, differs,
                    outcome_name[outcome], h->floor, hash, recorded->outcome, recorded->floor_reached, recorded->end_hash);
            code = 1;
        }
    }
    buf_free(&presses);
    free(h);
    return code;
}

int eval_verify(const struct eval_results *r, const char *rom_path, int sample, volatile bool *stop, int *checked, struct err *err) {
    char path[4096], hash[33];
    struct buf rom = {0};
    struct emulator *e = NULL;
    int different = 0, count = sample > 0 && sample < r->episode_count ? sample : r->episode_count;
    *checked = 0;
    if (!rom_path) rom_path = home_file(HOME_ROM, path, sizeof path);
    int code = file_read(rom_path, ROM_LIMIT, &rom, err);
    if (!code) {
        hash_hex(rom.data, rom.len, NULL, 0, hash);
        if (strcmp(hash, r->rom_hash)) code = err_set(err, ERR_ARGUMENT, "%s is not the ROM of these results: hash %s, expected %s", rom_path, hash, r->rom_hash);
    }
    if (!code) code = emulator_open(rom.data, rom.len, NULL, &e, err);
    for (int i = 0; !code && !*stop && i < count; i++) {
        const struct eval_episode *one = &r->episodes[(size_t)i * (size_t)r->episode_count / (size_t)count];
        int d = check(e, r, one, err);
        if (d < 0) code = err_context(err, "%s, seed %u", r->settings[one->setting].name, one->seed);
        different += d > 0;
        ++*checked;
    }
    if (e) emulator_close(e);
    buf_free(&rom);
    return code ? code : different;
}
