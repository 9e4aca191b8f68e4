/* Runs `pmd-agent play` in child processes and takes what they recorded over into the results. */
#include "app/eval.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "app/commands.h"
#include "base/clock.h"
#include "base/energy.h"
#include "base/file.h"
#include "record/run.h"

enum { MAX_JOBS = 64, MAX_WORDS = 128 };

/* One process at work. */
struct game {
    pid_t pid; /* 0: none */
    uint32_t first;
    int count;
    char folder[PATH_MAX - 8], log[PATH_MAX];
};

struct work {
    struct eval_results *r;
    const struct eval_work *w;
    struct game games[MAX_JOBS];
    int setting;
};

/* ---- what a run holds ---- */

static int remove_entry(const char *path, const struct stat *s, int type, struct FTW *f) {
    (void)s, (void)type, (void)f;
    return remove(path);
}
static void remove_folder(const char *path) { nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS); }

/* What is gathered of an episode line by line. */
struct gather {
    struct eval_episode e;
    struct buf presses; /* struct key_press */
    uint64_t position;  /* frames since the start state */
    int floor, most_left, least_left, turns_before;
};

static void press(struct gather *g, unsigned keys, uint64_t frames) {
    g->position += frames;
    for (; frames; ) {
        struct key_press p = {(uint16_t)keys, (uint16_t)(frames > UINT16_MAX ? UINT16_MAX : frames)};
        buf_append(&g->presses, &p, sizeof p);
        frames -= p.frames;
    }
}

static void gather_line(struct gather *g, const struct run_episode *episode, const struct run_line *line) {
    int floor = (int)json_as_integer(json_get(line->json, "floor"), 0), left = (int)json_as_integer(json_get(line->json, "turns_left"), 0);
    uint64_t at = line->first_frame - episode->start_frame;
    if (line->first_frame >= episode->start_frame && at > g->position) press(g, 0, at - g->position);
    if (floor > g->floor) {
        g->turns_before += g->most_left - g->least_left;
        g->most_left = g->least_left = 0;
        if (floor > 1 && g->e.mark_count < EVAL_MARKS - 1) /* the last place is for the end */
            g->e.marks[g->e.mark_count++] = (struct eval_mark){floor, (int)line->step, g->turns_before, g->position, g->e.seconds};
        g->floor = floor;
    }
    if (left > 0) {
        if (left > g->most_left) g->most_left = left;
        if (!g->least_left || left < g->least_left) g->least_left = left;
    }
    g->e.seconds += json_as_number(json_get(json_get(line->json, "ms"), "total"), 0) / 1e3;
    for (int i = 0; i < line->press_count; i++) press(g, line->presses[i].keys, line->presses[i].frames);
}

/* The end record of an episode (episodes.jsonl); NULL when there is none. */
static const struct json *end_record(const char *folder, int number, struct arena *a) {
    char path[PATH_MAX];
    struct buf text = {0};
    const struct json *found = NULL;
    snprintf(path, sizeof path, "%.*s/episodes.jsonl", PATH_MAX - 20, folder);
    if (file_read(path, 256 << 20, &text, NULL)) return buf_free(&text), NULL;
    char *save, *line = text.data ? strtok_r(text.data, "\n", &save) : NULL;
    for (; line && !found; line = strtok_r(NULL, "\n", &save)) {
        const struct json *j = json_parse(line, strlen(line), path, a, NULL);
        if (j && json_as_integer(json_get(j, "episode"), 0) == number && !strcmp(json_as_string(json_get(j, "event"), ""), "end")) found = j;
    }
    buf_free(&text);
    return found;
}

static int finish_episode(struct work *k, struct gather *g, const char *folder, const struct run_episode *episode, struct err *err) {
    struct arena a = {0};
    struct eval_episode *e = &g->e;
    const struct json *j = end_record(folder, episode->number, &a);
    int code = j && episode->end_hash ? 0 : err_set(err, ERR_FORMAT, "%s: episode %d has no end record", folder, episode->number);
    if (!code && episode->end_frame > episode->start_frame && episode->end_frame - episode->start_frame > g->position)
        press(g, 0, episode->end_frame - episode->start_frame - g->position);
    if (!code) {
        snprintf(e->outcome, sizeof e->outcome, "%s", episode->outcome);
        snprintf(e->cause, sizeof e->cause, "%s", episode->cause);
        memcpy(e->start_hash, episode->start_hash, 33);
        memcpy(e->end_hash, episode->end_hash, 33);
        e->seed = episode->seed;
        e->setting = k->setting;
        e->floor_reached = (int)json_as_integer(json_get(j, "floor_reached"), 0);
        e->turns = (int)json_as_integer(json_get(j, "turns"), 0);
        e->decisions = (int)json_as_integer(json_get(j, "decisions"), 0);
        for (int i = 0; i < DECIDED_BY_COUNT; i++) e->decided[i] = (int)json_as_integer(json_get(json_get(j, "decided_by"), decided_by_name[i]), 0);
        e->tokens = json_as_integer(json_get(j, "tokens"), 0);
        e->seconds = json_as_number(json_get(j, "seconds"), e->seconds);
        e->model_seconds = json_as_number(json_get(j, "model_seconds"), 0);
        e->emulator_seconds = json_as_number(json_get(j, "emulator_seconds"), 0);
        if (!strcmp(e->outcome, "cleared")) e->marks[e->mark_count++] = (struct eval_mark){0, e->decisions, e->turns, g->position, e->seconds};
        code = g->presses.failed ? err_set(err, ERR_MEMORY, "out of memory for the presses") : 0;
    }
    if (!code) code = eval_presses_pack((const struct key_press *)(void *)g->presses.data, g->presses.len / sizeof(struct key_press), &e->presses, err);
    if (!code) code = eval_results_add(k->r, e, err);
    free(e->presses);
    arena_free(&a);
    return code;
}

/* Takes the ended episodes of a run over; a run that is missing or was cut off has fewer. */
static int harvest(struct work *k, const char *folder, struct err *err) {
    struct run_reader *run;
    const struct run_episode *episodes;
    if (run_open(folder, &run, err)) return err->code == ERR_MISSING ? 0 : err->code;
    int count = run_reader_episodes(run, &episodes), present = 0, code = 0, got = 1;
    struct run_line *line = malloc(sizeof *line);
    struct gather *g = calloc(1, sizeof *g);
    if (!line || !g) code = err_set(err, ERR_MEMORY, "out of memory");
    while (!code && got > 0) {
        got = run_next(run, line, NULL, err);
        if (got < 0) code = got;
        int episode = got > 0 ? line->episode : count + 1;
        while (!code && present < episode) {
            const struct run_episode *e = present ? &episodes[present - 1] : NULL;
            if (e && e->ended && strcmp(e->outcome, "stopped") && !eval_results_have(k->r, k->setting, e->seed)) code = finish_episode(k, g, folder, e, err);
            buf_free(&g->presses);
            *g = (struct gather){0};
            present++;
        }
        if (!code && got > 0) gather_line(g, &episodes[present - 1], line);
    }
    if (g) buf_free(&g->presses);
    free(g);
    free(line);
    run_close(run);
    return code;
}

/* ---- processes ---- */

/* Splits options at spaces; "..." keeps them together. */
static int split(char *text, char **words, int room) {
    int n = 0;
    for (char *from = text, *to; *from && n < room;) {
        while (*from == ' ') from++;
        if (!*from) break;
        words[n++] = to = from;
        for (bool quoted = false; *from && (quoted || *from != ' '); from++) {
            if (*from == '"') quoted = !quoted;
            else *to++ = *from;
        }
        if (*from) from++;
        *to = 0;
    }
    return n;
}

/* In the child: play, with standard output and error in the log. */
static void become_play(struct work *k, struct game *g) {
    char seed[16], count[16], threads[16], *words[MAX_WORDS] = {"play"}, *options = strdup(k->r->settings[k->setting].options);
    int null = open("/dev/null", O_RDONLY), log = open(g->log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nothing goes on when the evaluation is killed */
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (!options || null < 0 || log < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) _exit(3);
    int n = 1 + split(options, words + 1, MAX_WORDS - 16);
    snprintf(seed, sizeof seed, "%u", g->first);
    snprintf(count, sizeof count, "%d", g->count);
    char *more[] = {"--seed", seed, "--episodes", count, "--record", g->folder, "--json"};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) words[n++] = more[i];
    if (k->w->jobs > 1 && !strstr(k->r->settings[k->setting].options, "--threads")) { /* processes that all take all cores hold each other up */
        snprintf(threads, sizeof threads, "%ld", sysconf(_SC_NPROCESSORS_ONLN) > k->w->jobs ? sysconf(_SC_NPROCESSORS_ONLN) / k->w->jobs : 1);
        words[n++] = "--threads", words[n++] = threads;
    }
    if (k->w->rom) words[n++] = "--rom", words[n++] = (char *)k->w->rom;
    words[n] = NULL;
    int status = cmd_play(n, words);
    fflush(NULL);
    _exit(status);
}

static int start_game(struct work *k, struct game *g, uint32_t first, int count, struct err *err) {
    const char *name = k->r->settings[k->setting].name;
    g->first = first;
    g->count = count;
    snprintf(g->folder, sizeof g->folder, "%.*s/%s-%u", PATH_MAX / 2, k->w->runs, name, first);
    for (int n = 2; file_exists(g->folder); n++) snprintf(g->folder, sizeof g->folder, "%.*s/%s-%u.%d", PATH_MAX / 2, k->w->runs, name, first, n);
    size_t length = strlen(g->folder); /* log has room for the ending: see struct game */
    memcpy(g->log, g->folder, length);
    memcpy(g->log + length, ".log", sizeof ".log");
    fflush(NULL);
    g->pid = fork();
    if (g->pid == 0) become_play(k, g);
    if (g->pid > 0) return 0;
    g->pid = 0;
    return err_set(err, ERR_STATE, "no process could be started: %s", strerror(errno));
}

/* The last line that the process said. */
static void last_words(const char *path, char out[300]) {
    struct buf text = {0};
    snprintf(out, 300, "it said nothing");
    if (!file_read(path, 16 << 20, &text, NULL) && text.len) {
        char *end = text.data + text.len;
        while (end > text.data && (end[-1] == '\n' || end[-1] == '\r')) *--end = 0;
        char *line = end;
        while (line > text.data && line[-1] != '\n' && line[-1] != '\r') line--;
        snprintf(out, 300, "%s", line);
    }
    buf_free(&text);
}

static void say_progress(const struct work *k) {
    int done = 0, cleared = 0;
    for (int i = 0; i < k->r->episode_count; i++) {
        if (k->r->episodes[i].setting != k->setting) continue;
        done++;
        cleared += !strcmp(k->r->episodes[i].outcome, "cleared");
    }
    fprintf(stderr, "%s: %d of %d played, %d cleared\n", k->r->settings[k->setting].name, done, k->r->seed_count, cleared);
}

/* A process has ended with this wait status. */
static int end_game(struct work *k, struct game *g, int status, struct err *err) {
    char words[300];
    int code = harvest(k, g->folder, err), missing = 0;
    for (int i = 0; i < g->count; i++) missing += !eval_results_have(k->r, k->setting, g->first + (uint32_t)i);
    g->pid = 0;
    if (code) return code;
    if (!k->w->quiet) say_progress(k);
    if (missing && !*k->w->stop) {
        last_words(g->log, words);
        return WIFSIGNALED(status) ? err_set(err, ERR_STATE, "%s, seeds from %u: play was ended by signal %d; %s (%s)", k->r->settings[k->setting].name,
                                             g->first, WTERMSIG(status), words, g->log)
                                   : err_set(err, ERR_STATE, "%s, seeds from %u: play ended with status %d; %s (%s)", k->r->settings[k->setting].name,
                                             g->first, WEXITSTATUS(status), words, g->log);
    }
    if (!k->w->keep_runs) {
        remove_folder(g->folder);
        remove(g->log);
    }
    return 0;
}

/* Seeds of this setting from *seed on that are still to be played, at most a chunk; 0: none. */
static int next_seeds(const struct work *k, uint32_t *seed, uint32_t *first) {
    uint32_t end = k->r->seed_first + (uint32_t)k->r->seed_count;
    while (*seed < end && eval_results_have(k->r, k->setting, *seed)) ++*seed;
    *first = *seed;
    int n = 0;
    while (*seed < end && n < k->w->chunk && !eval_results_have(k->r, k->setting, *seed)) ++*seed, n++;
    return n;
}

static int reap(struct work *k, int *running, struct err *err) {
    int code = 0;
    for (int i = 0; i < k->w->jobs; i++) {
        struct game *g = &k->games[i];
        int status;
        struct err why = {0};
        if (!g->pid || waitpid(g->pid, &status, WNOHANG) != g->pid) continue;
        --*running;
        int r = end_game(k, g, status, &why);
        if (r && !code) code = r, *err = why;
    }
    return code;
}

/* What a killed evaluation left: its ended episodes count, the rest is played again. */
static void gather_left(struct work *k) {
    char folder[PATH_MAX];
    for (uint32_t i = 0; i < (uint32_t)k->r->seed_count; i++) {
        snprintf(folder, sizeof folder, "%.*s/%s-%u", PATH_MAX / 2, k->w->runs, k->r->settings[k->setting].name, k->r->seed_first + i);
        if (!file_exists(folder)) continue;
        struct err why;
        if (harvest(k, folder, &why) && !k->w->quiet) fprintf(stderr, "%s: played again (%s)\n", folder, why.message); /* torn by the kill */
        if (!k->w->keep_runs) remove_folder(folder);
    }
}

static int play_setting(struct work *k, struct energy_meter *meter, struct err *err) {
    uint32_t seed = k->r->seed_first, first = 0;
    int running = 0, code = 0, n = 0;
    double start = clock_seconds(), joules = energy_read(meter);
    bool worked = false, told = false;
    gather_left(k);
    for (;;) {
        for (int i = 0; i < k->w->jobs && !code && !*k->w->stop; i++) {
            if (k->games[i].pid) continue;
            if (!(n = next_seeds(k, &seed, &first))) break;
            code = start_game(k, &k->games[i], first, n, err);
            running += !code;
            worked = true;
        }
        if (!running) break;
        for (int i = 0; (code || *k->w->stop) && !told && i < k->w->jobs; i++) /* the others are to finish their records */
            if (k->games[i].pid) kill(k->games[i].pid, SIGTERM);
        told = told || code || *k->w->stop;
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        energy_read(meter);
        struct err why = {0};
        int r = reap(k, &running, &why);
        if (r && !code) code = r, *err = why;
    }
    struct eval_energy e = {k->setting, energy_read(meter) - joules, clock_seconds() - start};
    if (worked && !code) code = eval_results_add_energy(k->r, &e, err);
    return code;
}

int eval_play(struct eval_results *r, const struct eval_work *w, struct err *err) {
    struct work *k = calloc(1, sizeof *k);
    struct energy_meter meter;
    if (!k) return err_set(err, ERR_MEMORY, "out of memory");
    *k = (struct work){.r = r, .w = w};
    energy_open(&meter, NULL);
    int code = file_make_folders(w->runs, err);
    for (k->setting = 0; !code && !*w->stop && k->setting < r->setting_count; k->setting++) code = play_setting(k, &meter, err);
    energy_close(&meter);
    free(k);
    if (!w->keep_runs) rmdir(w->runs); /* when nothing is left in it */
    return code ? code : *w->stop ? err_set(err, ERR_CANCELLED, "stopped; the same command goes on from here") : 0;
}
