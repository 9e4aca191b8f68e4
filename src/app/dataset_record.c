/* Records episodes with any number of worker processes. Each worker is a process (fork before anything is loaded) with its own
 * emulator, agent and model, and its own output files; worker j plays the seeds S + j, S + j + J, ...: what is recorded depends on
 * the settings alone, not on timing. The parent shows progress from counters in shared memory. */
#include "app/dataset_record.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/scene.h"
#include "base/clock.h"
#include "base/file.h"
#include "record/dataset.h"
#include "record/pack.h"

enum { MAX_JOBS = 256 };

/* One worker's line in shared memory; written by it alone. */
struct counters {
    _Atomic int episodes, cleared;
    _Atomic long long decisions, kept, oracle_agrees, oracle_asked;
    _Atomic int code;
    char message[1000];
};

struct sink {
    const struct record_settings *s;
    struct counters *counters;
    struct pack_writer *pack;
    struct dataset_writer *plain;
    uint32_t seed;
    int code;
    struct err err;
};

static void on_begin(void *user, uint32_t seed, struct emulator *e) {
    (void)e;
    ((struct sink *)user)->seed = seed;
}

/* The actions offered to a model here, by name; returns how many. */
static int offered_names(const struct step *s, const char *names[ACTION_COUNT]) {
    bool offered[ACTION_COUNT];
    int n = 0;
    scene_offers(&s->seen->now, scene_of(s->world), offered);
    for (int a = 0; a < ACTION_COUNT; a++) {
        if (offered[a]) names[n++] = action_name[a];
    }
    return n;
}

static void on_step(void *user, const struct step *s) {
    struct sink *k = user;
    if (k->code) return;
    const struct world *w = s->seen ? &s->seen->now : s->world;
    const char *by = decided_by_name[s->decided_by];
    bool kept = true;
    if (k->pack) {
        const char *names[ACTION_COUNT];
        int count = s->actions ? s->action_count : offered_names(s, names);
        struct pack_entry entry = {.seed = k->seed, .episode_step = s->number, .floor = w ? w->floor : 0, .scene = s->scene, .prompt = s->prompt,
                                   .action = s->action, .decided_by = by, .oracle_action = s->oracle_action,
                                   .actions = s->actions ? s->actions : names, .action_count = count};
        k->code = pack_add(k->pack, s->frame, &entry, &k->err);
    } else {
        char notes[300];
        snprintf(notes, sizeof notes, "decided by %s%s%s", by, s->reason && s->reason[0] ? ": " : "", s->reason ? s->reason : "");
        struct dataset_entry entry = {.seed = k->seed, .step = s->number, .rgb = s->frame, .world = s->world, .action = s->action, .presses = s->presses,
                                      .press_count = s->press_count, .scene = s->scene, .oracle_action = s->oracle_action, .prompt = s->prompt,
                                      .notes = notes};
        k->code = dataset_add(k->plain, &entry, &kept, &k->err);
    }
    if (k->code && k->s->stop) *k->s->stop = true;
    k->counters->decisions++;
    k->counters->kept += kept;
    if (s->oracle_action) {
        k->counters->oracle_asked++;
        k->counters->oracle_agrees += strcmp(s->oracle_action, s->action) == 0;
    }
}

int worker_open(const struct record_settings *s, const struct agent_events *events, bool draw_all, struct worker *w, struct err *err) {
    *w = (struct worker){0};
    int code = emulator_open(s->rom.data, s->rom.len, NULL, &w->emulator, err);
    if (!code && s->policy == POLICY_MODEL) {
        struct qvl_options options = {.device = "cpu", .threads = 1};
        code = qvl_load(s->model_folder, &options, &w->model, err);
    }
    struct agent_options options = {.policy = s->policy, .model = w->model, .prompt_file = s->prompt_file, .max_decisions = s->max_decisions,
                                    .greedy = s->temperature <= 0, .temperature = s->temperature, .epsilon = s->epsilon, .mix = s->mix,
                                    .ask_oracle = true, .make_prompt = true, .draw_all = draw_all, .stop = s->stop, .events = events};
    if (!code) code = agent_new(w->emulator, &options, &w->agent, err);
    if (code) worker_close(w);
    return code;
}

void worker_close(struct worker *w) {
    if (w->agent) agent_free(w->agent);
    if (w->model) qvl_unload(w->model);
    if (w->emulator) emulator_close(w->emulator);
    *w = (struct worker){0};
}

static int work(struct record_settings *s, int job, struct counters *counters, struct err *err) {
    char prefix[PATH_MAX];
    struct sink sink = {.s = s, .counters = counters};
    struct worker w = {0};
    struct agent_events events[] = {{.user = &sink, .episode_begun = on_begin, .step_done = on_step}, {0}};
    int code;
    if (s->packed) {
        snprintf(prefix, sizeof prefix, "%.*s.%d", PATH_MAX - 20, s->out, job);
        code = pack_create(prefix, &sink.pack, err);
    } else {
        code = dataset_create(s->out, job, &sink.plain, err);
    }
    if (!code) code = worker_open(s, events, false, &w, err);
    for (int i = job; !code && i < s->episodes && !*s->stop; i += s->jobs) {
        struct episode_result result = {0};
        code = agent_play_episode(w.agent, s->seed + (uint32_t)i, &result, err);
        if (!code && sink.code) {
            code = sink.code;
            if (err) *err = sink.err;
        }
        if (code || result.outcome == OUTCOME_STOPPED) break;
        counters->episodes++;
        counters->cleared += result.outcome == OUTCOME_CLEARED;
    }
    worker_close(&w);
    struct err close_err = {0};
    int close_code = s->packed ? pack_close(sink.pack, &close_err) : dataset_close(sink.plain, &close_err);
    if (!code && close_code) {
        code = close_code;
        if (err) *err = close_err;
    }
    return code;
}

/* Redrawn in place on a terminal; elsewhere a line every tenth (*tenth: the last one said). */
static void progress(const struct record_settings *s, const struct counters *c, double started, bool last, int *tenth) {
    int episodes = 0, cleared = 0;
    long long decisions = 0, kept = 0, asked = 0, agrees = 0;
    for (int j = 0; j < s->jobs; j++) {
        episodes += c[j].episodes, cleared += c[j].cleared;
        decisions += c[j].decisions, kept += c[j].kept, asked += c[j].oracle_asked, agrees += c[j].oracle_agrees;
    }
    double elapsed = clock_seconds() - started;
    bool terminal = isatty(2) == 1;
    if (!terminal && !last && (10 * episodes / s->episodes == *tenth || episodes == s->episodes)) return;
    *tenth = 10 * episodes / s->episodes;
    char eta[32] = "";
    if (!last && episodes) {
        long left = (long)(elapsed / episodes * (s->episodes - episodes));
        snprintf(eta, sizeof eta, ", ETA %ld:%02ld", left / 60, left % 60);
    }
    fprintf(stderr, "%s%d/%d episodes, %d cleared, %lld decisions, %lld kept, %.0f decisions/s, oracle agrees with %.1f %%%s%s", terminal ? "\r\033[K" : "",
            episodes, s->episodes, cleared, decisions, kept, elapsed > 0 ? (double)decisions / elapsed : 0,
            asked ? 100.0 * (double)agrees / (double)asked : 0, eta, last || !terminal ? "\n" : "");
}

/* Waits for the workers; returns the first failure. */
static int supervise(struct record_settings *s, const pid_t *pids, struct counters *c, double started, struct err *err) {
    int code = 0, running = s->jobs;
    pid_t left[MAX_JOBS];
    bool told = false;
    int tenth = 0;
    memcpy(left, pids, sizeof *pids * (size_t)s->jobs);
    while (running) {
        for (int j = 0; j < s->jobs; j++) {
            int status;
            if (left[j] <= 0 || waitpid(left[j], &status, WNOHANG) == 0) continue;
            left[j] = 0;
            running--;
            if (c[j].code && !code) code = err_set(err, c[j].code, "worker %d: %s", j, c[j].message);
            else if (WIFSIGNALED(status) && !code) code = err_set(err, ERR_STATE, "worker %d was ended by signal %d", j, WTERMSIG(status));
        }
        /* One failure, or Ctrl-C, ends all: they finish their records. */
        for (int k = 0; (code || *s->stop) && !told && k < s->jobs; k++) {
            if (left[k] > 0) kill(left[k], SIGTERM);
        }
        told = code || *s->stop;
        progress(s, c, started, false, &tenth);
        if (running) nanosleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000}, NULL);
    }
    progress(s, c, started, true, &tenth);
    return code;
}

int dataset_record_episodes(struct record_settings *s, struct err *err) {
    if (s->jobs > MAX_JOBS) return err_set(err, ERR_ARGUMENT, "--jobs %d: at most %d", s->jobs, MAX_JOBS);
    if (s->jobs > s->episodes) s->jobs = s->episodes;
    if (!s->packed) {
        char manifest[PATH_MAX];
        snprintf(manifest, sizeof manifest, "%.*s/manifest.jsonl", PATH_MAX - 20, s->out);
        if (file_exists(manifest)) return err_set(err, ERR_STATE, "%s: exists already; a data set is never written over: name another folder", manifest);
    }
    size_t bytes = sizeof(struct counters) * (size_t)s->jobs;
    struct counters *c = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (c == MAP_FAILED) return err_set(err, ERR_MEMORY, "out of memory");
    double started = clock_seconds();
    pid_t pids[MAX_JOBS] = {0}, parent = getpid();
    int code = 0, forked = 0;
    for (int j = 0; j < s->jobs && !code; j++) {
        pids[j] = fork();
        if (pids[j] < 0) code = err_set(err, ERR_STATE, "cannot start worker %d: %s", j, strerror(errno));
        else forked++;
        if (pids[j] != 0) continue;
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* a worker without its parent finishes its record and ends */
        if (getppid() != parent) _exit(1);
        struct err own = {0};
        int result = work(s, j, &c[j], &own);
        snprintf(c[j].message, sizeof c[j].message, "%s", own.message);
        c[j].code = result;
        _exit(result ? 1 : 0);
    }
    if (code) {
        for (int j = 0; j < forked; j++) kill(pids[j], SIGTERM), waitpid(pids[j], NULL, 0);
    } else {
        code = supervise(s, pids, c, started, err);
    }
    if (!s->packed && !code) {
        int64_t entries, repeats;
        code = dataset_merge(s->out, s->jobs, &entries, &repeats, err);
        if (!code) fprintf(stderr, "%s: %lld entries (%lld repeats between workers left out)\n", s->out, (long long)entries, (long long)repeats);
    }
    munmap(c, bytes);
    if (!code && *s->stop) return err_set(err, ERR_CANCELLED, "stopped; what was recorded is kept");
    return code;
}
