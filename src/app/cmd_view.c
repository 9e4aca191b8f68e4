/* pmd-agent view RUN: the dashboard without a live agent. Each run (a run set has one a game) has a thread of its own, which owns the emulator:
 * it makes the steps that the page asks for, and plays on from one when told to. */
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/control.h"
#include "app/commands.h"
#include "app/run_player.h"
#include "record/run_set.h"
#include "serve/http.h"

enum { MOST_WAITING = 256 };

struct wish { /* a step that a client waits for */
    struct http_exchange *x;
    uint32_t index;
    bool picture;
};

struct viewer;

struct shown { /* one run */
    struct viewer *viewer;
    int number;
    struct run_player *player;
    struct control *pace;
    pthread_t thread;
    bool started;
    uint32_t at;          /* the step it plays */
    struct wish wishes[MOST_WAITING];
    int wish_count;
    bool playing, one_step; /* one_step: stop at the next */
    bool moved;           /* `at` was set by a client */
};

struct viewer {
    struct dash *dash;
    pthread_mutex_t lock; /* all of the runs' wishes and what they play */
    pthread_cond_t changed;
    volatile bool stop;
    double speed;
    int count;
    struct shown runs[];
};

/* ---- what the page asks for: service thread ------------------------------------------------------------------------------------------ */

static void set_playing(struct viewer *v, bool playing, bool one_step) {
    pthread_mutex_lock(&v->lock);
    for (int i = 0; i < v->count; i++) {
        struct shown *s = &v->runs[i];
        if (!run_player_has_game(s->player)) continue;
        bool at_end = s->at + 1 >= run_player_steps(s->player);
        if (playing && at_end && !s->moved) s->at = 0, s->moved = true; /* once more from the start */
        s->playing = playing;
        s->one_step = one_step;
    }
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
}

static void on_pause(void *user, bool paused) { set_playing(user, !paused, false); }
static void on_step(void *user) { set_playing(user, true, true); }
static void on_speed(void *user, double times) {
    struct viewer *v = user;
    pthread_mutex_lock(&v->lock);
    v->speed = times;
    pthread_mutex_unlock(&v->lock);
    for (int i = 0; i < v->count; i++) control_speed(v->runs[i].pace, times);
}
static void on_seek(void *user, int game, uint32_t index) {
    struct viewer *v = user;
    pthread_mutex_lock(&v->lock);
    v->runs[game].at = index;
    v->runs[game].moved = true;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
}
static void on_status(void *user, struct buf *out) {
    struct viewer *v = user;
    bool playing = false;
    pthread_mutex_lock(&v->lock);
    for (int i = 0; i < v->count; i++) playing |= v->runs[i].playing;
    buf_printf(out, "\"paused\":%s,\"speed\":%g", playing ? "false" : "true", v->speed);
    pthread_mutex_unlock(&v->lock);
}

static void on_fetch(void *user, struct http_exchange *x, int game, uint32_t index, bool picture) {
    struct viewer *v = user;
    struct shown *s = &v->runs[game];
    pthread_mutex_lock(&v->lock);
    bool taken = !v->stop && s->wish_count < MOST_WAITING;
    if (taken) s->wishes[s->wish_count++] = (struct wish){x, index, picture};
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
    if (!taken) http_error(x, 503, "server_error", NULL, "too many steps are asked for at once");
}

/* ---- the run's thread ----------------------------------------------------------------------------------------------------------------- */

static void answer(struct shown *s, const struct wish *w) {
    struct err err = {0};
    struct buf line = {0};
    int code = run_player_go(s->player, w->index, &err);
    if (!code && !w->picture) code = run_player_line(s->player, w->index, &line, &err);
    if (code) http_error(w->x, 500, "server_error", NULL, "%s", err.message);
    else if (!w->picture) dash_answer_step(w->x, s->number, w->index, line.data, run_player_world(s->player), run_player_seen(s->player));
    else if (run_player_picture(s->player)) dash_answer_picture(w->x, s->number, run_player_picture(s->player), w->index);
    else http_error(w->x, 404, "invalid_request_error", "index", "no picture was kept at or before this step");
    buf_free(&line);
}

static bool show_frame(void *user, const uint8_t *rgb, uint64_t number) {
    struct shown *s = user;
    struct viewer *v = s->viewer;
    dash_picture(v->dash, s->number, rgb, number);
    control_gate(s->pace, number, true, &v->stop);
    pthread_mutex_lock(&v->lock);
    bool go_on = s->playing && !s->moved && s->wish_count == 0 && !v->stop;
    pthread_mutex_unlock(&v->lock);
    return go_on;
}

static int show_step(struct shown *s, uint32_t index, struct err *err) {
    struct buf line = {0};
    int code = run_player_go(s->player, index, err);
    if (!code) code = run_player_line(s->player, index, &line, err);
    if (!code) dash_show_step(s->viewer->dash, s->number, index, line.data, run_player_world(s->player), run_player_seen(s->player));
    buf_free(&line);
    return code;
}

/* Plays to the next step, over the end of an episode to the first of the next. */
static void play_on(struct shown *s) {
    struct viewer *v = s->viewer;
    struct err err = {0};
    bool arrived = false;
    int code = show_step(s, s->at, &err);
    if (!code) code = run_player_play(s->player, show_frame, s, &arrived, &err);
    pthread_mutex_lock(&v->lock);
    bool cut = !s->playing || s->moved || s->wish_count > 0 || v->stop;
    bool last = s->at + 1 >= run_player_steps(s->player), ends = code || (!cut && last);
    if (!s->moved && !code && !last && (arrived || !cut)) s->at++;
    uint32_t at = s->at;
    if (ends || (s->one_step && !cut)) s->playing = s->one_step = false, ends = true;
    pthread_mutex_unlock(&v->lock);
    if (!code && ends) code = show_step(s, at, &err);
    if (code) fprintf(stderr, "pmd-agent view: %s\n", err.message);
    if (ends) dash_status(v->dash, true);
}

static void *show_run(void *user) {
    struct shown *s = user;
    struct viewer *v = s->viewer;
    pthread_mutex_lock(&v->lock);
    while (!v->stop) {
        if (s->wish_count) {
            struct wish w = s->wishes[0];
            memmove(s->wishes, s->wishes + 1, (size_t)--s->wish_count * sizeof w);
            pthread_mutex_unlock(&v->lock);
            answer(s, &w);
            pthread_mutex_lock(&v->lock);
        } else if (s->playing) {
            s->moved = false;
            pthread_mutex_unlock(&v->lock);
            play_on(s);
            pthread_mutex_lock(&v->lock);
        } else {
            pthread_cond_wait(&v->changed, &v->lock);
        }
    }
    for (int i = 0; i < s->wish_count; i++) http_error(s->wishes[i].x, 503, "server_error", NULL, "the program ends");
    s->wish_count = 0;
    pthread_mutex_unlock(&v->lock);
    return NULL;
}

/* ---- the command ---------------------------------------------------------------------------------------------------------------------- */

static int usage(FILE *to, int status) {
    fputs("usage: pmd-agent view RUN [--rom FILE] [--port N]\n"
          "Shows a recorded run in the browser: the same page that `play` offers, without a live agent. Every step can be scrubbed to and\n"
          "played from: pictures and map are made again in the emulator from the recorded presses (nothing is asked of any model).\n"
          "A folder of several games (play --games N) is shown as a wall of tiles.\n"
          "  --rom FILE   the ROM, when it is not where the run says; without one only the key frames can be shown\n"
          "  --port N     default: 8717, or the next free one\n"
          "Ctrl-C ends it.\n",
          to);
    return status;
}

static void put_text(struct buf *b, const char *key, const char *text) {
    if (!text) return;
    buf_printf(b, ",\"%s\":", key);
    buf_json_string(b, text, strlen(text));
}

static void describe(const struct viewer *v, const char *folder, const char *why, struct buf *b) {
    const struct run_reader *r = run_player_reader(v->runs[0].player);
    const struct run_info *info = run_reader_info(r);
    const struct run_episode *episodes;
    int count = run_reader_episodes(r, &episodes);
    const struct json *detail = json_get(info->json, "model_detail");
    buf_str(b, "{\"recorded\":true");
    put_text(b, "policy", info->policy);
    put_text(b, "label", info->model);
    put_text(b, "run", folder);
    put_text(b, "started_at", info->started_at);
    if (*why) put_text(b, "note", "key frames only");
    if (detail && detail->type == JSON_OBJECT) {
        buf_str(b, ",\"model\":{\"recorded\":true");
        static const char *const texts[] = {"device", "kernels", "storage", "server"};
        for (int i = 0; i < 4; i++) put_text(b, texts[i], json_as_string(json_get(detail, texts[i]), NULL));
        buf_printf(b, ",\"parameters\":%lld}", (long long)json_as_integer(json_get(detail, "parameters"), 0));
    }
    buf_str(b, ",\"episodes\":[");
    for (int i = 0; i < count; i++) {
        buf_printf(b, "%s{\"episode\":%d,\"seed\":%u", i ? "," : "", episodes[i].number, episodes[i].seed);
        if (episodes[i].ended) put_text(b, "outcome", episodes[i].outcome), put_text(b, "cause", episodes[i].cause);
        buf_char(b, '}');
    }
    buf_str(b, "]}");
}

static int open_runs(struct viewer *v, const struct run_set *set, const char *rom, char *why, size_t cap, struct err *err) {
    int code = 0;
    for (int i = 0; i < v->count && !code; i++) {
        char folder[PATH_MAX];
        struct shown *s = &v->runs[i];
        s->viewer = v;
        s->number = i;
        code = run_player_open(run_set_game(set, i, folder), rom, &s->player, why, cap, err);
        if (!code && !(s->pace = control_new(v->speed))) code = err_set(err, ERR_MEMORY, "out of memory");
    }
    return code;
}

static int open_page(struct viewer *v, const char *folder, const char *why, int port, struct err *err) {
    struct buf about = {0};
    const struct run_info *info = run_reader_info(run_player_reader(v->runs[0].player));
    describe(v, folder, why, &about);
    struct dash_options o = {.port = port, .games = v->count, .recorded = true, .title = info->model ? info->model : info->policy, .about = about.data,
                             .commands = {.user = v, .seek = on_seek, .status = on_status}, .fetch = on_fetch, .fetch_user = v};
    if (!*why) o.commands.pause = on_pause, o.commands.step = on_step, o.commands.speed = on_speed;
    int code = about.failed ? err_set(err, ERR_MEMORY, "out of memory") : dash_open(&o, &v->dash, err);
    buf_free(&about);
    for (int i = 0; i < v->count && !code; i++) {
        struct shown *s = &v->runs[i];
        for (uint32_t k = 0; k < run_player_steps(s->player) && !code; k++) {
            if (dash_add_row(v->dash, i, run_player_row(s->player, k))) code = err_set(err, ERR_MEMORY, "out of memory");
        }
        if (!code && !(s->started = pthread_create(&s->thread, NULL, show_run, s) == 0)) code = err_set(err, ERR_STATE, "no thread could be started");
    }
    return code;
}

static void close_all(struct viewer *v) {
    pthread_mutex_lock(&v->lock);
    v->stop = true;
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
    for (int i = 0; i < v->count; i++) {
        if (v->runs[i].started) pthread_join(v->runs[i].thread, NULL);
    }
    dash_close(v->dash);
    for (int i = 0; i < v->count; i++) {
        run_player_close(v->runs[i].player);
        control_free(v->runs[i].pace);
    }
    pthread_mutex_destroy(&v->lock);
    pthread_cond_destroy(&v->changed);
    free(v);
}

static int view(const char *folder, const char *rom, int port, const sigset_t *ends, struct err *err) {
    struct run_set set;
    char why[1000] = "";
    int code = run_set_open(folder, &set, err), count = code ? 0 : set.games ? set.games : 1;
    if (code) return code;
    struct viewer *v = calloc(1, sizeof *v + (size_t)count * sizeof *v->runs);
    if (!v) {
        run_set_close(&set);
        return err_set(err, ERR_MEMORY, "out of memory");
    }
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->changed, NULL);
    v->speed = 1;
    v->count = count;
    code = open_runs(v, &set, rom, why, sizeof why, err);
    if (!code) code = open_page(v, folder, why, port, err);
    if (!code) {
        if (*why) fprintf(stderr, "pmd-agent view: only the key frames can be shown: %s\n", why);
        printf("%s shows %s; Ctrl-C ends it\n", dash_url(v->dash), folder);
        fflush(stdout);
        int number;
        sigwait(ends, &number);
    }
    close_all(v);
    run_set_close(&set);
    return code;
}

int cmd_view(int argc, char **argv) {
    static const struct option options[] = {{"rom", required_argument, NULL, 'r'}, {"port", required_argument, NULL, 'p'}, {"help", no_argument, NULL, 'h'}, {0}};
    const char *rom = NULL;
    char *end;
    long port = 0;
    int c;
    optind = 0;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'r') rom = optarg;
        else if (c == 'h') return usage(stdout, 0);
        else if (c == 'p' && (port = strtol(optarg, &end, 10)) > 0 && port < 65536 && !*end) continue;
        else if (c == 'p') return fprintf(stderr, "pmd-agent view: --port %s: expected a number from 1 to 65535\n", optarg), 2;
        else return usage(stderr, 2);
    }
    if (argc - optind != 1) return usage(stderr, 2);
    struct err err = {0};
    sigset_t ends, before;
    sigemptyset(&ends);
    sigaddset(&ends, SIGINT);
    sigaddset(&ends, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &ends, &before); /* all threads to come: sigwait takes them */
    int code = view(argv[optind], rom, (int)port, &ends, &err);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code) fprintf(stderr, "pmd-agent view: %s\n", err.message);
    return code ? 1 : 0;
}
