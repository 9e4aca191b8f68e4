/* Path finding on real floors: the fair oracle plays Tiny Woods, and at every decision in the field each search is done once more and
 * timed: on what is seen (goals: every end of the known map), and on the whole floor (goal: the stairs, the farthest there is to go).
 * usage: bench_path [seeds]   (default 8) */
#include <stdio.h>
#include <stdlib.h>

#include "agent/explore.h"
#include "agent/home.h"
#include "base/clock.h"
#include "base/file.h"

enum { MAX_SAMPLES = 20000 };
struct samples {
    const char *what;
    double us[MAX_SAMPLES];
    int count;
};
static struct samples all[] = {{.what = "path_distances, seen, to the ends of the map"}, {.what = "path_walk (with turns), seen, to the ends of the map"},
                               {.what = "path_distances, whole floor, to the stairs"},   {.what = "path_walk (with turns), whole floor, to the stairs"},
                               {.what = "world_decode of that step's memory"},           {.what = "world_seen_update"}};
static struct emulator *emulator;

static void add(struct samples *s, double start) {
    if (s->count < MAX_SAMPLES) s->us[s->count++] = (clock_seconds() - start) * 1e6;
}

static void measure(const struct world *w, const struct point *goals, int count, struct samples *distances, struct samples *walk) {
    static struct distance_field d;
    static struct walk_field t;
    struct path_options o = {.avoid_traps = true, .foes_block = true};
    double start = clock_seconds();
    path_distances(w, goals, count, &o, &d);
    add(distances, start);
    start = clock_seconds();
    path_walk(w, goals, count, &o, &t);
    add(walk, start);
}

static void on_step(void *user, const struct step *s) {
    (void)user;
    if (s->seen->now.state != STATE_FIELD) return;
    static struct point ends[MAP_WIDTH * MAP_HEIGHT];
    int count = 0;
    for (int y = 0; y < MAP_HEIGHT; y++) {
        for (int x = 0; x < MAP_WIDTH; x++) {
            if (tile_is_frontier(&s->seen->now, x, y)) ends[count++] = (struct point){(int16_t)x, (int16_t)y};
        }
    }
    if (count) measure(&s->seen->now, ends, count, &all[0], &all[1]);
    if (s->world->stairs.x >= 0) measure(s->world, &s->world->stairs, 1, &all[2], &all[3]);
    static struct world w;
    static struct world_seen seen;
    struct memory_view memory;
    struct rom_header header = *emulator_header(emulator);
    emulator_memory(emulator, &memory);
    double start = clock_seconds();
    world_decode(&memory, header.title, header.code, &w);
    add(&all[4], start);
    seen = *s->seen;
    start = clock_seconds();
    world_seen_update(&seen, &w);
    add(&all[5], start);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    char path[4096];
    struct buf rom = {0};
    struct err err = {0};
    struct agent *a = NULL;
    struct agent_events events[] = {{.user = path, .step_done = on_step}, {0}};
    struct agent_options o = {.policy = POLICY_ORACLE, .events = events};
    int code = file_read(home_file(HOME_ROM, path, sizeof path), 64 << 20, &rom, &err);
    if (!code) code = emulator_open(rom.data, rom.len, NULL, &emulator, &err);
    if (!code) code = agent_new(emulator, &o, &a, &err);
    for (int i = 0, seeds = argc > 1 ? atoi(argv[1]) : 8; i < seeds && !code; i++) {
        struct episode_result result;
        code = agent_play_episode(a, 2000000 + (uint32_t)i, &result, &err);
    }
    if (code) return fprintf(stderr, "bench_path: %s\n", err.message), 1;
    puts("| what | median µs | p99 µs | calls |\n| --- | --- | --- | --- |");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct samples *s = &all[i];
        if (!s->count) continue;
        qsort(s->us, (size_t)s->count, sizeof *s->us, compare);
        printf("| %s | %.1f | %.1f | %d |\n", s->what, s->us[s->count / 2], s->us[s->count * 99 / 100], s->count);
    }
    agent_free(a);
    emulator_close(emulator);
    buf_free(&rom);
    return 0;
}
