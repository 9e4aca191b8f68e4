/* The run on disk, format 1.
 *
 *   run.json         one object, written once at the start: format (1), program, started_at (UTC, ISO 8601), policy, model,
 *                    model_detail, rom {path, title, code, bytes, hash}, seed, episodes (asked for), settings, arguments (those of
 *                    `play`, for --resume).
 *   episodes.jsonl   two lines an episode. At its start: {"episode", "event":"begin", "seed", "start_state" (file), "start_frame"
 *                    (emulator frame number then), "state_hash", "started_at", "chain"}. At its end: {"episode", "event":"end",
 *                    "steps", "last_chain" (of its last step line), "end_frame", "end_state_hash", "outcome", "cause",
 *                    "floor_reached", "turns", "decisions", "decided_by" {..}, "seconds", "model_seconds",
 *                    "emulator_seconds", "tokens", "chain"}; also "turns_by", "parts" and "skills" (counts.h).
 *                    The times are those of the process that ended it. "returns":true: the watchdog went back from there; the next
 *                    episode in the file has the same seed and is the same one, from an earlier state on (play counts them as one).
 *                    One more where a later process went on with the run: {"episode" (the last begun, 0: none), "event":"resume",
 *                    "reopens" (true: the end record before it, with the outcome "stopped", does not hold any more), "steps" (of the
 *                    open episode on record), "last_chain", "resumed_at", "chain"}.
 *   trajectory.jsonl the truth of the run: one line a step, of all episodes in order:
 *       episode, step         both from 1
 *       at                    UTC, milliseconds
 *       first_frame           emulator frame number at the observation; presses are played from here
 *       frame_hash            XXH3-128 of the observed 240x160 RGB picture
 *       state_hash            XXH3-128 of EWRAM and IWRAM then
 *       picture_hash          difference hash of that picture (frame_picture_hash)
 *       scene, state, floor, turns_left, hp, max_hp, level, belly, position   what was observed, for reports
 *       foes, bag             foes in sight; [[item, quantity], ...]
 *       keyframe, recalled    only at keyframes of memory: why it is one (bits of memory/keyframe.h), and [{run, episode, step, score,
 *                             similarity, silos}, ...]: the memories that were told from here on
 *       note                  what the model wrote to its scratchpad; absent when nothing
 *       prompt, answer        text, null when no model was asked; prompt_tokens, answer_tokens: ids
 *       history               exchanges of a conversation that stood before the prompt (agent/conversation.h); absent: none
 *       prompt_from           only with history: prompt_tokens begins behind so many ids, which are the first ids of the line before: its
 *                             prompt (told in the same way), then its answer. 0 at the first line that a process writes
 *       refused_answer, refused_tokens   with refused: the answer that was refused (absent in runs of older programs)
 *       answer_pieces         [[text, probability, true where nothing else was allowed], ...] of the answer's tokens; only where known
 *       actions               those offered, null when unknown
 *       action, decided_by, reason, confidence, oracle_action
 *       calibrated            how often an answer with such a confidence is right, where that is known
 *       model, route_reason   which of several models answered and why that one was asked; only where there are several
 *       votes                 best of n: [{answer, count, log_probability, probability (both summed)}, ..]; only then
 *       skill_end             how the skill `action` ended; goal: the tile it walked to at its start
 *       stuck, stuck_level    how the agent is stuck and the rung of its ladder (agent/stuck.h)
 *       refused               the answer that the gatekeeper refused, and why; note: what the model wrote to its scratchpad
 *       perception            {field: [what the model said that it saw, what the game's memory says]}, -1: nothing; text and menu 0 or 1
 *                             (these six only where they are the case)
 *       buttons               [[keys, frames], ...]: keys as GBA bits (A 1, B 2, SELECT 4, START 8, RIGHT 16, LEFT 32, UP 64,
 *                             DOWN 128, R 256, L 512), 0 = waiting
 *       ms                    {observe, decode, ask, act, total, image, prefill, generate, emulator, recall (embedding included), path;
 *                             with memory: embed}
 *       record_ms             how long the line before took to write, key frame and state included
 *       cached_tokens
 *       picture               name of the key frame, only where one was kept
 *       chain                 last: XXH3-128 of (chain of the line before + this line up to the comma before "chain")
 *   start.state      emulator state at the start of episode 1 (plain); start-00002.state.gz ... of the later ones
 *   checkpoints/     eEEEEE-sSSSSSS.state.gz: emulator state after that step, at each new floor
 *   frames/          eEEEEE-sSSSSSS.png: first picture of each floor and of each change of scene, at most KEY_FRAMES_EPISODE an
 *                    episode and KEY_FRAMES_RUN a run; with memory every keyframe's, at most KEY_FRAMES_MEMORY a run
 *   summary.json     the model again, totals; present if and only if the program ended the run itself
 *
 * Valid: every line ends with a newline and its chain fits; the first chain of both .jsonl files continues XXH3-128 of run.json's
 * bytes. So a line that was edited, dropped, added or moved is noticed (not against somebody who recomputes the chain: it is a
 * checksum, not a signature).
 *
 * Crashes: a line is one write(), so a killed program loses at most the step it was in; a torn last line is left out by readers.
 * After a power cut the last two seconds may be missing: fdatasync runs every SYNC_SECONDS and at the end of each episode, since
 * one a step (3 to 20 ms on a disk) would cost more than the decision. A full disk ends the run with an error; the part of a line
 * that was written before is cut off again. */
#include "record/run.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "record/counts.h"
#include "record/hash.h"
#include "record/lines.h"
#include "record/png_file.h"
#include "record/recalled.h"
#include "record/run_room.h"

void run_now(char out[32]) {
    struct timeval now;
    struct tm tm;
    gettimeofday(&now, NULL);
    gmtime_r(&now.tv_sec, &tm);
    size_t n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 32 - n, ".%03dZ", (int)(now.tv_usec / 1000));
}

static void put_string(struct buf *b, const char *s) {
    if (s) buf_json_string(b, s, strlen(s));
    else buf_str(b, "null");
}

/* A JSON object that the caller gives as text is put in only if it is one: one broken setting must not spoil the file. */
static void put_object(struct buf *b, const char *text) {
    struct arena a = {0};
    const struct json *j = text ? json_parse(text, strlen(text), "settings", &a, NULL) : NULL;
    if (j && j->type == JSON_OBJECT) buf_str(b, text);
    else put_string(b, text);
    arena_free(&a);
}

static int open_lines(const char *folder, const char *name, char path[PATH_MAX], struct err *err) {
    int n = snprintf(path, PATH_MAX, "%s/%s", folder, name);
    if (n >= PATH_MAX) return err_set(err, ERR_ARGUMENT, "%s: path too long", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return err_set(err, ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    return fd;
}

int run_make_folder(const char *root, const char *folder, char path[PATH_MAX], struct err *err) {
    if (folder) {
        if (snprintf(path, PATH_MAX, "%s", folder) >= PATH_MAX - 64) return err_set(err, ERR_ARGUMENT, "run folder: path too long");
        char run[PATH_MAX], games[PATH_MAX];
        snprintf(run, sizeof run, "%.*s/run.json", PATH_MAX - 16, path);
        snprintf(games, sizeof games, "%.*s/games.json", PATH_MAX - 16, path);
        if (file_exists(run) || file_exists(games)) {
            return err_set(err, ERR_STATE, "%s: holds a run already; name another folder, or go on with it (play --resume %s)", path, path);
        }
        return file_make_folders(path, err);
    }
    if (!root) root = "runs";
    if (file_make_folders(root, err) != 0) return err->code;
    char stamp[32];
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &tm);
    for (int attempt = 1; attempt < 1000; attempt++) {
        char more[16] = "";
        if (attempt > 1) snprintf(more, sizeof more, "-%d", attempt);
        if (snprintf(path, PATH_MAX, "%s/%s-%ld%s", root, stamp, (long)getpid(), more) >= PATH_MAX - 64) {
            return err_set(err, ERR_ARGUMENT, "%s: path too long", root);
        }
        if (mkdir(path, 0777) == 0) return 0;
        if (errno != EEXIST) return err_set(err, ERR_IO, "%s: cannot create folder: %s", path, strerror(errno));
    }
    return err_set(err, ERR_STATE, "%s: too many runs in this second", root);
}

static int write_head(struct run *r, const struct run_options *o, struct err *err) {
    struct buf b = {0};
    char now[32], rom_hash[33], path[PATH_MAX];
    run_now(now);
    hash_hex(o->rom, o->rom_bytes, NULL, 0, rom_hash);
    struct rom_header header = {0};
    bool known = o->rom && rom_header_read(o->rom, o->rom_bytes, &header, NULL) == 0;
    buf_printf(&b, "{\"format\":1,\"program\":\"pmd-agent\",\"started_at\":\"%s\",\"policy\":", now);
    put_string(&b, o->policy);
    buf_str(&b, ",\"model\":"), put_string(&b, o->model);
    buf_str(&b, ",\"model_detail\":"), put_object(&b, o->model_detail);
    buf_str(&b, ",\"rom\":{\"path\":"), put_string(&b, o->rom_path);
    buf_str(&b, ",\"title\":"), put_string(&b, known ? header.title : NULL);
    buf_str(&b, ",\"code\":"), put_string(&b, known ? header.code : NULL);
    buf_printf(&b, ",\"bytes\":%zu,\"hash\":\"%s\"},\"seed\":%u,\"episodes\":%d,\"settings\":", o->rom_bytes, rom_hash, o->seed, o->episodes);
    put_object(&b, o->settings);
    if (o->arguments) buf_printf(&b, ",\"arguments\":%s", o->arguments);
    buf_str(&b, "}\n");
    snprintf(path, sizeof path, "%.*s/run.json", PATH_MAX - 16, r->folder);
    int code = b.failed ? err_set(err, ERR_MEMORY, "%s: out of memory", path) : file_replace(path, b.data, b.len, err);
    if (code == 0) {
        hash_hex(b.data, b.len, NULL, 0, r->chain);
        memcpy(r->episode_chain, r->chain, sizeof r->chain);
    }
    buf_free(&b);
    return code;
}

int run_create(const struct run_options *o, struct run **out, struct err *err) {
    struct err local;
    if (!err) err = &local;
    *out = NULL;
    char path[PATH_MAX];
    int code = run_make_folder(o->root, o->folder, path, err);
    if (code) return code;
    struct run *r = calloc(1, sizeof *r);
    if (!r) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    r->trajectory = r->episodes = -1;
    r->no_pictures = o->no_pictures;
    r->started = r->last_sync = clock_seconds();
    r->folder = strdup(path);
    /* Past a file size limit a write must fail like on a full disk, not kill the program. */
    struct sigaction old;
    if (sigaction(SIGXFSZ, NULL, &old) == 0 && old.sa_handler == SIG_DFL) signal(SIGXFSZ, SIG_IGN);
    if (o->model) r->model = strdup(o->model);
    if (!r->folder || (o->model && !r->model)) code = err_set(err, ERR_MEMORY, "%s: out of memory", path);
    if (!code) code = write_head(r, o, err);
    if (!code && (r->trajectory = open_lines(path, "trajectory.jsonl", r->trajectory_path, err)) < 0) code = err->code;
    if (!code && (r->episodes = open_lines(path, "episodes.jsonl", r->episodes_path, err)) < 0) code = err->code;
    if (!code) code = run_lock(r->trajectory, path, err);
    if (code) {
        r->failed = true;
        run_finish(r, NULL);
        return code;
    }
    *out = r;
    return 0;
}

const char *run_folder(const struct run *r) { return r->folder; }
const char *run_last_picture(const struct run *r) { return *r->picture ? r->picture : NULL; }

int run_refuse(const struct run *r, struct err *err) {
    return err_set(err, ERR_STATE, "%s: the run was ended by an earlier error", r->folder);
}

int run_fail(struct run *r, struct err *err) {
    r->failed = true;
    return err ? err->code : ERR_IO;
}

int run_append(struct run *r, int fd, const char *path, char chain[33], const char *what, struct err *err) {
    char next[33];
    if (r->line.failed) return r->failed = true, err_set(err, ERR_MEMORY, "%s: out of memory for %s", path, what);
    hash_hex(chain, 32, r->line.data, r->line.len, next);
    buf_printf(&r->line, ",\"chain\":\"%s\"}\n", next);
    if (r->line.failed) return r->failed = true, err_set(err, ERR_MEMORY, "%s: out of memory for %s", path, what);
    int code = line_append(fd, path, r->line.data, r->line.len, what, err);
    if (code) return r->failed = true, code;
    memcpy(chain, next, 33);
    return 0;
}

int run_sync(struct run *r, int fd, const char *path, struct err *err) {
    if (fdatasync(fd) == 0 || errno == EINVAL || errno == ENOSYS) return 0;
    r->failed = true;
    return err_set(err, ERR_IO, "%s: cannot bring to the disk: %s", path, strerror(errno));
}

static int write_packed(const char *path, const struct buf *state, struct err *err) {
    uLong bound = compressBound((uLong)state->len) + 64;
    uint8_t *packed = malloc(bound);
    z_stream z = {0};
    if (!packed || deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
        free(packed);
        return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    }
    z.next_in = (Bytef *)state->data, z.avail_in = (uInt)state->len;
    z.next_out = packed, z.avail_out = (uInt)bound;
    int status = deflate(&z, Z_FINISH);
    size_t n = z.total_out;
    deflateEnd(&z);
    int code = status == Z_STREAM_END ? file_replace(path, packed, n, err) : err_set(err, ERR_IO, "%s: deflate failed", path);
    free(packed);
    return code;
}

int run_episode_begin(struct run *r, uint32_t seed, struct emulator *e, struct err *err) {
    if (r->failed) return run_refuse(r, err);
    struct err local;
    if (!err) err = &local;
    char name[64], path[PATH_MAX], hash[33], now[32];
    bool again = past_goes_on(r);
    if (!again) run_past_free(&r->past);
    r->episode++;
    r->in_episode = true;
    r->emulator = e;
    r->seed = seed;
    r->steps = 0;
    r->key_frames = 0;
    r->last_floor = r->checkpoint_floor = -1;
    r->last_scene[0] = 0;
    if (again) return past_begin(r, seed, e, err) ? run_fail(r, err) : 0;
    if (r->episode == 1) snprintf(name, sizeof name, "start.state");
    else snprintf(name, sizeof name, "start-%05d.state.gz", r->episode);
    snprintf(path, sizeof path, "%.*s/%s", PATH_MAX - 70, r->folder, name);
    struct buf state = {0};
    int code = emulator_state_save(e, &state, err);
    if (code == 0) code = r->episode == 1 ? file_replace(path, state.data, state.len, err) : write_packed(path, &state, err);
    buf_free(&state);
    if (code) return run_fail(r, err);
    emulator_state_hash(e, hash);
    run_now(now);
    buf_clear(&r->line);
    buf_printf(&r->line, "{\"episode\":%d,\"event\":\"begin\",\"seed\":%u,\"start_state\":\"%s\",\"start_frame\":%llu,\"state_hash\":\"%s\",\"started_at\":\"%s\"",
               r->episode, seed, name, (unsigned long long)emulator_frame_number(e), hash, now);
    char what[48];
    snprintf(what, sizeof what, "the start of episode %d", r->episode);
    return run_append(r, r->episodes, r->episodes_path, r->episode_chain, what, err) ? run_fail(r, err) : 0;
}

void run_picture_name(struct run *r, uint32_t step, bool has_one) {
    if (has_one) snprintf(r->picture, sizeof r->picture, "frames/e%05d-s%06u.png", r->episode, step);
    else r->picture[0] = 0;
}

/* Keeps the picture where a reader would want one; r->picture is "" when none was kept. */
static int key_frame(struct run *r, const struct step *s, int floor, struct err *err) {
    bool change = floor != r->last_floor || strncmp(r->last_scene, s->scene ? s->scene : "", sizeof r->last_scene - 1) != 0;
    r->last_floor = floor;
    snprintf(r->last_scene, sizeof r->last_scene, "%s", s->scene ? s->scene : "");
    bool memory = s->recalled && s->recalled->keyframe && r->memory_frames < KEY_FRAMES_MEMORY;
    bool ours = change && r->key_frames < KEY_FRAMES_EPISODE && r->key_frames_total < KEY_FRAMES_RUN;
    bool keep = (ours || memory) && !r->no_pictures && s->frame;
    run_picture_name(r, s->number, keep);
    if (!keep) return 0;
    char path[PATH_MAX];
    if (r->key_frames_total + r->memory_frames == 0) {
        snprintf(path, sizeof path, "%.*s/frames", PATH_MAX - 70, r->folder);
        if (file_make_folders(path, err)) return err->code;
    }
    snprintf(path, sizeof path, "%.*s/%s", PATH_MAX - 70, r->folder, r->picture);
    struct buf png = {0};
    int code = png_encode(s->frame, FRAME_WIDTH, FRAME_HEIGHT, 6, &png, err);
    int fd = code ? -1 : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (!code && fd < 0) code = err_set(err, ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    if (!code) code = line_append(fd, path, png.data, png.len, "a key frame", err);
    if (fd >= 0) close(fd);
    if (code) unlink(path);
    buf_free(&png);
    if (ours) r->key_frames++, r->key_frames_total++;
    else r->memory_frames++;
    return code;
}

/* At the first step of a new floor the machine stands after the step's presses. */
static int checkpoint(struct run *r, const struct step *s, int floor, struct err *err) {
    bool first = r->checkpoint_floor < 0;
    bool change = floor > 0 && floor != r->checkpoint_floor;
    if (!change) return 0;
    r->checkpoint_floor = floor;
    if (first || !r->emulator) return 0; /* start.state is that of the first floor */
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/checkpoints", PATH_MAX - 70, r->folder);
    if (file_make_folders(path, err)) return err->code;
    snprintf(path, sizeof path, "%.*s/checkpoints/e%05d-s%06u.state.gz", PATH_MAX - 70, r->folder, r->episode, s->number);
    struct buf state = {0};
    int code = emulator_state_save(r->emulator, &state, err);
    if (code == 0) code = write_packed(path, &state, err);
    buf_free(&state);
    return code;
}

/* From `from` on. */
static void put_tokens(struct buf *b, const char *key, const int32_t *ids, int from, int n) {
    buf_printf(b, ",\"%s\":", key);
    if (!ids) {
        buf_str(b, "null");
        return;
    }
    buf_char(b, '[');
    for (int i = from; i < n; i++) buf_printf(b, i > from ? ",%d" : "%d", ids[i]);
    buf_char(b, ']');
}

static void put_observation(struct buf *b, const struct step *s) {
    const struct world *w = s->seen ? &s->seen->now : s->world;
    buf_str(b, ",\"scene\":"), put_string(b, s->scene);
    buf_printf(b, ",\"state\":\"%s\"", w ? game_state_name[w->state] : "unreadable");
    if (!w) return;
    /* Until the wind: a player is not told, so it is not in what was seen; reports want it. */
    buf_printf(b, ",\"floor\":%d,\"turns_left\":%d", w->floor, s->world ? s->world->turn_limit_left : w->turn_limit_left);
    if (w->leader >= 0 && w->leader < w->team_count) {
        const struct monster *m = &w->team[w->leader];
        buf_printf(b, ",\"hp\":%d,\"max_hp\":%d,\"level\":%d,\"belly\":%d,\"position\":[%d,%d]", m->hp, m->max_hp, m->level, m->belly, m->at.x,
                   m->at.y);
    }
    buf_printf(b, ",\"foes\":%d", w->foe_count);
    for (int i = 0; w->has_bag && i < w->bag_count; i++) buf_printf(b, "%s[%u,%u]", i ? "," : ",\"bag\":[", w->bag[i].id, w->bag[i].quantity);
    if (w->has_bag) buf_str(b, w->bag_count ? "]" : ",\"bag\":[]");
}

/* Memories that were found at this step: which, and how well they fit. Their words are in the prompt. */
static void put_recalled(struct buf *b, const struct memory_lines *m) {
    int n = 0;
    buf_printf(b, ",\"keyframe\":%u,\"recalled\":[", m->keyframe);
    for (int i = 0; i < m->count; i++) {
        const struct memory_line *l = &m->lines[i];
        if (!*l->run) continue;
        buf_str(b, n++ ? ",{\"run\":" : "{\"run\":");
        put_string(b, l->run);
        buf_printf(b, ",\"episode\":%d,\"step\":%u,\"score\":", l->episode, l->step);
        buf_json_number(b, (double)l->score);
        buf_str(b, ",\"similarity\":");
        buf_json_number(b, (double)l->similarity);
        buf_printf(b, ",\"silos\":%u}", l->silos);
    }
    buf_char(b, ']');
}

static void put_votes(struct buf *b, const struct step *s) {
    buf_str(b, ",\"votes\":");
    for (int i = 0; i < s->vote_count; i++) {
        buf_str(b, i ? ",{\"answer\":" : "[{\"answer\":"), put_string(b, s->votes[i].answer);
        buf_printf(b, ",\"count\":%d,\"log_probability\":", s->votes[i].count), buf_json_number(b, s->votes[i].log_probability);
        buf_str(b, ",\"probability\":"), buf_json_number(b, s->votes[i].probability), buf_char(b, '}');
    }
    buf_char(b, ']');
}

/* Only what was the case. */
static void put_agent_parts(struct buf *b, const struct step *s) {
    if (s->skill_end) buf_str(b, ",\"skill_end\":"), put_string(b, s->skill_end);
    if (s->plan && s->plan->goal.x >= 0) buf_printf(b, ",\"goal\":[%d,%d]", s->plan->goal.x, s->plan->goal.y);
    if (s->stuck) buf_printf(b, ",\"stuck\":\"%s\",\"stuck_level\":%d", s->stuck, s->stuck_level);
    if (s->refused) buf_str(b, ",\"refused\":"), put_string(b, s->refused);
    if (s->refused_answer) buf_str(b, ",\"refused_answer\":"), put_string(b, s->refused_answer), put_tokens(b, "refused_tokens", s->refused_tokens, 0, s->refused_token_count);
    for (int i = 0; s->perception && i < PERCEPTION_FIELDS; i++) {
        buf_printf(b, "%s\"%s\":[%d,%d]", i ? "," : ",\"perception\":{", perception_name[i], s->perception->said[i], s->perception->truth[i]);
    }
    if (s->perception) buf_char(b, '}');
    if (s->note) buf_str(b, ",\"note\":"), put_string(b, s->note);
}

/* from: so many ids of the prompt stand on record already. */
static void put_step(struct buf *b, int episode, const struct step *s, int from, const char *picture) {
    char now[32];
    run_now(now);
    buf_printf(b, "{\"episode\":%d,\"step\":%u,\"at\":\"%s\",\"first_frame\":%llu,\"frame_hash\":\"%.32s\",\"state_hash\":\"%.32s\"", episode,
               s->number, now, (unsigned long long)s->first_frame, s->frame_hash, s->state_hash);
    if (s->frame) buf_printf(b, ",\"picture_hash\":\"%016llx\"", (unsigned long long)frame_picture_hash(s->frame));
    put_observation(b, s);
    if (s->recalled && s->recalled->keyframe) put_recalled(b, s->recalled);
    buf_str(b, ",\"prompt\":"), put_string(b, s->prompt);
    buf_str(b, ",\"answer\":"), put_string(b, s->answer);
    if (s->pieces) buf_str(b, ",\"answer_pieces\":"), buf_str(b, s->pieces);
    if (s->history) buf_printf(b, ",\"history\":%d,\"prompt_from\":%d", s->history, from);
    put_tokens(b, "prompt_tokens", s->prompt_tokens, from, s->prompt_token_count);
    put_tokens(b, "answer_tokens", s->answer_tokens, 0, s->answer_token_count);
    buf_str(b, ",\"actions\":");
    for (int i = 0; s->actions && i < s->action_count; i++) buf_char(b, i ? ',' : '['), put_string(b, s->actions[i]);
    buf_str(b, s->actions ? s->action_count ? "]" : "[]" : "null");
    buf_str(b, ",\"action\":"), put_string(b, s->action);
    buf_printf(b, ",\"decided_by\":\"%s\",\"reason\":", (unsigned)s->decided_by < DECIDED_BY_COUNT ? decided_by_name[s->decided_by] : "model");
    put_string(b, s->reason ? s->reason : "");
    put_agent_parts(b, s);
    buf_str(b, ",\"confidence\":"), buf_json_number(b, s->confidence);
    if (s->calibrated > 0) buf_str(b, ",\"calibrated\":"), buf_json_number(b, s->calibrated);
    if (s->model) buf_str(b, ",\"model\":"), put_string(b, s->model);
    if (s->route_reason) buf_str(b, ",\"route_reason\":"), put_string(b, s->route_reason);
    if (s->vote_count) put_votes(b, s);
    buf_str(b, ",\"oracle_action\":"), put_string(b, s->oracle_action);
    buf_str(b, ",\"buttons\":[");
    for (int i = 0; i < s->press_count && i < MAX_STEP_PRESSES; i++) {
        buf_printf(b, i ? ",[%u,%u]" : "[%u,%u]", s->presses[i].keys, s->presses[i].frames);
    }
    buf_printf(b, "],\"ms\":{\"observe\":%.3f,\"decode\":%.3f,\"ask\":%.3f,\"act\":%.3f,\"total\":%.3f,\"image\":%.3f,\"prefill\":%.3f,\"generate\":%.3f,"
               "\"emulator\":%.3f,\"recall\":%.3f,\"path\":%.3f",
               s->observe_ms, s->decode_ms, s->ask_ms, s->act_ms, s->total_ms, s->image_ms, s->prefill_ms, s->generate_ms, s->emulator_ms, s->recall_ms, s->path_ms);
    if (s->recalled) buf_printf(b, ",\"embed\":%.3f", s->recalled->embed_ms);
    buf_char(b, '}');
    buf_printf(b, ",\"cached_tokens\":%lld", (long long)s->cached_tokens);
    if (picture[0]) buf_printf(b, ",\"picture\":\"%s\"", picture);
}

void run_step_json(struct buf *b, int episode, const struct step *s) {
    put_step(b, episode, s, s->history ? s->prompt_token_count : 0, ""); /* a conversation is long, and who looks wants its length */
    buf_char(b, '}');
}

int run_step(struct run *r, const struct step *s, struct err *err) {
    struct err local;
    if (!err) err = &local;
    if (r->failed) return run_refuse(r, err);
    if (!r->in_episode) return err_set(err, ERR_STATE, "%s: step %u outside any episode", r->folder, s->number);
    const struct world *w = s->seen ? &s->seen->now : s->world;
    int floor = w ? w->floor : 0;
    char what[48];
    double start = clock_seconds();
    if (r->past.at < r->past.count) return past_step(r, s, floor, err) ? run_fail(r, err) : 0;
    if (key_frame(r, s, floor, err)) return run_fail(r, err);
    if (checkpoint(r, s, floor, err)) return run_fail(r, err);
    buf_clear(&r->line);
    put_step(&r->line, r->episode, s, s->history ? token_chain_common(&r->chain_tokens, s->prompt_tokens, s->prompt_token_count) : 0, r->picture);
    token_chain_set(&r->chain_tokens, s->prompt_tokens, s->prompt_token_count, s->answer_tokens, s->answer_token_count);
    buf_printf(&r->line, ",\"record_ms\":%.3f", r->record_ms);
    snprintf(what, sizeof what, "step %u of episode %d", s->number, r->episode);
    if (run_append(r, r->trajectory, r->trajectory_path, r->chain, what, err)) return run_fail(r, err);
    r->steps++;
    double now = clock_seconds();
    int code = 0;
    if (now - r->last_sync >= SYNC_SECONDS) {
        r->last_sync = now;
        code = run_sync(r, r->trajectory, r->trajectory_path, err);
    }
    r->record_ms = (clock_seconds() - start) * 1e3;
    return code;
}

static void put_decided(struct buf *b, const int decided[DECIDED_BY_COUNT]) {
    buf_str(b, ",\"decided_by\":{");
    for (int i = 0; i < DECIDED_BY_COUNT; i++) buf_printf(b, "%s\"%s\":%d", i ? "," : "", decided_by_name[i], decided[i]);
    buf_char(b, '}');
}

void run_count(struct run *r, const struct episode_result *result) {
    r->done++;
    r->outcomes[(unsigned)result->outcome <= OUTCOME_STUCK ? result->outcome : OUTCOME_NONE]++;
    for (int i = 0; i < DECIDED_BY_COUNT; i++) r->decided[i] += result->decided[i];
    counts_add(&r->counts, result);
    r->decisions += result->decisions;
    r->tokens += result->tokens;
    if (result->outcome == OUTCOME_CLEARED) r->turns_cleared += result->turns;
    r->model_seconds += result->model_seconds;
    r->emulator_seconds += result->emulator_seconds;
}

int run_episode_end(struct run *r, const struct episode_result *result, struct emulator *e, struct err *err) {
    struct err local;
    if (!err) err = &local;
    if (r->failed) return run_refuse(r, err);
    if (!r->in_episode) return err_set(err, ERR_STATE, "%s: end of an episode that was not begun", r->folder);
    if (past_part_ended(r, result)) return r->in_episode = false, 0; /* on record already */
    if (run_lives_again(r)) { /* stopped before the seam: what is on record stays as it is */
        if (result->outcome == OUTCOME_STOPPED) return r->failed = true, 0;
        err_set(err, ERR_STATE, "%s: lived again, episode %d ends (%s) after step %d, the record has %d", r->folder, r->episode,
                outcome_name[result->outcome], (int)r->steps, past_steps(r));
        return run_fail(r, err);
    }
    if (run_sync(r, r->trajectory, r->trajectory_path, err)) return err->code;
    struct buf *b = &r->line;
    int outcome = (unsigned)result->outcome <= OUTCOME_STUCK ? (int)result->outcome : 0;
    buf_clear(b);
    buf_printf(b, "{\"episode\":%d,\"event\":\"end\",\"steps\":%u,\"last_chain\":\"%s\"", r->episode, r->steps, r->chain);
    if (e) {
        char hash[33];
        emulator_state_hash(e, hash);
        buf_printf(b, ",\"end_frame\":%llu,\"end_state_hash\":\"%s\"", (unsigned long long)emulator_frame_number(e), hash);
    }
    buf_printf(b, ",\"outcome\":\"%s\",\"cause\":", outcome_name[outcome]);
    put_string(b, result->cause);
    if (result->returns) buf_str(b, ",\"returns\":true");
    buf_printf(b, ",\"floor_reached\":%d,\"turns\":%d,\"decisions\":%d", result->floor_reached, result->turns, result->decisions);
    put_decided(b, result->decided);
    struct run_counts counts = {0};
    counts_add(&counts, result);
    counts_json(&counts, b);
    buf_printf(b, ",\"seconds\":%.3f,\"model_seconds\":%.3f,\"emulator_seconds\":%.3f,\"tokens\":%lld", result->seconds, result->model_seconds,
               result->emulator_seconds, (long long)result->tokens);
    char what[48];
    snprintf(what, sizeof what, "the end of episode %d", r->episode);
    if (run_append(r, r->episodes, r->episodes_path, r->episode_chain, what, err)) return run_fail(r, err);
    r->in_episode = false;
    r->emulator = NULL;
    run_count(r, result);
    return run_sync(r, r->episodes, r->episodes_path, err);
}

static int write_summary(struct run *r, struct err *err) {
    struct buf b = {0};
    char path[PATH_MAX], now[32];
    run_now(now);
    int cleared = r->outcomes[OUTCOME_CLEARED];
    buf_printf(&b, "{\"ended_at\":\"%s\",\"model\":", now);
    put_string(&b, r->model);
    buf_printf(&b, ",\"episodes\":%d,\"cleared\":%d,\"clear_rate\":", r->done, cleared);
    if (r->done) buf_json_number(&b, (double)cleared / r->done);
    else buf_str(&b, "null");
    buf_str(&b, ",\"turns_mean\":");
    if (cleared) buf_json_number(&b, (double)r->turns_cleared / cleared);
    else buf_str(&b, "null");
    buf_str(&b, ",\"outcomes\":{");
    for (int i = 0; i <= OUTCOME_STUCK; i++) buf_printf(&b, "%s\"%s\":%d", i ? "," : "", outcome_name[i], r->outcomes[i]);
    buf_printf(&b, "},\"decisions\":%lld", (long long)r->decisions);
    put_decided(&b, r->decided);
    counts_json(&r->counts, &b);
    buf_printf(&b, ",\"tokens\":%lld,\"seconds\":%.3f,\"model_seconds\":%.3f,\"emulator_seconds\":%.3f,\"last_chain\":\"%s\"}\n", (long long)r->tokens,
               clock_seconds() - r->started, r->model_seconds, r->emulator_seconds, r->chain);
    snprintf(path, sizeof path, "%.*s/summary.json", PATH_MAX - 20, r->folder);
    int code = b.failed ? err_set(err, ERR_MEMORY, "%s: out of memory", path) : file_replace(path, b.data, b.len, err);
    buf_free(&b);
    return code;
}

int run_finish(struct run *r, struct err *err) {
    if (!r) return 0;
    int code = 0;
    if (!r->failed) code = write_summary(r, err);
    if (r->trajectory >= 0 && close(r->trajectory) != 0 && !code && !r->failed) {
        code = err_set(err, ERR_IO, "%s: cannot close: %s", r->trajectory_path, strerror(errno));
    }
    if (r->episodes >= 0) close(r->episodes);
    run_past_free(&r->past);
    token_chain_free(&r->chain_tokens);
    buf_free(&r->line);
    free(r->folder);
    free(r->model);
    free(r);
    return code;
}
