/* Speed and memory of the emulator and game rooms on the bundled ROM.
 *
 * Frames per second of one game on one core, drawn (every frame drawn and published) and undrawn, each over the field of floor 1
 * with a step asked for every 20 frames, so that the game has something to do; the median of 7 runs. Memory: growth of the
 * resident set (VmRSS) from before the first game to after the last of 64, each run for 60 frames with one drawn; the emulator
 * library itself is part of it. Prints a table in Markdown.
 *
 * usage: bench_emulator [ROM] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "emulator/emulator.h"
#include "game/world.h"

enum { RUNS = 7, GAMES = 64 };
static struct world world;
static struct world_seen seen;

static long resident_kib(void) {
    char line[256];
    long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmRSS: %ld", &kib) == 1) break;
    }
    if (f) fclose(f);
    return kib;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static void look(struct emulator *e) {
    struct memory_view m;
    emulator_memory(e, &m);
    world_decode(&m, emulator_header(e)->title, emulator_header(e)->code, &world);
}

/* From power-on to the first move of floor 1. */
static void to_the_field(struct emulator *e) {
    for (int i = 0; i < 2000; i++) {
        look(e);
        if (world.state == STATE_FIELD) return;
        uint32_t keys = world.state == STATE_TITLE ? KEY_START : world.state == STATE_DIALOGUE_WAIT ? KEY_A : 0;
        emulator_run(e, i % 8 < 4 ? keys : 0, 1, false);
    }
    fprintf(stderr, "bench_emulator: the game does not come to its field (state %s)\n", game_state_name[world.state]);
    exit(1);
}

/* Every 1000 frames the game goes back to its start, before the leader can faint: a result screen would be cheaper to run. */
static double frames_per_second(struct emulator *e, const struct buf *state, int frames, bool draw) {
    static const uint32_t pad[4] = {KEY_RIGHT, KEY_DOWN, KEY_LEFT, KEY_UP};
    double start = clock_seconds();
    for (int i = 0; i < frames; i += 20) {
        uint32_t key = pad[i / 20 % 4];
        if (i % 1000 == 0) emulator_state_load(e, state->data, state->len, NULL);
        if (draw) {
            for (int k = 0; k < 20; k++) emulator_run(e, k < 3 ? key : 0, 1, true);
        } else {
            emulator_run(e, key, 3, false);
            emulator_run(e, 0, 17, false);
        }
    }
    return frames / (clock_seconds() - start);
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "rom/tinywoods/tinywoods.gba";
    struct buf rom = {0}, state = {0};
    struct err err = {0};
    struct emulator *e[GAMES];
    if (file_read(path, 32 << 20, &rom, &err)) {
        fprintf(stderr, "bench_emulator: %s\n", err.message);
        return 1;
    }
    long before = resident_kib();
    double start = clock_seconds();
    if (emulator_open(rom.data, rom.len, NULL, &e[0], &err)) {
        fprintf(stderr, "bench_emulator: %s\n", err.message);
        return 1;
    }
    double first_open = clock_seconds() - start;
    for (int i = 1; i < GAMES; i++) {
        if (emulator_open(rom.data, rom.len, NULL, &e[i], &err)) return 1;
    }
    for (int i = 0; i < GAMES; i++) emulator_run(e[i], 0, 60, true);
    long grown = resident_kib() - before;
    for (int i = 0; i < GAMES; i++) emulator_close(e[i]);

    start = clock_seconds();
    if (emulator_open(rom.data, rom.len, NULL, &e[0], &err)) return 1;
    double open = clock_seconds() - start;
    to_the_field(e[0]);
    if (emulator_state_save(e[0], &state, &err)) return 1;
    double drawn[RUNS], undrawn[RUNS], save[RUNS], load[RUNS], decode[RUNS], see[RUNS], grab[RUNS];
    uint8_t *rgb = malloc(FRAME_PIXELS * 3);
    for (int run = 0; run < RUNS; run++) {
        drawn[run] = frames_per_second(e[0], &state, 4000, true);
        undrawn[run] = frames_per_second(e[0], &state, 20000, false);
        emulator_state_load(e[0], state.data, state.len, &err);
        start = clock_seconds();
        for (int i = 0; i < 100; i++) state.len = 0, emulator_state_save(e[0], &state, &err);
        save[run] = (clock_seconds() - start) / 100;
        start = clock_seconds();
        for (int i = 0; i < 100; i++) emulator_state_load(e[0], state.data, state.len, &err);
        load[run] = (clock_seconds() - start) / 100;
        start = clock_seconds();
        for (int i = 0; i < 1000; i++) look(e[0]);
        decode[run] = (clock_seconds() - start) / 1000;
        start = clock_seconds();
        for (int i = 0; i < 1000; i++) world_seen_update(&seen, &world);
        see[run] = (clock_seconds() - start) / 1000;
        emulator_run(e[0], 0, 1, true);
        start = clock_seconds();
        for (int i = 0; i < 1000; i++) emulator_frame(e[0], rgb);
        grab[run] = (clock_seconds() - start) / 1000;
    }
    emulator_close(e[0]);
    printf("| what | figure | asked for |\n| --- | --- | --- |\n");
    printf("| frames/s, every frame drawn and published | %.0f | ≥ 1,000 |\n", median(drawn, RUNS));
    printf("| frames/s, undrawn | %.0f | ≥ 10,000 |\n", median(undrawn, RUNS));
    printf("| memory of %d games, library included | %.1f MB | ≤ 150 MB |\n", GAMES, (double)grown * 1024 / 1e6);
    printf("| start of the first game, library included | %.0f ms | |\n", first_open * 1e3);
    printf("| start of a further game | %.1f ms | |\n", open * 1e3);
    printf("| whole-machine state: save / load (%zu bytes, checksum and checks included) | %.0f / %.0f µs | |\n", state.len,
           median(save, RUNS) * 1e6, median(load, RUNS) * 1e6);
    printf("| newest frame copied by a reader | %.1f µs | |\n", median(grab, RUNS) * 1e6);
    printf("| world_decode | %.1f µs | ≤ 20 µs |\n", median(decode, RUNS) * 1e6);
    printf("| world_seen_update | %.1f µs | |\n", median(see, RUNS) * 1e6);
    free(rgb);
    buf_free(&state);
    return 0;
}
