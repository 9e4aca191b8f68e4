/* pmd-agent play: wires ROM, emulator, model, agent and the subscribers together, and prints what came of it. */
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/home.h"
#include "app/commands.h"
#include "app/play_model.h"
#include "app/play_options.h"
#include "app/play_report.h"
#include "app/subscribers.h"
#include "base/clock.h"
#include "base/file.h"

enum { ROM_LIMIT = 64 << 20 };
static const double frames_per_second = 16777216.0 / 280896;

static volatile bool stop;

static void on_signal(int number) {
    stop = true;
    signal(number, SIG_DFL); /* a second one ends the program at once */
}

struct play {
    struct play_options o;
    struct buf rom;
    char rom_path[PATH_MAX], prompt_path[PATH_MAX];
    struct play_model model;
    struct term_view *view;
    struct run_subscriber run;
    struct video_subscriber film;
    bool watched;       /* somebody looks at every frame */
    atomic_int next;    /* episode */
    pthread_mutex_t lock; /* totals, view and err while several games run */
    struct play_totals totals;
    struct err err;     /* the first */
};

/* One game: measures, and keeps the console's pace when somebody watches. */
struct player {
    struct play *play;
    struct samples decision_ms, overhead_ms;
    double last;               /* time of the last decision's end */
    double pace_start;
    uint64_t pace_frame;
};

static void player_begun(void *user, uint32_t seed, struct emulator *e) {
    struct player *p = user;
    (void)seed;
    p->last = p->pace_start = clock_seconds();
    p->pace_frame = emulator_frame_number(e);
}

static void player_acted(void *user, struct emulator *e) {
    struct player *p = user;
    double speed = p->play->o.speed;
    if (!p->play->view || !p->play->watched || speed <= 0 || stop) return;
    double now = clock_seconds(), due = p->pace_start + (double)(emulator_frame_number(e) - p->pace_frame) / (frames_per_second * speed);
    if (due <= now) {
        if (now - due > 0.1) p->pace_start = now, p->pace_frame = emulator_frame_number(e); /* thinking time is not caught up */
        return;
    }
    struct timespec rest = {(time_t)(due - now), (long)((due - now - (double)(time_t)(due - now)) * 1e9)};
    nanosleep(&rest, NULL);
}

static void player_step(void *user, const struct step *s) {
    struct player *p = user;
    /* From the end of the decision before, so that recording and all else is in it; watched, without drawing and keeping pace. */
    double now = clock_seconds(), ms = p->play->watched ? s->total_ms : (now - p->last) * 1e3;
    samples_add(&p->decision_ms, ms);
    samples_add(&p->overhead_ms, ms - s->ask_ms - s->emulator_ms);
    p->last = now;
}

static void fail(struct play *p, const struct err *err) {
    pthread_mutex_lock(&p->lock);
    if (!p->err.code) p->err = *err;
    stop = true;
    pthread_mutex_unlock(&p->lock);
}

/* Plays episodes until none is left; one thread each. */
static void *play_games(void *user) {
    struct play *p = user;
    struct player player = {.play = p};
    struct agent_events events[5];
    int n = 0;
    if (p->run.run) events[n++] = run_events(&p->run);
    if (p->film.video) events[n++] = video_events(&p->film);
    if (p->view && p->o.jobs == 1) events[n++] = term_view_events(p->view);
    events[n++] = (struct agent_events){.user = &player, .episode_begun = player_begun, .acted = player_acted, .step_done = player_step};
    events[n] = (struct agent_events){0};
    struct agent_options options = {.policy = p->o.policy, .model = p->model.engine, .answerer = p->model.by.answer ? &p->model.by : NULL,
                                    .prompt_file = p->prompt_path, .picture = p->o.picture, .max_decisions = p->o.max_decisions,
                                    .greedy = p->o.temperature <= 0, .temperature = p->o.temperature, .draw_all = p->watched, .stop = &stop,
                                    .events = events};
    struct emulator *e = NULL;
    struct agent *a = NULL;
    struct err err = {0};
    int code = emulator_open(p->rom.data, p->rom.len, NULL, &e, &err);
    if (!code) code = agent_new(e, &options, &a, &err);
    for (int i; !code && !stop && (i = atomic_fetch_add(&p->next, 1)) < p->o.episodes;) {
        struct episode_result result;
        if ((code = agent_play_episode(a, p->o.seed + (uint32_t)i, &result, &err))) break;
        pthread_mutex_lock(&p->lock);
        totals_add(&p->totals, &result);
        if (p->view && p->o.jobs > 1) term_view_episode_done(p->view, &result);
        pthread_mutex_unlock(&p->lock);
    }
    if (code) fail(p, &err);
    agent_free(a);
    if (e) emulator_close(e);
    pthread_mutex_lock(&p->lock);
    samples_join(&p->totals.decision_ms, &player.decision_ms);
    samples_join(&p->totals.overhead_ms, &player.overhead_ms);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- what is needed before the first frame ------------------------------------------------------------------------------------- */

static int check_game(const struct play *p, struct err *err) {
    struct rom_header header;
    int code = rom_header_read(p->rom.data, p->rom.len, &header, err);
    if (code) return err_context(err, "%s", p->rom_path);
    struct emulator *e;
    if ((code = emulator_open(p->rom.data, p->rom.len, NULL, &e, err))) return err_context(err, "%s", p->rom_path);
    struct memory_view memory;
    static struct world world;
    emulator_memory(e, &memory);
    world_decode(&memory, header.title, header.code, &world);
    bool supported = world.layout;
    emulator_close(e);
    if (supported) return 0;
    if (!strncmp(header.code, "B24", 3)) {
        return err_set(err, ERR_FORMAT, "%s: this is Red Rescue Team for another region (code %s); only the USA version (B24E) is supported",
                       p->rom_path, header.code);
    }
    return err_set(err, ERR_FORMAT, "%s: the game \"%s\" (code %s) is not supported; playable are Tiny Woods (TWDE, bundled) and "
                   "Pokemon Mystery Dungeon: Red Rescue Team, USA (B24E)", p->rom_path, header.title, header.code);
}

static int load_rom(struct play *p, struct err *err) {
    if (p->o.rom) snprintf(p->rom_path, sizeof p->rom_path, "%s", p->o.rom);
    else home_file(HOME_ROM, p->rom_path, sizeof p->rom_path);
    int code = file_read(p->rom_path, ROM_LIMIT, &p->rom, err);
    if (code) return err_context(err, "the ROM%s", p->o.rom ? "" : " of the bundled dungeon (PMD_HOME can name the project's folder)");
    return check_game(p, err);
}

/* What every output names as the model; NULL: none is asked. */
static const char *model_label(const struct play *p) { return p->o.policy == POLICY_MODEL ? p->model.label : NULL; }

static int start_record(struct play *p, struct err *err) {
    struct buf detail = {0}, settings = {0};
    static const char *const pictures[] = {"real", "blank", "other"};
    play_model_detail(&p->model, &detail);
    buf_printf(&settings, "{\"max_decisions\":%d,\"temperature\":%g,\"picture\":\"%s\",\"prompt\":", p->o.max_decisions, (double)p->o.temperature,
               pictures[p->o.picture]);
    buf_json_string(&settings, p->prompt_path, strlen(p->prompt_path));
    buf_char(&settings, '}');
    struct run_options o = {.folder = p->o.record, .policy = policy_name[p->o.policy], .model = model_label(p),
                            .model_detail = detail.data, .settings = settings.data, .rom_path = p->rom_path, .rom = p->rom.data,
                            .rom_bytes = p->rom.len, .seed = p->o.seed, .episodes = p->o.episodes};
    int code = detail.failed || settings.failed ? err_set(err, ERR_MEMORY, "out of memory") : run_create(&o, &p->run.run, err);
    buf_free(&detail);
    buf_free(&settings);
    return code;
}

static int start_view(struct play *p, struct err *err) {
    bool bar = p->o.json || p->o.jobs > 1;
    struct term_view_options o = {.kind = bar ? VIEW_BAR : VIEW_AUTO, .fd = bar ? 2 : 1, .episodes = p->o.episodes,
                                  .title = model_label(p) ? model_label(p) : policy_name[p->o.policy]};
    if (!(p->view = term_view_open(&o))) return err_set(err, ERR_MEMORY, "out of memory for the view");
    p->watched = p->film.video || (!bar && isatty(1));
    if (bar || !isatty(1)) p->o.speed = 0;
    return 0;
}

static int run_games(struct play *p, struct err *err) {
    if (p->o.jobs == 1) return play_games(p), 0;
    pthread_t *threads = calloc((size_t)p->o.jobs, sizeof *threads);
    if (!threads) return err_set(err, ERR_MEMORY, "out of memory for %d games", p->o.jobs);
    int started = 0;
    while (started < p->o.jobs && pthread_create(&threads[started], NULL, play_games, p) == 0) started++;
    for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
    free(threads);
    return started ? 0 : err_set(err, ERR_STATE, "no thread could be started");
}

static int play_all(struct play *p, struct err *err) {
    int code;
    if (p->o.prompt) snprintf(p->prompt_path, sizeof p->prompt_path, "%s", p->o.prompt);
    else home_file(HOME_PROMPT, p->prompt_path, sizeof p->prompt_path);
    if ((code = load_rom(p, err))) return code;
    if (p->o.policy == POLICY_MODEL && (code = play_model_open(&p->o, &stop, &p->model, err))) return code;
    if (p->o.video && (code = video_open(p->o.video, &p->film.video, err))) return code;
    if (!p->o.no_record && (code = start_record(p, err))) return code;
    if ((code = start_view(p, err))) return code;
    p->run.stop = p->film.stop = &stop;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    return run_games(p, err);
}

static int print_report(struct play *p, const char *run_folder) {
    static const char *const pictures[] = {NULL, "a blank", "another dungeon's"};
    struct report_header h = {.policy = policy_name[p->o.policy], .seed = p->o.seed, .asked = p->o.episodes, .run_folder = run_folder, .watched = p->watched,
                              .model = model_label(p), .picture = pictures[p->o.picture]};
    struct buf out = {0};
    if (p->o.json) report_json(&p->totals, &h, &out);
    else report_text(&p->totals, &h, &out);
    int bad = out.failed || fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout);
    buf_free(&out);
    if (bad) fputs("pmd-agent play: the result could not be written\n", stderr);
    return bad;
}

int cmd_play(int argc, char **argv) {
    static struct play play;
    struct play *p = &play;
    struct err err = {0}, later = {0};
    char folder[PATH_MAX] = "";
    *p = (struct play){0};
    stop = false;
    int status = play_options_parse(argc, argv, &p->o);
    if (status) return status == 1 ? 0 : status;
    pthread_mutex_init(&p->lock, NULL);
    int code = play_all(p, &err);
    bool stopped = stop && !p->err.code && !p->run.code && !p->film.code;
    if (!code && p->err.code) code = p->err.code, err = p->err;

    term_view_close(p->view);
    if (p->run.run) snprintf(folder, sizeof folder, "%s", run_folder(p->run.run));
    if (!code && p->run.code) code = p->run.code, err = p->run.err;
    if (p->run.run && run_finish(p->run.run, &later) && !code) code = later.code, err = later;
    if (!code && p->film.code) code = p->film.code, err = p->film.err;
    if (video_close(p->film.video, !code, &later) && !code) code = later.code, err = later;
    if (p->totals.episodes && print_report(p, *folder ? folder : NULL) && !code) code = ERR_IO;
    if (code && *err.message) fprintf(stderr, "pmd-agent play: %s\n", err.message);
    if (!code && stopped) fprintf(stderr, "pmd-agent play: stopped%s%s\n", *folder ? "; the record is complete up to here: " : "", folder);
    play_model_close(&p->model);
    totals_free(&p->totals);
    buf_free(&p->rom);
    pthread_mutex_destroy(&p->lock);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    return code ? 1 : stopped ? 130 : 0;
}
