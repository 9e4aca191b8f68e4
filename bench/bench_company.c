/* Many games at the same time on a device that is only pretended: what the scheduling of passes (engine/batch.c, engine/features.c) is worth,
 * without a GPU.
 *
 *     bench_company [--games N] [--decisions N] [--scale X] [--words MEAN] [--spread N] [--host MS] [--trace]
 *
 * The engine is the real one, with tests/golden/tiny-a. A pass takes as long as a cost model says (below, of what was measured on an H100 with
 * 2B FP8: bench/results/games.md), times --scale, so that the processor's own work (this model's passes, threads, locks) is small beside it.
 * A decision is a picture, a prompt with a common beginning and new tokens behind it, and an answer of a random number of choices. */
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "engine/room.h"

enum { SHARED = 448, FRESH = 175, MOST_GAMES = 64, WIDTH = 64, HEIGHT = 64 };

/* Milliseconds. A step of n rows; a pass of `rows` rows of prompts with n rows that decode beside them; n pictures. */
static double step_ms(double n) { return 1.27 + 0.073 * n; }
static double prompt_ms(double rows, double n) { return 1.8 + 0.0062 * rows + 0.11 * n; }
static double pictures_ms(double n) { return 0.8 + n; }

static struct setup {
    int games, decisions, words, spread;
    double scale, host;
    bool trace;
} setup = {16, 12, 30, 8, 10, 2.5, false};

static void wait_until(double when) {
    double left = when - clock_seconds();
    if (left > 0) nanosleep(&(struct timespec){(time_t)left, (long)((left - (double)(time_t)left) * 1e9)}, NULL);
}

static double busy, origin;
static void took(const char *what, int sequences, int rows, double start, double ms) {
    wait_until(start + ms * setup.scale / 1e3);
    double end = clock_seconds();
    busy += end - start;
    if (setup.trace) fprintf(stderr, "%9.2f %s sequences %2d rows %4d: %.2f ms\n", (start - origin) / setup.scale * 1e3, what, sequences, rows, (end - start) / setup.scale * 1e3);
}

static int forward(struct backend_model *m, const struct span *spans, int count, struct err *err) {
    double start = clock_seconds();
    int prompt = 0, single = 0;
    for (int i = 0; i < count; i++) {
        if (spans[i].count > BACKEND_PAGE_TOKENS) prompt += spans[i].count;
        else single += spans[i].count;
    }
    int r = backend_cpu.forward(m, spans, count, err);
    took(prompt ? single ? "mixed   " : "prompts " : "step    ", count, prompt + single, start, prompt || single > 64 ? prompt_ms(prompt, single) : step_ms(single));
    return r;
}

static const struct model_config *config;
static int encode_pictures(struct backend_model *m, const struct prepared_picture *pictures, int count, struct vision_features *out, struct err *err) {
    (void)m, (void)err;
    double start = clock_seconds();
    for (int i = 0; i < count; i++) { /* features nobody looks at */
        int merge = config->vision.merge * config->vision.merge;
        int64_t tokens = (int64_t)pictures[i].grid_t * pictures[i].grid_h * pictures[i].grid_w / merge;
        int levels = 1 + config->vision.deepstack_count;
        size_t bytes = (size_t)levels * (size_t)tokens * (size_t)config->text.hidden * sizeof(float);
        float *values = out[i].values ? out[i].values : malloc(bytes);
        memset(values, 0, bytes);
        out[i] = (struct vision_features){.grid_t = pictures[i].grid_t, .grid_h = pictures[i].grid_h, .grid_w = pictures[i].grid_w, .tokens = tokens, .levels = levels, .values = values};
    }
    took("pictures", count, 0, start, pictures_ms(count));
    return 0;
}

struct game {
    struct qvl_model *m;
    int number;
    pthread_t thread;
    double seconds; /* of all its decisions */
};

static uint32_t next_random(uint32_t *seed) { return (*seed = *seed * 1664525u + 1013904223u) >> 8; }

static _Noreturn void die(const struct err *err) {
    fprintf(stderr, "bench_company: %s\n", err->message);
    exit(1);
}

static void *play(void *user) {
    struct game *g = user;
    uint32_t seed = 77u * (uint32_t)g->number + 1;
    uint8_t *rgb = malloc(WIDTH * HEIGHT * 3);
    int32_t ids[SHARED + FRESH];
    for (int k = 0; k < setup.decisions; k++) {
        struct err err = {0};
        struct qvl_session *s;
        struct qvl_result r;
        for (int i = 0; i < SHARED; i++) ids[i] = 20 + i * 7 % 200;
        for (int i = SHARED; i < SHARED + FRESH; i++) ids[i] = 20 + (int32_t)(next_random(&seed) % 200);
        for (int i = 0; i < WIDTH * HEIGHT * 3; i++) rgb[i] = (uint8_t)next_random(&seed);
        int words = setup.words - setup.spread + (int)(next_random(&seed) % (uint32_t)(2 * setup.spread + 1));
        wait_until(clock_seconds() + setup.host * setup.scale / 1e3);
        double start = clock_seconds();
        struct qvl_part picture = {.rgb = rgb, .width = WIDTH, .height = HEIGHT};
        static const char place[] = "<|vision_start|><|image_pad|><|vision_end|>";
        if (qvl_session_new(g->m, &s, &err) || qvl_session_raw_ids(s, ids, SHARED, &err) || qvl_session_raw(s, place, strlen(place), true, &err) ||
            qvl_session_raw_picture(s, &picture, &err) || qvl_session_raw_ids(s, ids + SHARED, FRESH - 6, &err)) die(&err);
        struct qvl_generate q = {.sampling.greedy = true, .max_tokens = words, .ignore_end = true, .no_append = true};
        if (qvl_generate(s, &q, &r, &err)) die(&err);
        g->seconds += clock_seconds() - start;
        qvl_result_free(&r);
        qvl_session_free(s);
    }
    free(rgb);
    return NULL;
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"games", 1, NULL, 'g'}, {"decisions", 1, NULL, 'd'}, {"scale", 1, NULL, 's'}, {"words", 1, NULL, 'w'},
                                            {"spread", 1, NULL, 'p'}, {"host", 1, NULL, 'h'}, {"trace", 0, NULL, 't'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'g': setup.games = atoi(optarg); break;
        case 'd': setup.decisions = atoi(optarg); break;
        case 's': setup.scale = atof(optarg); break;
        case 'w': setup.words = atoi(optarg); break;
        case 'p': setup.spread = atoi(optarg); break;
        case 'h': setup.host = atof(optarg); break;
        case 't': setup.trace = true; break;
        default: return 2;
        }
    }
    if (setup.games < 1 || setup.games > MOST_GAMES || setup.decisions < 1 || setup.scale <= 0 || setup.spread < 0 || setup.words <= setup.spread) return fputs("bench_company: 1 to 64 games, spread < words\n", stderr), 2;
    struct qvl_options o = {.threads = 1, .kv_bytes = 256 << 20};
    struct err err;
    struct qvl_model *m;
    if (qvl_load("tests/golden/tiny-a", &o, &m, &err)) die(&err);
    struct backend pretended = backend_cpu;
    pretended.forward = forward;
    pretended.encode_pictures = encode_pictures;
    config = m->config;
    m->backend = &pretended;
    m->fixed_cuts = false, m->turns.gather = true, m->turns.awake_most = 2; /* as on a GPU */
    m->alone_rows = ALONE_ROWS;
    static struct game games[MOST_GAMES];
    double start = origin = clock_seconds(), in_decisions = 0;
    for (int i = 0; i < setup.games; i++) {
        games[i] = (struct game){.m = m, .number = i};
        if (pthread_create(&games[i].thread, NULL, play, &games[i])) return 1;
    }
    for (int i = 0; i < setup.games; i++) pthread_join(games[i].thread, NULL), in_decisions += games[i].seconds;
    double seconds = (clock_seconds() - start) / setup.scale;
    struct qvl_stats s;
    qvl_model_stats(m, &s);
    int n = setup.games * setup.decisions;
    printf("%2d games: %6.1f decisions/s, %6.1f ms each; %lld passes of %.2f ms with %.2f sequences, %.1f tokens; %lld of pictures, %.1f each; device busy %.3f\n", setup.games, n / seconds,
           in_decisions / n / setup.scale * 1e3, (long long)s.passes, s.pass_seconds / (double)s.passes / setup.scale * 1e3, (double)s.pass_sequences / (double)s.passes,
           (double)s.pass_rows / (double)s.passes, (long long)s.image_passes, (double)s.images_encoded / (double)s.image_passes, busy / setup.scale / seconds);
    qvl_unload(m);
    return 0;
}
