/* pmd-agent play --frames DIR: the questions of many games without the games. Recorded pictures and their words go through the same engine,
 * schemas and threads as in play; there is no emulator, and what is answered changes nothing. For machines without libmgba, and labelled so.
 * Needs the engine only: it is in the build of `make engine` too. */
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/ask_engine.h"
#include "agent/home.h"
#include "agent/prompt.h"
#include "app/commands.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "vision/image.h"

enum { MANIFEST_LIMIT = 256 << 20, PICTURE_LIMIT = 1 << 20, MOST_GAMES = 256, MOST_FRAMES = 100000, WARM_QUESTIONS = 3, WARM_PICTURES = 64 };

struct frame {
    uint8_t *rgb; /* FRAME_PIXELS * 3 */
    char *prompt;
    enum scene scene;
};

struct frames_play {
    const char *folder, *model_folder, *device, *prompt_file;
    int games, decisions, threads, best_of, think_tokens, history; /* decisions: of each game */
    bool json;
    struct frame *frames;
    int frame_count;
    struct prompt_template prompt;
    struct qvl_model *model;
    struct qvl_stats before; /* when the clock starts */
    int warm_questions;      /* of each game, before that */
    atomic_int warm;         /* how often a game has come to meet() */
    atomic_int decided;      /* of all games, since the clock started */
    atomic_bool one_over;    /* a game has decided all it was to: until then all played */
    int all_decided;         /* ... so many were decided by then ... */
    double all_until;        /* ... and it was then, by the clock */
};

struct frames_game {
    struct frames_play *p;
    int number;
    struct engine_answerer *engine;
    struct conversation conversation;
    uint8_t *rgb;         /* the picture in this game's colours */
    float *ms;            /* (decisions) of each question */
    double asked, whole, began, shown; /* seconds; shown: spent on colours */
    double image_ms, prefill_ms, generate_ms; /* sums */
    long long answer_tokens;
    long long prompt_tokens, computed_tokens; /* of all questions but the first */
    int done, useless;    /* useless: no offered action came */
    struct err err;
};

static int usage(FILE *to, int status) {
#ifdef ENGINE_ONLY
    fputs("This build has only the engine: playing the game itself needs libmgba-dev and `make all`.\n\n", to);
#endif
    fputs("usage: pmd-agent play --frames DIR [options]\n"
          "The questions of many games, from recorded pictures (a data set like datasets/tinywoods-200): same prompts, schemas, engine and threads as in play,\n"
          "but no emulator, and what is answered changes nothing. For speed where no libmgba can be had; the figures say so.\n"
          "  --games N        so many at the same time (default 1), each from a place of its own in the data set and in colours of its own\n"
          "  --decisions N    for each game (default 50)\n"
          "  --model DIR      a checkpoint folder (default: the bundled models/tinywoods-vl)\n"
          "  --prompt FILE    whose system text comes first (default configs/prompts/tinywoods.txt); the words of the user's part are the recorded ones\n"
          "  --device D       auto (default), cpu, cuda          --threads N   for the model\n"
          "  --history N      a conversation, as in play: up to N earlier turns stay in the prompt (default 0: every question stands alone)\n"
          "  --best-of N      N answers to each question         --think-tokens N  of a Thinking model (default 256)\n"
          "  --json           one JSON object instead of words\n",
          to);
    return status;
}

/* ---- the data set -------------------------------------------------------------------------------------------------------------- */

static int read_picture(const char *folder, const char *name, uint8_t **rgb, struct err *err) {
    char path[PATH_MAX];
    struct buf png = {0};
    struct image image = {0};
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= PATH_MAX) return err_set(err, ERR_ARGUMENT, "%s: path too long", folder);
    int code = file_read(path, PICTURE_LIMIT, &png, err);
    if (!code && (code = image_decode(png.data, png.len, FRAME_PIXELS, &image, err))) err_context(err, "%s", path);
    if (!code && (image.width != FRAME_WIDTH || image.height != FRAME_HEIGHT)) {
        code = err_set(err, ERR_FORMAT, "%s: %dx%d pixels, expected %dx%d", path, image.width, image.height, FRAME_WIDTH, FRAME_HEIGHT);
    }
    buf_free(&png);
    if (code) return image_free(&image), code;
    *rgb = image.rgb;
    return 0;
}

static int add_frame(struct frames_play *p, const char *line, size_t n, const char *what, struct err *err) {
    struct arena arena = {0};
    const struct json *j = json_parse(line, n, what, &arena, err);
    const char *picture = json_as_string(json_get(j, "frame_path"), NULL), *prompt = json_as_string(json_get(j, "prompt"), NULL);
    const char *scene = json_as_string(json_get(j, "scene"), "");
    int code = j ? 0 : err->code;
    if (!code && (!picture || strstr(picture, ".."))) code = err_set(err, ERR_FORMAT, "%s: field frame_path: expected a picture's name", what);
    if (!code && p->frame_count == MOST_FRAMES) code = err_set(err, ERR_LIMIT, "%s: more than %d pictures", what, MOST_FRAMES);
    if (!code && prompt && (p->frame_count & (p->frame_count - 1)) == 0) { /* grow at 0, 1, 2, 4, 8, ... */
        struct frame *grown = realloc(p->frames, (p->frame_count ? (size_t)p->frame_count * 2 : 1) * sizeof *grown);
        if (grown) p->frames = grown;
        else code = err_set(err, ERR_MEMORY, "%s: out of memory", what);
    }
    if (!code && prompt) { /* pictures that nobody was asked about have no words */
        struct frame *f = &p->frames[p->frame_count];
        *f = (struct frame){.scene = SCENE_FIELD};
        for (int s = 0; s < SCENE_COUNT; s++) {
            if (!strcmp(scene, scene_name[s])) f->scene = s;
        }
        code = read_picture(p->folder, picture, &f->rgb, err);
        if (!code && !(f->prompt = strdup(prompt))) free(f->rgb), code = err_set(err, ERR_MEMORY, "%s: out of memory", what);
        if (!code) p->frame_count++;
    }
    arena_free(&arena);
    return code;
}

static int read_frames(struct frames_play *p, struct err *err) {
    char path[PATH_MAX], what[PATH_MAX + 32];
    struct buf text = {0};
    if (snprintf(path, sizeof path, "%s/manifest.jsonl", p->folder) >= PATH_MAX) return err_set(err, ERR_ARGUMENT, "%s: path too long", p->folder);
    int code = file_read(path, MANIFEST_LIMIT, &text, err), number = 0;
    char *line = text.data, *end = line ? line + text.len : NULL;
    while (!code && line < end) {
        char *newline = memchr(line, '\n', (size_t)(end - line)), *stop = newline ? newline : end;
        snprintf(what, sizeof what, "%s: line %d", path, ++number);
        if (stop > line) code = add_frame(p, line, (size_t)(stop - line), what, err);
        line = stop + 1;
    }
    buf_free(&text);
    if (!code && !p->frame_count) code = err_set(err, ERR_FORMAT, "%s: no picture with a prompt in it", path);
    return code;
}

/* ---- playing ------------------------------------------------------------------------------------------------------------------- */

/* All that a scene can offer: which of it makes sense is not on record. */
static void offers(enum scene scene, bool offered[ACTION_COUNT]) {
    memset(offered, 0, ACTION_COUNT * sizeof *offered);
    if (scene == SCENE_FIELD) {
        for (int a = 0; a <= ACTION_WAIT; a++) offered[a] = true;
    } else if (scene == SCENE_STAIRS) offered[ACTION_PROCEED] = offered[ACTION_STAY] = true;
    else if (scene == SCENE_CHOICE) offered[ACTION_YES] = offered[ACTION_NO] = true;
    else if (scene == SCENE_MENU) offered[ACTION_CLOSE] = true;
    else offered[ACTION_NEXT] = true;
}

static const struct frame *frame_of(const struct frames_game *g, int k) {
    return &g->p->frames[((long)g->number * g->p->frame_count / g->p->games + k) % g->p->frame_count];
}

/* Games pass by the same pictures, and by each again when they have seen all: nobody must find his question answered already, which no game
 * would. So each game, and each of its rounds, has colours of its own (the first game's first round the recorded ones). */
static const uint8_t *picture_of(struct frames_game *g, int k) {
    uint32_t colours = ((uint32_t)g->number + 1u) * 0x9E3779B1u * (uint32_t)(k < 0 ? 7919 : 1) + (uint32_t)((k < 0 ? -k : k) / g->p->frame_count) * 0x85EBCA6Bu - 0x9E3779B1u;
    const uint8_t *from = frame_of(g, k < 0 ? -k : k)->rgb;
    double start = clock_seconds();
    for (int i = 0; i < FRAME_PIXELS; i++) {
        for (int c = 0; c < 3; c++) g->rgb[3 * i + c] = (uint8_t)(from[3 * i + c] ^ colours >> 8 * c);
    }
    g->shown += clock_seconds() - start;
    return g->rgb;
}

/* Waits for all games; times: so many meetings, this one included. */
static void meet(struct frames_play *p, int times) {
    for (atomic_fetch_add(&p->warm, 1); atomic_load(&p->warm) < times * p->games;) nanosleep(&(struct timespec){0, 100000}, NULL);
}

/* What happens once (buffers, libraries, kernels that are loaded when they are first used, and where a device has its own memory, the pinned
 * memory that features of pictures live in, a millisecond each until the cache is full; a thought takes longer than that) is no part of a speed: questions about pictures that do not
 * come again. Failures show when it counts. */
static void warm_up(struct frames_game *g) {
    struct answerer door = engine_answerer_door(g->engine);
    for (int k = 1; k <= g->p->warm_questions; k++) {
        const struct frame *f = frame_of(g, k);
        struct answer a = {.action = -1};
        struct err err;
        meet(g->p, k); /* as many at once as ever will be */
        struct question q = {.system = g->p->prompt.always, .prompt = f->prompt, .rgb = picture_of(g, -k), .schema = "{\"enum\":[\"walk_north\",\"walk_east\",\"wait\"]}", .greedy = true};
        door.answer(door.user, &q, &a, &err);
        answer_free(&a);
    }
}

static int decide(struct frames_game *g, int k, struct err *err) {
    struct frames_play *p = g->p;
    const struct frame *f = frame_of(g, k);
    struct buf schema = {0};
    bool offered[ACTION_COUNT];
    char reason[200];
    offers(f->scene, offered);
    action_note_schema(offered, p->prompt.scratchpad ? NOTE_CHARACTERS : 0, &schema); /* as in play */
    conversation_make_room(&g->conversation);
    struct question q = {.system = p->history ? p->prompt.always : p->prompt.system[f->scene], .past = p->history ? &g->conversation : NULL, .prompt = f->prompt, .rgb = picture_of(g, k), .schema = schema.data, .width = FRAME_WIDTH, .height = FRAME_HEIGHT, .greedy = true, .seed = (uint64_t)k,
                         .decision = (uint32_t)k + 1};
    struct answer a = {.action = -1};
    struct answerer door = engine_answerer_door(g->engine);
    double start = clock_seconds();
    int code = schema.failed ? err_set(err, ERR_MEMORY, "out of memory for a schema") : door.answer(door.user, &q, &a, err);
    double seconds = clock_seconds() - start;
    buf_free(&schema);
    if (!code) {
        g->ms[k] = (float)(seconds * 1e3);
        g->asked += seconds;
        g->image_ms += a.image_ms, g->prefill_ms += a.prefill_ms, g->generate_ms += a.generate_ms, g->answer_tokens += a.answer_token_count;
        g->useless += !a.text || action_of_answer(a.text, offered, reason, sizeof reason) < 0;
        if (a.text) {
            conversation_add(&g->conversation, &(struct exchange){.text = f->prompt, .rgb = g->rgb, .width = q.width, .height = q.height, .reply = a.text,
                                                                  .reply_tokens = a.answer_tokens, .reply_token_count = a.answer_token_count});
        }
        if (k) g->prompt_tokens += a.prompt_token_count, g->computed_tokens += a.prompt_token_count - a.cached_tokens;
    }
    answer_free(&a);
    return code;
}

static void *play_one(void *user) {
    struct frames_game *g = user;
    warm_up(g);
    meet(g->p, g->p->warm_questions + 1);
    if (!g->number) qvl_model_stats(g->p->model, &g->p->before); /* questions of others may have begun: a few among hundreds */
    g->shown = 0;
    double start = g->began = clock_seconds();
    while (g->done < g->p->decisions && !decide(g, g->done, &g->err)) g->done++, atomic_fetch_add(&g->p->decided, 1);
    if (!atomic_exchange(&g->p->one_over, true)) g->p->all_decided = atomic_load(&g->p->decided), g->p->all_until = clock_seconds();
    g->whole = clock_seconds() - start - g->shown;
    return NULL;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* start: of the first game. */
static void report(struct frames_play *p, const struct frames_game *games, double start, double seconds, float *ms) {
    double all_seconds = p->all_until - start, all_rate = p->all_decided / all_seconds;
    struct qvl_info info;
    qvl_model_info(p->model, &info);
    long long prompt = 0, computed = 0;
    int n = 0, useless = 0;
    struct qvl_stats now;
    qvl_model_stats(p->model, &now);
    double passes = (double)(now.passes - p->before.passes), busy = now.pass_seconds - p->before.pass_seconds, tower = now.image_seconds - p->before.image_seconds;
    double pictures = (double)(now.images_encoded - p->before.images_encoded), tower_passes = (double)(now.image_passes - p->before.image_passes);
    double sequences = (double)(now.pass_sequences - p->before.pass_sequences), rows = (double)(now.pass_rows - p->before.pass_rows);
    double outside = 0, image = 0, prefill = 0, generate = 0, answer = 0;
    for (int i = 0; i < p->games; i++) {
        image += games[i].image_ms, prefill += games[i].prefill_ms, generate += games[i].generate_ms, answer += (double)games[i].answer_tokens;
        prompt += games[i].prompt_tokens, computed += games[i].computed_tokens, useless += games[i].useless, n += games[i].done;
        outside += games[i].whole - games[i].asked;
    }
    qsort(ms, (size_t)n, sizeof *ms, by_value);
    double share = prompt ? (double)computed / (double)prompt : NAN, mean = n > p->games ? (double)prompt / (n - p->games) : NAN;
    if (p->json) {
        struct buf b = {0};
        buf_str(&b, "{\"frames\":"), buf_json_string(&b, p->folder, strlen(p->folder));
        buf_printf(&b, ",\"emulator\":false,\"games\":%d,\"decisions\":%d,\"seconds\":%.3f,\"decisions_per_s\":%.3f,\"decision_ms\":{\"p50\":%.3f,\"p95\":%.3f}", p->games, n,
                   seconds, n / seconds, (double)ms[n / 2], (double)ms[n * 95 / 100]);
        buf_printf(&b, ",\"all_playing\":{\"decisions\":%d,\"seconds\":%.3f,\"decisions_per_s\":%.3f}", p->all_decided, all_seconds, all_rate);
        buf_str(&b, ",\"prompt_tokens_mean\":"), buf_json_number(&b, mean);
        buf_str(&b, ",\"prefilled_share\":"), buf_json_number(&b, share);
        buf_printf(&b, ",\"image_ms\":%.3f,\"prefill_ms\":%.3f,\"generate_ms\":%.3f,\"answer_tokens_mean\":%.2f", image / n, prefill / n, generate / n, answer / n);
        buf_printf(&b, ",\"passes\":%.0f,\"pass_ms\":%.3f,\"sequences_a_pass\":%.2f,\"tokens_a_pass\":%.1f,\"image_passes\":%.0f,\"image_pass_ms\":%.3f,\"pictures\":%.0f,\"device_busy\":%.3f", passes,
                   busy * 1e3 / (passes ? passes : 1), sequences / (passes ? passes : 1), rows / (passes ? passes : 1), tower_passes,
                   tower * 1e3 / (tower_passes ? tower_passes : 1), pictures, (busy + tower) / seconds);
        buf_printf(&b, ",\"outside_model_ms\":%.4f,\"useless\":%d,\"best_of\":%d,\"history\":%d,\"device\":\"%s\",\"kernels\":\"%s\",\"model\":", outside * 1e3 / n, useless, p->best_of, p->history,
                   info.device, info.kernels);
        buf_json_string(&b, p->model_folder, strlen(p->model_folder));
        buf_str(&b, "}\n");
        fputs(b.data ? b.data : "", stdout);
        buf_free(&b);
        return;
    }
    printf("recorded frames of %s, no emulator, no game that depends on the answers; %s on %s (%s)\n", p->folder, p->model_folder, info.device, info.kernels);
    printf("%d games at the same time: %d decisions in %.1f s = %.2f decisions/s; one takes %.1f ms in the median, p95 %.1f ms\n", p->games, n, seconds, n / seconds,
           (double)ms[n / 2], (double)ms[n * 95 / 100]);
    if (p->games > 1) printf("until the first of them was through, so that all played: %d decisions in %.1f s = %.2f decisions/s\n", p->all_decided, all_seconds, all_rate);
    if (prompt) printf("%.0f prompt tokens a question, %.1f %% of them computed (the first question of each game left out)\n", mean, share * 100);
    printf("in the mean %.1f ms for the picture, %.1f ms for the prompt, %.1f ms for %.1f tokens of an answer, waiting for the others included\n", image / n, prefill / n, generate / n,
           answer / n);
    if (passes) {
        printf("%.0f passes of the decoder, %.1f ms, with %.1f sequences and %.0f tokens in the mean; %.0f of the tower, %.1f ms, for %.0f pictures; the device was busy for %.0f %% of the time\n",
               passes, busy * 1e3 / passes, sequences / passes, rows / passes, tower_passes, tower_passes ? tower * 1e3 / tower_passes : 0, pictures, (busy + tower) / seconds * 100);
    }
    printf("%.3f ms a decision outside the model; %d answers named no offered action\n", outside * 1e3 / n, useless);
}

static int play_all(struct frames_play *p, struct frames_game *games, struct err *err) {
    pthread_t threads[MOST_GAMES];
    struct qvl_info info;
    int code = 0, started = 0;
    qvl_model_info(p->model, &info);
    p->warm_questions = !strcmp(info.device, "cpu") || info.thinking || WARM_QUESTIONS * p->games > WARM_PICTURES ? WARM_QUESTIONS : (WARM_PICTURES + p->games - 1) / p->games;
    for (int i = 0; i < p->games && !code; i++) {
        struct engine_answerer_options o = {.think_tokens = p->think_tokens, .best_of = p->best_of};
        games[i] = (struct frames_game){.p = p, .number = i, .ms = malloc((size_t)p->decisions * sizeof(float)), .rgb = malloc(FRAME_PIXELS * 3)};
        conversation_begin(&games[i].conversation, p->history);
        code = games[i].ms && games[i].rgb ? engine_answerer_new(p->model, &o, &games[i].engine, err) : err_set(err, ERR_MEMORY, "out of memory for %d games", p->games);
    }
    for (; started < p->games && !code; started++) {
        if (pthread_create(&threads[started], NULL, play_one, &games[started])) code = err_set(err, ERR_STATE, "thread %d could not be started", started + 1);
        if (code) break;
    }
    atomic_fetch_add(&p->warm, (p->games - started) * (p->warm_questions + 1)); /* those that could not be started are not waited for */
    for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
    double start = clock_seconds(), seconds = 0;
    for (int i = 0; i < started; i++) start = games[i].began < start ? games[i].began : start;
    seconds = clock_seconds() - start;
    float *ms = code ? NULL : malloc((size_t)p->games * (size_t)p->decisions * sizeof *ms);
    if (!code && !ms) code = err_set(err, ERR_MEMORY, "out of memory for the times");
    for (int i = 0, n = 0; i < p->games; i++) {
        if (!code && games[i].err.code) code = games[i].err.code, *err = games[i].err;
        if (ms) memcpy(ms + n, games[i].ms, (size_t)games[i].done * sizeof *ms), n += games[i].done;
        engine_answerer_free(games[i].engine);
        conversation_forget(&games[i].conversation);
        free(games[i].ms);
        free(games[i].rgb);
    }
    if (!code) report(p, games, start, seconds, ms);
    free(ms);
    return code;
}

static int run(struct frames_play *p, struct err *err) {
    char prompt[PATH_MAX], bundled[PATH_MAX];
    int code = prompt_template_load(p->prompt_file ? p->prompt_file : home_file(HOME_PROMPT, prompt, sizeof prompt), &p->prompt, err);
    if (!code) code = prompt_template_catalogue(&p->prompt, NULL, err);
    if (!code) code = read_frames(p, err);
    if (!p->model_folder) p->model_folder = home_file(HOME_MODEL, bundled, sizeof bundled);
    struct qvl_options o = {.device = p->device, .threads = p->threads};
    if (!code) code = qvl_load(p->model_folder, &o, &p->model, err);
    struct frames_game *games = code ? NULL : calloc((size_t)p->games, sizeof *games);
    if (!code) code = games ? play_all(p, games, err) : err_set(err, ERR_MEMORY, "out of memory for %d games", p->games);
    free(games);
    if (p->model) qvl_unload(p->model);
    for (int i = 0; i < p->frame_count; i++) free(p->frames[i].rgb), free(p->frames[i].prompt);
    free(p->frames);
    prompt_template_free(&p->prompt);
    return code;
}

static bool count(const char *text, int max, int *out) {
    char *end;
    long n = strtol(text, &end, 10);
    *out = (int)n;
    return *text && !*end && n >= 1 && n <= max;
}

int cmd_play_frames(int argc, char **argv) {
    enum { FRAMES = 1, GAMES, DECISIONS, MODEL, PROMPT, DEVICE, THREADS, BEST_OF, THINK, HISTORY, JSON, HELP };
    static const struct option options[] = {{"frames", 1, NULL, FRAMES}, {"games", 1, NULL, GAMES}, {"decisions", 1, NULL, DECISIONS}, {"model", 1, NULL, MODEL},
                                            {"prompt", 1, NULL, PROMPT}, {"device", 1, NULL, DEVICE}, {"threads", 1, NULL, THREADS}, {"best-of", 1, NULL, BEST_OF},
                                            {"think-tokens", 1, NULL, THINK}, {"history", 1, NULL, HISTORY}, {"json", 0, NULL, JSON}, {"help", 0, NULL, HELP}, {0}};
    struct frames_play p = {.games = 1, .decisions = 50, .best_of = 1};
    struct err err = {0};
    bool good = true;
    int c;
    optind = 0;
    while (good && (c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (c) {
        case FRAMES: p.folder = optarg; break;
        case GAMES: good = count(optarg, MOST_GAMES, &p.games); break;
        case DECISIONS: good = count(optarg, 100000, &p.decisions); break;
        case MODEL: p.model_folder = optarg; break;
        case PROMPT: p.prompt_file = optarg; break;
        case DEVICE: p.device = optarg; break;
        case THREADS: good = count(optarg, 1024, &p.threads); break;
        case BEST_OF: good = count(optarg, VOTE_MAX, &p.best_of); break;
        case THINK: good = count(optarg, 1000000, &p.think_tokens); break;
        case HISTORY:
            p.history = atoi(optarg);
            good = !strcmp(optarg, "0") || count(optarg, HISTORY_MAX, &p.history);
            break;
        case JSON: p.json = true; break;
        case 'h':
        case HELP: return usage(stdout, 0);
        default: return fputs("pmd-agent play --frames DIR --help explains the options\n", stderr), 2;
        }
        if (!good) fprintf(stderr, "pmd-agent play --frames: '%s' is no number for this option (--help explains)\n", optarg);
    }
    if (!good || !p.folder || optind < argc) return good ? usage(stderr, 2) : 2;
    int code = run(&p, &err);
    if (code) fprintf(stderr, "pmd-agent play --frames: %s\n", err.message);
    return code ? 1 : 0;
}
