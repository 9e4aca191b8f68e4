/* Going on with a run that was cut off (format: run.c).
 *
 * Nothing is kept on disk but the run itself. The agent plays the open episode again from its reset, with the answers that are on record in
 * place of a model; so emulator, map, notes, random state and whatever else an agent remembers come to stand where they stood, by the
 * same code that brought them there. Every step lived again is compared with its line (picture, memory, action, presses) and not written; the
 * first one that differs ends the run with an error, since it could not go on bit for bit. Behind the last line new ones are appended.
 * Where the watchdog went back to an earlier state, the parts before that are lived again as well: the state lies in them.
 * A second of it stands for some thousand frames; an episode of 140 decisions takes about a second. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "record/hash.h"
#include "record/run_room.h"

/* Cuts a file off behind its last newline: a line that was being written when the program was killed. */
static int cut_torn_line(int fd, const char *path, struct err *err) {
    char piece[65536];
    off_t end = lseek(fd, 0, SEEK_END), at = end;
    while (at > 0) {
        size_t n = at > (off_t)sizeof piece ? sizeof piece : (size_t)at;
        ssize_t got = pread(fd, piece, n, at - (off_t)n);
        if (got != (ssize_t)n) return err_set(err, ERR_IO, "%s: cannot read %zu bytes at offset %lld", path, n, (long long)(at - (off_t)n));
        const char *newline = memrchr(piece, '\n', n);
        if (newline) {
            at += newline + 1 - (piece + n);
            break;
        }
        at -= (off_t)n;
    }
    if (end >= 0 && (at == end || ftruncate(fd, at) == 0)) return 0;
    return err_set(err, ERR_IO, "%s: cannot cut off the torn last line: %s", path, strerror(errno));
}

static int open_again(const char *folder, const char *name, char path[PATH_MAX], struct err *err) {
    if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX) return err_set(err, ERR_ARGUMENT, "%s: path too long", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return err_set(err, ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    if (run_lock(fd, folder, err) || cut_torn_line(fd, path, err)) {
        close(fd);
        return err->code;
    }
    return fd;
}

int run_lock(int fd, const char *folder, struct err *err) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return 0; /* a file system without locks does not stop anybody */
    return err_set(err, ERR_STATE, "%s: another process is playing this run", folder);
}

static const char *keep(struct run_past *p, const char *text) {
    return text ? arena_string(&p->arena, text, strlen(text)) : NULL;
}

static int32_t *keep_tokens(struct run_past *p, const struct json *ids, int *count) {
    *count = 0;
    if (!ids || ids->type != JSON_ARRAY || !ids->count) return NULL;
    int32_t *out = arena_alloc(&p->arena, ids->count * sizeof *out);
    if (!out) return NULL;
    for (uint32_t i = 0; i < ids->count; i++) out[i] = (int32_t)json_as_integer(ids->items[i], 0);
    *count = (int)ids->count;
    return out;
}

void run_presses_hash(const struct key_press *presses, int count, char out[33]) {
    hash_hex(presses, (size_t)count * sizeof *presses, NULL, 0, out);
}

static int add_past(struct run_past *p, const struct run_line *line, struct err *err) {
    if ((p->count & (p->count - 1)) == 0) { /* grow at 0, 1, 2, 4, 8, ... */
        struct run_past_step *grown = realloc(p->steps, (p->count ? (size_t)p->count * 2 : 1) * sizeof *grown);
        if (!grown) return err_set(err, ERR_MEMORY, "out of memory for the steps on record");
        p->steps = grown;
    }
    struct run_past_step *s = &p->steps[p->count++];
    const struct json *j = line->json;
    *s = (struct run_past_step){.first_frame = line->first_frame};
    memcpy(s->frame_hash, line->frame_hash, sizeof s->frame_hash);
    memcpy(s->state_hash, line->state_hash, sizeof s->state_hash);
    run_presses_hash(line->presses, line->press_count, s->presses_hash);
    s->action = keep(p, line->action);
    s->decided_by = keep(p, line->decided_by);
    s->answer = keep(p, json_as_string(json_get(j, "answer"), NULL));
    s->refused_answer = keep(p, json_as_string(json_get(j, "refused_answer"), NULL));
    s->refused_tokens = keep_tokens(p, json_get(j, "refused_tokens"), &s->refused_token_count);
    s->history = (int)json_as_integer(json_get(j, "history"), 0);
    s->model = keep(p, json_as_string(json_get(j, "model"), NULL));
    s->route_reason = keep(p, json_as_string(json_get(j, "route_reason"), NULL));
    if (s->decided_by && !strcmp(s->decided_by, decided_by_name[BY_HUMAN])) {
        size_t bytes = (size_t)line->press_count * sizeof *line->presses;
        struct key_press *presses = arena_alloc(&p->arena, bytes + 1);
        if (!presses) return err_set(err, ERR_MEMORY, "out of memory for the steps on record");
        memcpy(presses, line->presses, bytes);
        s->presses = presses, s->press_count = line->press_count;
    }
    s->prompt_tokens = keep_tokens(p, json_get(j, "prompt_tokens"), &s->prompt_token_count);
    s->answer_tokens = keep_tokens(p, json_get(j, "answer_tokens"), &s->answer_token_count);
    s->confidence = (float)json_as_number(json_get(j, "confidence"), 0);
    s->ask_ms = json_as_number(json_get(json_get(j, "ms"), "ask"), 0);
    s->has_picture = json_get(j, "picture") != NULL;
    return s->action && s->decided_by ? 0 : err_set(err, ERR_MEMORY, "out of memory for the steps on record");
}

/* Reads the trajectory to its end (which checks all of it) and keeps the steps of the episode that is open, from this number on. */
static int read_past(struct run *r, struct run_reader *reader, int first, struct err *err) {
    struct run_line *line = malloc(sizeof *line);
    if (!line) return err_set(err, ERR_MEMORY, "%s: out of memory", r->folder);
    int got = 0, code = 0;
    while (!code && (got = run_next(reader, line, NULL, err)) == 1) {
        if (line->episode >= first && r->past.part_count) {
            r->past.parts[line->episode - first].count++;
            code = add_past(&r->past, line, err);
        }
        memcpy(r->chain, line->chain, sizeof r->chain);
        bool picture = json_get(line->json, "picture") != NULL, memory = json_get(line->json, "keyframe") != NULL;
        r->key_frames_total += picture && !memory;
        r->memory_frames += picture && memory;
    }
    free(line);
    return got < 0 ? got : code;
}

static int write_seam(struct run *r, bool reopens, struct err *err) {
    char now[32], path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/summary.json", PATH_MAX - 20, r->folder);
    if (unlink(path) != 0 && errno != ENOENT) return err_set(err, ERR_IO, "%s: cannot remove: %s", path, strerror(errno));
    run_now(now);
    buf_clear(&r->line);
    buf_printf(&r->line, "{\"episode\":%d,\"event\":\"resume\",\"reopens\":%s,\"steps\":%d,\"last_chain\":\"%s\",\"resumed_at\":\"%s\"", r->episode,
               reopens ? "true" : "false", r->past.count, r->chain, now);
    return run_append(r, r->episodes, r->episodes_path, r->episode_chain, "the seam", err);
}

static int add_parts(struct run_past *p, const struct run_episode *first, int count, struct err *err) {
    if (!(p->parts = calloc((size_t)count, sizeof *p->parts))) return err_set(err, ERR_MEMORY, "out of memory for the episodes on record");
    for (int i = 0; i < count; i++) {
        p->parts[i] = (struct run_past_part){.seed = first[i].seed, .start_frame = first[i].start_frame, .ended = first[i].ended && first[i].returns};
        memcpy(p->parts[i].start_hash, first[i].start_hash, sizeof p->parts[i].start_hash);
    }
    p->part_count = count;
    p->part = -1;
    return 0;
}

static int take_up(struct run *r, struct run_reader *reader, struct err *err) {
    const struct run_episode *episodes;
    const struct run_info *info = run_reader_info(reader);
    int count = run_reader_episodes(reader, &episodes), first = run_reader_reopens(reader), code = 0;
    bool stopped = count && episodes[count - 1].ended && !strcmp(episodes[count - 1].outcome, outcome_name[OUTCOME_STOPPED]);
    if (info->model && !(r->model = strdup(info->model))) return err_set(err, ERR_MEMORY, "%s: out of memory", r->folder);
    for (int i = 0; i < count; i++) {
        struct episode_result result;
        if (!episodes[i].ended || (stopped && i == count - 1)) continue;
        run_episode_result(&episodes[i], &result);
        run_count(r, &result);
        if (i + 1 < first) counts_add(&r->before, &result);
    }
    run_reader_chain(reader, r->chain, r->episode_chain);
    if (first <= count) code = add_parts(&r->past, &episodes[first - 1], count + 1 - first, err);
    if (!code) code = read_past(r, reader, first, err);
    if (code) return code;
    for (int i = 1; i < r->past.part_count; i++) r->past.parts[i].first = r->past.parts[i - 1].first + r->past.parts[i - 1].count;
    r->episode = count;
    code = write_seam(r, stopped, err);
    r->episode = first - 1;
    return code;
}

int run_resume(const char *folder, struct run **out, struct err *err) {
    *out = NULL;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/run.json", PATH_MAX - 20, folder);
    if (!file_exists(path)) return err_set(err, ERR_MISSING, "%s: no run (no run.json in it)", folder);
    struct run *r = calloc(1, sizeof *r);
    struct run_reader *reader = NULL;
    if (!r) return err_set(err, ERR_MEMORY, "%s: out of memory", folder);
    r->trajectory = r->episodes = -1;
    r->started = r->last_sync = clock_seconds();
    int code = 0;
    if (!(r->folder = strdup(folder))) code = err_set(err, ERR_MEMORY, "%s: out of memory", folder);
    if (!code && (r->trajectory = open_again(folder, "trajectory.jsonl", r->trajectory_path, err)) < 0) code = err->code;
    if (!code && (r->episodes = open_again(folder, "episodes.jsonl", r->episodes_path, err)) < 0) code = err->code;
    if (!code) code = run_open(folder, &reader, err);
    if (!code) code = take_up(r, reader, err);
    run_close(reader);
    if (code) {
        r->failed = true;
        run_finish(r, NULL);
        return code;
    }
    *out = r;
    return 0;
}

void run_past_free(struct run_past *p) {
    arena_free(&p->arena);
    free(p->steps);
    free(p->parts);
    *p = (struct run_past){0};
}

static const struct run_past_part *part_of(const struct run *r) { return r->past.part >= 0 && r->past.part < r->past.part_count ? &r->past.parts[r->past.part] : NULL; }

bool past_goes_on(const struct run *r) { return r->past.part + 1 < r->past.part_count; }
int past_steps(const struct run *r) { return part_of(r) ? part_of(r)->count : 0; }

bool run_open_episode(const struct run *r, uint32_t *seed) {
    *seed = r->past.part_count ? r->past.parts[0].seed : 0;
    return r->past.part_count && r->past.part < 0;
}

const struct skill_count *run_skills_before(const struct run *r, int *count) {
    *count = r->before.skill_count;
    return r->before.skills;
}

const struct run_past_step *run_past_step(const struct run *r, uint32_t number) {
    const struct run_past_part *p = part_of(r);
    return p && number > 0 && number <= (uint32_t)p->count ? &r->past.steps[p->first + (int)number - 1] : NULL;
}

bool run_lives_again(const struct run *r) { return r->past.part_count && (past_goes_on(r) || r->past.at < r->past.count); }

bool past_part_ended(const struct run *r, const struct episode_result *result) {
    const struct run_past_part *p = part_of(r);
    return p && p->ended && result->returns && r->past.at == p->first + p->count;
}

/* ---- in place of writing ------------------------------------------------------------------------------------------------------- */

int past_begin(struct run *r, uint32_t seed, struct emulator *e, struct err *err) {
    const struct run_past_part *p = &r->past.parts[++r->past.part];
    char hash[33];
    emulator_state_hash(e, hash);
    if (seed == p->seed && emulator_frame_number(e) == p->start_frame && !strcmp(hash, p->start_hash) && r->past.at == p->first) return 0;
    return err_set(err, ERR_STATE, "%s: episode %d begins with seed %u, frame %llu, memory %s; the record says %u, %llu, %s: the run cannot go on", r->folder,
                   r->episode, seed, (unsigned long long)emulator_frame_number(e), hash, p->seed, (unsigned long long)p->start_frame, p->start_hash);
}

int past_step(struct run *r, const struct step *s, int floor, struct err *err) {
    const struct run_past_step *was = &r->past.steps[r->past.at];
    char presses[33];
    const char *what = NULL, *now = s->action ? s->action : "", *then = was->action;
    run_presses_hash(s->presses, s->press_count, presses);
    if (s->number != (uint32_t)(r->past.at - part_of(r)->first) + 1 || s->first_frame != was->first_frame) what = "the frame";
    else if (strcmp(s->state_hash, was->state_hash)) what = "the memory", now = s->state_hash, then = was->state_hash;
    else if (strcmp(s->frame_hash, was->frame_hash)) what = "the picture", now = s->frame_hash, then = was->frame_hash;
    else if (strcmp(now, then)) what = "the action";
    else if (strcmp(presses, was->presses_hash)) what = "what was pressed";
    if (what) {
        return err_set(err, ERR_STATE, "%s: lived again, step %u of episode %d differs from the record in %s (%s, recorded %s): the program, its settings "
                       "or the emulator have changed, so the run cannot go on", r->folder, s->number, r->episode, what, now, then);
    }
    r->past.at++;
    r->steps++;
    r->key_frames += was->has_picture;
    run_picture_name(r, s->number, was->has_picture);
    r->last_floor = floor;
    if (floor > 0) r->checkpoint_floor = floor;
    snprintf(r->last_scene, sizeof r->last_scene, "%s", s->scene ? s->scene : "");
    return 0;
}
