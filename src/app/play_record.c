/* The runs that a call of `play` writes: one for each game, new ones or those of an earlier process. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/play.h"
#include "base/file.h"
#include "record/hash.h"
#include "record/run_set.h"

static const char *const picture_name[] = {"real", "blank", "other"};

const char *play_model_name(const struct play *p) { return p->o.policy == POLICY_MODEL ? p->model.label : NULL; }

/* folder NULL: a new one below runs/. */
static int create_run(struct play *p, struct game *g, const char *folder, struct err *err) {
    struct buf detail = {0}, settings = {0};
    play_model_detail(&p->model, &detail);
    buf_printf(&settings, "{\"max_decisions\":%d,\"temperature\":%g,\"picture\":\"%s\",\"games\":%d,\"best_of\":%d,\"see\":\"%s\",\"upscale\":%d,"
               "\"act\":\"%s\",\"history\":%d,\"without\":[", p->o.max_decisions, (double)p->o.temperature, picture_name[p->o.picture], p->o.jobs, p->o.best_of,
               see_name[p->o.see], p->o.upscale > 1 ? p->o.upscale : 1, p->o.acting == ACT_BY_SKILLS ? "skills" : "steps", p->o.history);
    for (int i = 0, n = 0; i < PART_COUNT; i++) {
        if (!(p->o.parts >> i & 1)) buf_printf(&settings, "%s\"%s\"", n++ ? "," : "", part_name[i]);
    }
    buf_str(&settings, "],\"prompt\":");
    buf_json_string(&settings, p->prompt_path, strlen(p->prompt_path));
    buf_char(&settings, '}');
    struct run_options o = {.folder = folder, .policy = policy_name[p->o.policy], .model = play_model_name(p),
                            .model_detail = detail.data, .settings = settings.data, .arguments = p->o.arguments.data, .rom_path = p->rom_path,
                            .rom = p->rom.data, .rom_bytes = p->rom.len, .seed = p->o.seed, .episodes = p->o.episodes};
    bool failed = detail.failed || settings.failed || p->o.arguments.failed;
    int code = failed ? err_set(err, ERR_MEMORY, "out of memory") : run_create(&o, &g->run.run, err);
    buf_free(&detail);
    buf_free(&settings);
    return code;
}

static int create_runs(struct play *p, struct err *err) {
    if (p->o.jobs == 1) {
        int code = create_run(p, &p->games[0], p->o.record, err);
        if (!code) snprintf(p->folder, sizeof p->folder, "%s", run_folder(p->games[0].run.run));
        return code;
    }
    struct run_set set;
    int code = run_set_create(NULL, p->o.record, p->o.jobs, p->o.arguments.data, &set, err);
    snprintf(p->folder, sizeof p->folder, "%s", set.folder);
    for (int i = 0; i < p->o.jobs && !code; i++) {
        char folder[PATH_MAX];
        code = create_run(p, &p->games[i], run_set_game(&set, i, folder), err);
    }
    run_set_close(&set);
    return code;
}

/* ---- going on ------------------------------------------------------------------------------------------------------------------ */

/* A run goes on only with what it was begun with. */
static int check_same(const struct play *p, const char *folder, const struct run_info *info, struct err *err) {
    char hash[33];
    hash_hex(p->rom.data, p->rom.len, NULL, 0, hash);
    if (strcmp(hash, info->rom_hash)) {
        return err_set(err, ERR_FORMAT, "%s: %s is not the ROM of this run: hash %s, expected %s (%s, %s)", folder, p->rom_path, hash, info->rom_hash,
                       info->rom_title, info->rom_code);
    }
    const char *now = play_model_name(p);
    if (now && info->model && strcmp(now, info->model)) return err_set(err, ERR_STATE, "%s: the run was played by %s, now there is %s", folder, info->model, now);
    struct buf detail = {0};
    struct arena arena = {0};
    play_model_detail(&p->model, &detail);
    const struct json *is = detail.len ? json_parse(detail.data, detail.len, "model", &arena, NULL) : NULL, *was = json_get(info->json, "model_detail");
    static const char *const fields[] = {"parameters", "weight_bytes"};
    int code = 0;
    for (int i = 0; i < 2 && !code; i++) {
        int64_t a = json_as_integer(json_get(was, fields[i]), -1), b = json_as_integer(json_get(is, fields[i]), -1);
        if (a != b) code = err_set(err, ERR_STATE, "%s: the model has other %s than when the run began (%lld, recorded %lld)", folder, fields[i], (long long)b, (long long)a);
    }
    arena_free(&arena);
    buf_free(&detail);
    return code;
}

/* What is on record already; *finished: nothing is left to do in this run, not even its summary. */
static int take_stock(struct play *p, const char *folder, int *ended, bool *finished, struct err *err) {
    struct run_reader *reader;
    int code = run_open(folder, &reader, err);
    if (code) return code;
    const struct run_episode *episodes;
    int count = run_reader_episodes(reader, &episodes);
    *finished = run_reader_info(reader)->finished;
    code = check_same(p, folder, run_reader_info(reader), err);
    struct episode_result before = {0}; /* parts that ended in a return of the watchdog */
    int reopens = run_reader_reopens(reader);
    for (int i = 0; i < count && !code; i++) {
        int64_t at = (int64_t)episodes[i].seed - p->o.seed;
        if (at < 0 || at >= p->o.episodes) code = err_set(err, ERR_FORMAT, "%s: seed %u is none of this run's", folder, episodes[i].seed);
        else p->begun[at] = true;
        if (code || i + 1 >= reopens) { /* lived again, all parts of it */
            *finished = false;
            continue;
        }
        struct episode_result result;
        run_episode_result(&episodes[i], &result);
        if (episodes[i].returns) {
            episode_result_join(&before, &result);
            continue;
        }
        episode_result_join(&result, &before);
        before = (struct episode_result){0};
        totals_add(&p->totals, &result);
        ++*ended;
    }
    run_close(reader);
    return code;
}

/* The files of a run that was killed in its first moment may be missing: it is begun anew. */
static bool has_lines(const char *folder) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/episodes.jsonl", PATH_MAX - 24, folder);
    return file_exists(path);
}

static int resume_runs(struct play *p, struct err *err) {
    struct run_set *set = &p->o.past;
    bool finished[RUN_GAMES] = {false};
    int ended = 0, code = 0, games = set->games ? set->games : 1;
    char folder[PATH_MAX], head[PATH_MAX];
    snprintf(p->folder, sizeof p->folder, "%s", set->folder);
    if (games != p->o.jobs) return err_set(err, ERR_FORMAT, "%s: holds %d games, its arguments ask for %d", set->folder, games, p->o.jobs);
    p->begun = calloc((size_t)p->o.episodes, sizeof *p->begun);
    if (!p->begun) return err_set(err, ERR_MEMORY, "out of memory for %d episodes", p->o.episodes);
    for (int i = 0; i < games && !code; i++) {
        if (has_lines(run_set_game(set, i, folder))) code = take_stock(p, folder, &ended, &finished[i], err);
    }
    for (int i = 0; i < games && !code; i++) {
        if (ended == p->o.episodes && finished[i]) continue;
        snprintf(head, sizeof head, "%.*s/run.json", PATH_MAX - 16, run_set_game(set, i, folder));
        code = file_exists(head) ? run_resume(folder, &p->games[i].run.run, err) : create_run(p, &p->games[i], folder, err);
    }
    if (!code && ended == p->o.episodes) fprintf(stderr, "pmd-agent play: %s was played to its end already\n", set->folder);
    return code;
}

int play_record_open(struct play *p, struct err *err) {
    if (p->o.resume) return resume_runs(p, err);
    return p->o.no_record ? 0 : create_runs(p, err);
}

int play_record_close(struct play *p, struct err *err) {
    int code = 0;
    struct err later = {0};
    for (int i = 0; p->games && i < p->o.jobs; i++) {
        struct run_subscriber *s = &p->games[i].run;
        if (!code && s->code) code = s->code, *err = s->err;
        if (s->run && run_finish(s->run, &later) && !code) code = later.code, *err = later;
        s->run = NULL;
    }
    return code;
}
