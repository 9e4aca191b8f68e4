/* Reads a run back (format: run.c). Everything is checked as it is read: a run is input from outside. */
#include "record/run.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/file.h"
#include "record/counts.h"
#include "record/hash.h"
#include "record/lines.h"

enum { STATE_LIMIT = 16 << 20, HEAD_LIMIT = 4 << 20, EPISODE_LIMIT = 10 * 1000 * 1000 };

struct run_reader {
    char *folder;
    struct arena arena;      /* run.json and episodes.jsonl */
    struct run_info info;
    struct run_episode *episodes;
    int episode_count;
    struct line_reader lines;
    struct arena line_arena; /* the present line */
    char chain[33], episode_chain[33];
    int episode;             /* of the last line */
    uint32_t step;
};

/* Takes ,"chain":"<32 hex>"} off the end of a line and checks it against the chain so far. */
static int check_chain(const char *path, uint64_t number, char *line, size_t n, char chain[33], struct err *err) {
    static const char key[] = ",\"chain\":\"";
    size_t tail = sizeof key - 1 + 32 + 2;
    if (n < tail || memcmp(line + n - tail, key, sizeof key - 1) != 0 || memcmp(line + n - 2, "\"}", 2) != 0) {
        return err_set(err, ERR_FORMAT, "%s: line %llu does not end with its chain", path, (unsigned long long)number);
    }
    char expected[33];
    hash_hex(chain, 32, line, n - tail, expected);
    if (memcmp(expected, line + n - 34, 32) != 0) {
        return err_set(err, ERR_FORMAT, "%s: line %llu (or one before it) was changed, removed or added after it was written: chain %.32s, expected %s",
                       path, (unsigned long long)number, line + n - 34, expected);
    }
    memcpy(chain, expected, 33);
    return 0;
}

static bool is_hash(const char *s) { return s && strlen(s) == 32 && strspn(s, "0123456789abcdef") == 32; }

static int read_head(struct run_reader *r, struct err *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/run.json", PATH_MAX - 20, r->folder);
    struct buf text = {0};
    if (file_read(path, HEAD_LIMIT, &text, err) != 0) {
        buf_free(&text);
        return err->code == ERR_MISSING ? err_set(err, ERR_MISSING, "%s: no run (no run.json in it)", r->folder) : err->code;
    }
    const struct json *j = json_parse(text.data ? text.data : "", text.len, path, &r->arena, err);
    if (j) hash_hex(text.data, text.len, NULL, 0, r->chain);
    buf_free(&text);
    if (!j) return err->code;
    struct run_info *i = &r->info;
    const struct json *rom = json_get(j, "rom");
    i->json = j;
    i->format = (int)json_as_integer(json_get(j, "format"), -1);
    if (i->format != 1) return err_set(err, ERR_FORMAT, "%s: field format: expected 1, found %d", path, i->format);
    i->program = json_as_string(json_get(j, "program"), "");
    i->policy = json_as_string(json_get(j, "policy"), "");
    i->model = json_as_string(json_get(j, "model"), NULL);
    i->started_at = json_as_string(json_get(j, "started_at"), "");
    i->seed = (uint32_t)json_as_integer(json_get(j, "seed"), 0);
    i->episodes = (int)json_as_integer(json_get(j, "episodes"), 0);
    i->rom_path = json_as_string(json_get(rom, "path"), NULL);
    i->rom_hash = json_as_string(json_get(rom, "hash"), NULL);
    i->rom_title = json_as_string(json_get(rom, "title"), "");
    i->rom_code = json_as_string(json_get(rom, "code"), "");
    if (!is_hash(i->rom_hash)) return err_set(err, ERR_FORMAT, "%s: field rom.hash: expected 32 hexadecimal digits", path);
    return 0;
}

/* A later process went on here. */
static int take_seam(struct run_reader *r, const struct json *j, int64_t number, const char *path, uint64_t line, struct err *err) {
    struct run_episode *e = r->episode_count ? &r->episodes[r->episode_count - 1] : NULL;
    bool reopens = json_as_bool(json_get(j, "reopens"), false);
    if (number != r->episode_count || (reopens && (!e || !e->ended))) {
        return err_set(err, ERR_FORMAT, "%s: line %llu: resume of episode %lld is out of order", path, (unsigned long long)line, (long long)number);
    }
    if (reopens) e->ended = false;
    if (e && !e->ended) e->resumed++;
    return 0;
}

/* One line of episodes.jsonl into the table. */
static int take_episode(struct run_reader *r, const struct json *j, const char *path, uint64_t line, struct err *err) {
    const char *event = json_as_string(json_get(j, "event"), "");
    int64_t number = json_as_integer(json_get(j, "episode"), -1);
    bool begin = strcmp(event, "begin") == 0, end = strcmp(event, "end") == 0;
    if (!strcmp(event, "resume")) return take_seam(r, j, number, path, line, err);
    if (!begin && !end) return err_set(err, ERR_FORMAT, "%s: line %llu: field event: expected begin, end or resume", path, (unsigned long long)line);
    if (number != r->episode_count + begin || number > EPISODE_LIMIT || (end && r->episodes[number - 1].ended) ||
        (begin && number > 1 && !r->episodes[number - 2].ended)) {
        return err_set(err, ERR_FORMAT, "%s: line %llu: %s of episode %lld is out of order", path, (unsigned long long)line, event, (long long)number);
    }
    if (begin) {
        if ((r->episode_count & (r->episode_count + 1)) == 0 || r->episode_count == 0) { /* grow at 0, 1, 3, 7, ... */
            struct run_episode *grown = realloc(r->episodes, ((size_t)r->episode_count * 2 + 2) * sizeof *grown);
            if (!grown) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
            r->episodes = grown;
        }
        struct run_episode *e = &r->episodes[r->episode_count];
        int64_t start_frame = json_as_integer(json_get(j, "start_frame"), -1), seed = json_as_integer(json_get(j, "seed"), -1);
        *e = (struct run_episode){.number = (int)number, .seed = (uint32_t)seed, .start_frame = (uint64_t)start_frame};
        e->start_state = json_as_string(json_get(j, "start_state"), NULL);
        e->start_hash = json_as_string(json_get(j, "state_hash"), NULL);
        if (start_frame < 0 || seed < 0 || seed > UINT32_MAX || !is_hash(e->start_hash) || !e->start_state || !e->start_state[0] ||
            strchr(e->start_state, '/')) {
            return err_set(err, ERR_FORMAT, "%s: line %llu: start_frame, seed, state_hash or start_state is missing or makes no sense", path,
                           (unsigned long long)line);
        }
        r->episode_count++;
        return 0;
    }
    struct run_episode *e = &r->episodes[number - 1];
    int64_t steps = json_as_integer(json_get(j, "steps"), -1), end_frame = json_as_integer(json_get(j, "end_frame"), 0);
    e->chain = json_as_string(json_get(j, "last_chain"), NULL);
    e->end_hash = json_as_string(json_get(j, "end_state_hash"), NULL);
    e->outcome = json_as_string(json_get(j, "outcome"), "");
    e->cause = json_as_string(json_get(j, "cause"), "");
    if (steps < 0 || steps > UINT32_MAX || end_frame < 0 || !is_hash(e->chain) || (e->end_hash && !is_hash(e->end_hash))) {
        return err_set(err, ERR_FORMAT, "%s: line %llu: steps, end_frame, last_chain or end_state_hash makes no sense", path, (unsigned long long)line);
    }
    e->steps = (uint32_t)steps;
    e->end_frame = (uint64_t)end_frame;
    e->ended = true;
    e->returns = json_as_bool(json_get(j, "returns"), false);
    e->end = j;
    return 0;
}

void run_episode_result(const struct run_episode *e, struct episode_result *out) {
    *out = (struct episode_result){.seed = e->seed};
    if (!e->ended) return;
    const struct json *decided = json_get(e->end, "decided_by");
    while (out->outcome < OUTCOME_STUCK && strcmp(outcome_name[out->outcome], e->outcome)) out->outcome++;
    snprintf(out->cause, sizeof out->cause, "%s", e->cause);
    out->floor_reached = (int)json_as_integer(json_get(e->end, "floor_reached"), 0);
    out->turns = (int)json_as_integer(json_get(e->end, "turns"), 0);
    out->decisions = (int)json_as_integer(json_get(e->end, "decisions"), 0);
    for (int i = 0; i < DECIDED_BY_COUNT; i++) out->decided[i] = (int)json_as_integer(json_get(decided, decided_by_name[i]), 0);
    counts_read(e->end, out);
    out->seconds = json_as_number(json_get(e->end, "seconds"), 0);
    out->model_seconds = json_as_number(json_get(e->end, "model_seconds"), 0);
    out->emulator_seconds = json_as_number(json_get(e->end, "emulator_seconds"), 0);
    out->tokens = json_as_integer(json_get(e->end, "tokens"), 0);
}

static int read_episodes(struct run_reader *r, struct err *err) {
    char path[PATH_MAX], chain[33], *line;
    memcpy(chain, r->chain, sizeof chain);
    snprintf(path, sizeof path, "%.*s/episodes.jsonl", PATH_MAX - 20, r->folder);
    struct line_reader lines;
    int code = line_reader_open(path, &lines, err);
    size_t n;
    while (code == 0 && (code = line_reader_next(&lines, &line, &n, NULL, err)) == 1) {
        code = check_chain(path, lines.number, line, n, chain, err);
        if (code) break;
        char what[PATH_MAX + 32];
        snprintf(what, sizeof what, "%s: line %llu", path, (unsigned long long)lines.number);
        const struct json *j = json_parse(line, n, what, &r->arena, err);
        code = j ? take_episode(r, j, path, lines.number, err) : err->code;
    }
    line_reader_close(&lines);
    memcpy(r->episode_chain, chain, sizeof chain);
    return code;
}

int run_reader_reopens(const struct run_reader *r) {
    int n = r->episode_count;
    const struct run_episode *last = n ? &r->episodes[n - 1] : NULL;
    if (!last || (last->ended && !last->returns && strcmp(last->outcome, outcome_name[OUTCOME_STOPPED]))) return n + 1;
    while (n > 1 && r->episodes[n - 2].returns && r->episodes[n - 2].seed == last->seed) n--;
    return n;
}

void run_reader_chain(const struct run_reader *r, char steps[33], char episodes[33]) {
    memcpy(steps, r->chain, sizeof r->chain);
    memcpy(episodes, r->episode_chain, sizeof r->episode_chain);
}

int run_open(const char *folder, struct run_reader **out, struct err *err) {
    struct err local;
    if (!err) err = &local;
    *out = NULL;
    struct run_reader *r = calloc(1, sizeof *r);
    if (!r) return err_set(err, ERR_MEMORY, "%s: out of memory", folder);
    r->lines.fd = -1;
    r->folder = strdup(folder);
    char path[PATH_MAX];
    int code = r->folder ? read_head(r, err) : err_set(err, ERR_MEMORY, "%s: out of memory", folder);
    if (!code) code = read_episodes(r, err);
    if (!code) {
        snprintf(path, sizeof path, "%.*s/summary.json", PATH_MAX - 20, folder);
        r->info.finished = file_exists(path);
        snprintf(path, sizeof path, "%.*s/trajectory.jsonl", PATH_MAX - 20, folder);
        code = line_reader_open(path, &r->lines, err);
    }
    if (code) {
        run_close(r);
        return code;
    }
    *out = r;
    return 0;
}

void run_close(struct run_reader *r) {
    if (!r) return;
    line_reader_close(&r->lines);
    arena_free(&r->arena);
    arena_free(&r->line_arena);
    free(r->episodes);
    free(r->folder);
    free(r);
}

const struct run_info *run_reader_info(const struct run_reader *r) { return &r->info; }

int run_reader_episodes(const struct run_reader *r, const struct run_episode **out) {
    *out = r->episodes;
    return r->episode_count;
}

static int take_buttons(const struct json *buttons, struct run_line *out, const char *what, struct err *err) {
    if (!buttons || buttons->type != JSON_ARRAY || buttons->count > MAX_STEP_PRESSES) {
        return err_set(err, ERR_FORMAT, "%s: field buttons: expected an array of at most %d pairs", what, MAX_STEP_PRESSES);
    }
    out->press_count = (int)buttons->count;
    for (uint32_t i = 0; i < buttons->count; i++) {
        const struct json *pair = buttons->items[i];
        bool pair_ok = pair->type == JSON_ARRAY && pair->count == 2;
        int64_t keys = pair_ok ? json_as_integer(pair->items[0], -1) : -1, frames = pair_ok ? json_as_integer(pair->items[1], -1) : -1;
        if (keys < 0 || keys > 0x3FF || frames < 0 || frames > UINT16_MAX) {
            return err_set(err, ERR_FORMAT, "%s: field buttons, pair %u: expected [keys 0..1023, frames 0..65535]", what, i);
        }
        out->presses[i] = (struct key_press){(uint16_t)keys, (uint16_t)frames};
    }
    return 0;
}

/* An episode whose end is on record must have had all its steps. */
static int check_episode_complete(const struct run_reader *r, int episode, struct err *err) {
    const struct run_episode *e = &r->episodes[episode - 1];
    if (!e->ended) return 0;
    uint32_t found = r->episode == episode ? r->step : 0;
    if (found == e->steps && memcmp(e->chain, r->chain, 32) == 0) return 0;
    return err_set(err, ERR_FORMAT, "%s: episode %d has %u steps, its end record says %u: the trajectory was cut short or changed", r->lines.path, episode,
                   found, e->steps);
}

int run_next(struct run_reader *r, struct run_line *out, bool *torn, struct err *err) {
    struct err local;
    if (!err) err = &local;
    char *line, what[PATH_MAX + 32];
    size_t n;
    int got = line_reader_next(&r->lines, &line, &n, torn, err);
    if (got < 0) return got;
    if (got == 0) {
        for (int i = r->episode ? r->episode : 1; i <= r->episode_count; i++) {
            if (check_episode_complete(r, i, err)) return err->code;
        }
        return 0;
    }
    arena_free(&r->line_arena);
    char before[33];
    memcpy(before, r->chain, sizeof before);
    if (check_chain(r->lines.path, r->lines.number, line, n, r->chain, err)) return err->code;
    snprintf(what, sizeof what, "%s: line %llu", r->lines.path, (unsigned long long)r->lines.number);
    const struct json *j = json_parse(line, n, what, &r->line_arena, err);
    if (!j) return err->code;
    int64_t episode = json_as_integer(json_get(j, "episode"), -1), step = json_as_integer(json_get(j, "step"), -1);
    int64_t first_frame = json_as_integer(json_get(j, "first_frame"), -1);
    bool next_step = episode == r->episode && step == (int64_t)r->step + 1;
    bool next_episode = episode > r->episode && episode <= r->episode_count && step == 1;
    if (!next_step && !next_episode) {
        return err_set(err, ERR_FORMAT, "%s: step %lld of episode %lld does not follow step %u of episode %d", what, (long long)step, (long long)episode,
                       r->step, r->episode);
    }
    if (next_episode) {
        char now[33]; /* the episodes before this line must be complete with the chain as it was before it */
        memcpy(now, r->chain, sizeof now);
        memcpy(r->chain, before, sizeof before);
        int code = 0;
        for (int i = r->episode ? r->episode : 1; i < episode && !code; i++) code = check_episode_complete(r, i, err);
        memcpy(r->chain, now, sizeof now);
        if (code) return code;
    }
    *out = (struct run_line){.episode = (int)episode, .step = (uint32_t)step, .first_frame = (uint64_t)first_frame, .json = j, .chain = r->chain, .text = line, .bytes = n};
    out->frame_hash = json_as_string(json_get(j, "frame_hash"), NULL);
    out->state_hash = json_as_string(json_get(j, "state_hash"), NULL);
    out->action = json_as_string(json_get(j, "action"), "");
    out->decided_by = json_as_string(json_get(j, "decided_by"), "");
    out->scene = json_as_string(json_get(j, "scene"), "");
    if (first_frame < 0 || !is_hash(out->frame_hash) || !is_hash(out->state_hash)) {
        return err_set(err, ERR_FORMAT, "%s: first_frame, frame_hash or state_hash is missing or makes no sense", what);
    }
    if (take_buttons(json_get(j, "buttons"), out, what, err)) return err->code;
    r->episode = (int)episode;
    r->step = (uint32_t)step;
    return 1;
}

static int unpack(const struct buf *packed, const char *path, struct buf *out, struct err *err) {
    z_stream z = {0};
    if (inflateInit2(&z, 15 + 32) != Z_OK) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    z.next_in = (Bytef *)packed->data, z.avail_in = (uInt)packed->len;
    size_t start = out->len;
    int status = Z_OK;
    while (status == Z_OK) {
        if (!buf_reserve(out, 1 << 18)) break;
        z.next_out = (Bytef *)out->data + out->len;
        z.avail_out = 1 << 18;
        status = inflate(&z, Z_NO_FLUSH);
        out->len += (1u << 18) - z.avail_out;
        if (out->len - start > STATE_LIMIT) status = Z_DATA_ERROR;
    }
    inflateEnd(&z);
    return status == Z_STREAM_END ? 0 : err_set(err, ERR_FORMAT, "%s: damaged or truncated gzip file", path);
}

int run_start_state(const struct run_reader *r, const struct run_episode *e, struct buf *out, struct err *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/%.*s", PATH_MAX / 2, r->folder, PATH_MAX / 4, e->start_state);
    struct buf raw = {0};
    int code = file_read(path, STATE_LIMIT, &raw, err);
    if (!code && raw.len >= 2 && (uint8_t)raw.data[0] == 0x1F && (uint8_t)raw.data[1] == 0x8B) code = unpack(&raw, path, out, err);
    else if (!code) buf_append(out, raw.data, raw.len);
    buf_free(&raw);
    return code;
}
