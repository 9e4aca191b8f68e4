/* results.jsonl, format 1. Every line ends with "chain": XXH3-128 of (chain of the line before + this line up to the comma before
 * "chain"), so that a line that was edited, dropped, added or moved is noticed. A line is one write(); a torn last one is cut off.
 *
 *   first line  event "eval", format, program, started_at (UTC), machine, rom_hash, seeds {first, count}, settings [{name, options}]
 *   event "episode"  setting (its name), seed, outcome, cause, floor_reached, turns, decisions, decided_by {}, tokens, seconds,
 *               model_seconds, emulator_seconds, milestones [{floor (0: cleared), decision, turn, frame, seconds}],
 *               start_hash, end_hash: of the game's memory before the first press and after the last;
 *               presses: base64 of deflated pairs (keys, frames) of 16 bits, little endian: everything that was pressed. Seed,
 *               presses and ROM give the game again, and with it outcome and end_hash: that is what --verify does.
 *   event "energy"   setting, joules (null: no counter can be read here), seconds: of a stretch of work on that setting */
#include "app/eval_results.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "base/base64.h"
#include "base/file.h"
#include "base/json.h"
#include "record/hash.h"
#include "record/lines.h"

enum { FORMAT = 1, PRESS_LIMIT = 64 << 20, EPISODE_LIMIT = 10 * 1000 * 1000 };
static const char chain_key[] = ",\"chain\":\"";

/* ---- presses ---- */

int eval_presses_pack(const struct key_press *presses, size_t count, char **out, struct err *err) {
    uLongf n = compressBound(count * 4);
    uint8_t *raw = malloc(count * 4 + 1), *packed = malloc(n);
    struct buf text = {0};
    *out = NULL;
    if (raw && packed) {
        for (size_t i = 0; i < count; i++) {
            raw[4 * i] = (uint8_t)presses[i].keys, raw[4 * i + 1] = (uint8_t)(presses[i].keys >> 8);
            raw[4 * i + 2] = (uint8_t)presses[i].frames, raw[4 * i + 3] = (uint8_t)(presses[i].frames >> 8);
        }
        if (compress2(packed, &n, raw, count * 4, 9) == Z_OK) base64_encode(packed, n, &text);
    }
    free(raw);
    free(packed);
    if (text.failed || !text.len) {
        buf_free(&text);
        return err_set(err, ERR_MEMORY, "out of memory for %zu presses", count);
    }
    *out = text.data;
    return 0;
}

int eval_presses_unpack(const char *text, struct buf *out, struct err *err) {
    struct buf packed = {0};
    z_stream z = {0};
    uint8_t piece[4096];
    size_t held = 0;
    int status = Z_OK;
    if (base64_decode(text, strlen(text), &packed)) {
        buf_free(&packed);
        return err_set(err, ERR_FORMAT, "field presses is no base64");
    }
    if (inflateInit(&z) != Z_OK) {
        buf_free(&packed);
        return err_set(err, ERR_MEMORY, "out of memory");
    }
    z.next_in = (Bytef *)packed.data;
    z.avail_in = (uInt)packed.len;
    while (status == Z_OK && out->len < PRESS_LIMIT) {
        z.next_out = piece + held;
        z.avail_out = (uInt)(sizeof piece - held);
        status = inflate(&z, Z_NO_FLUSH);
        size_t n = sizeof piece - z.avail_out;
        for (size_t i = 0; i + 4 <= n; i += 4) {
            struct key_press p = {(uint16_t)(piece[i] | piece[i + 1] << 8), (uint16_t)(piece[i + 2] | piece[i + 3] << 8)};
            buf_append(out, &p, sizeof p);
        }
        held = n % 4;
        memmove(piece, piece + n - held, held);
    }
    inflateEnd(&z);
    buf_free(&packed);
    if (out->failed) return err_set(err, ERR_MEMORY, "out of memory for the presses");
    return status == Z_STREAM_END && !held ? 0 : err_set(err, ERR_FORMAT, "field presses is damaged, or has more than %d MiB", PRESS_LIMIT >> 20);
}

/* ---- writing ---- */

static void put(struct buf *b, const char *name, const char *value) {
    buf_printf(b, ",\"%s\":", name);
    buf_json_string(b, value, strlen(value));
}

static void put_number(struct buf *b, const char *name, double v) {
    buf_printf(b, ",\"%s\":", name);
    buf_json_number(b, v);
}

/* Ends the line with its chain and appends it. */
static int write_line(struct eval_results *r, struct buf *line, const char *what, struct err *err) {
    char chain[33];
    int code = line->failed ? err_set(err, ERR_MEMORY, "out of memory for a line of %s", r->path) : 0;
    if (!code) {
        hash_hex(r->chain, strlen(r->chain), line->data, line->len, chain);
        buf_printf(line, "%s%s\"}\n", chain_key, chain);
        code = line->failed ? err_set(err, ERR_MEMORY, "out of memory for a line of %s", r->path)
                            : line_append(r->fd, r->path, line->data, line->len, what, err);
    }
    if (!code && fdatasync(r->fd)) code = err_set(err, ERR_IO, "%s: %s", r->path, strerror(errno));
    if (!code) memcpy(r->chain, chain, sizeof chain);
    buf_free(line);
    return code;
}

static void describe_machine(struct eval_results *r) {
    struct utsname u;
    char line[200], cpu[100] = "";
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && !*cpu && fgets(line, sizeof line, f))
        if (!strncmp(line, "model name", 10) && strchr(line, ':')) snprintf(cpu, sizeof cpu, "%.90s", strchr(line, ':') + 2);
    if (f) fclose(f);
    cpu[strcspn(cpu, "\n")] = 0;
    if (uname(&u)) *u.machine = 0;
    snprintf(r->machine, sizeof r->machine, "%s %s, %ld cores", u.machine, cpu, sysconf(_SC_NPROCESSORS_ONLN));
}

static int write_head(struct eval_results *r, struct err *err) {
    struct buf b = {0};
    time_t now = time(NULL);
    struct tm tm;
    strftime(r->started_at, sizeof r->started_at, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    describe_machine(r);
    buf_printf(&b, "{\"event\":\"eval\",\"format\":%d", FORMAT);
    put(&b, "started_at", r->started_at);
    put(&b, "machine", r->machine);
    put(&b, "rom_hash", r->rom_hash);
    buf_printf(&b, ",\"seeds\":{\"first\":%u,\"count\":%d},\"settings\":[", r->seed_first, r->seed_count);
    for (int i = 0; i < r->setting_count; i++) {
        buf_printf(&b, "%s{\"name\":\"%s\"", i ? "," : "", r->settings[i].name);
        put(&b, "options", r->settings[i].options);
        buf_char(&b, '}');
    }
    buf_char(&b, ']');
    return write_line(r, &b, "the first line", err);
}

static int keep_episode(struct eval_results *r, struct eval_episode *e, struct err *err) {
    if (r->episode_count == r->episode_cap) {
        int cap = r->episode_cap ? 2 * r->episode_cap : 256;
        struct eval_episode *grown = realloc(r->episodes, (size_t)cap * sizeof *grown);
        if (!grown) return err_set(err, ERR_MEMORY, "out of memory for %d episodes", cap);
        r->episodes = grown;
        r->episode_cap = cap;
    }
    r->episodes[r->episode_count++] = *e;
    e->presses = NULL;
    return 0;
}

int eval_results_add(struct eval_results *r, struct eval_episode *e, struct err *err) {
    struct buf b = {0};
    char what[80];
    buf_str(&b, "{\"event\":\"episode\"");
    put(&b, "setting", r->settings[e->setting].name);
    buf_printf(&b, ",\"seed\":%u", e->seed);
    put(&b, "outcome", e->outcome);
    put(&b, "cause", e->cause);
    buf_printf(&b, ",\"floor_reached\":%d,\"turns\":%d,\"decisions\":%d,\"decided_by\":{", e->floor_reached, e->turns, e->decisions);
    for (int i = 0, n = 0; i < DECIDED_BY_COUNT; i++)
        if (e->decided[i]) buf_printf(&b, "%s\"%s\":%d", n++ ? "," : "", decided_by_name[i], e->decided[i]);
    buf_printf(&b, "},\"tokens\":%lld", (long long)e->tokens);
    put_number(&b, "seconds", e->seconds);
    put_number(&b, "model_seconds", e->model_seconds);
    put_number(&b, "emulator_seconds", e->emulator_seconds);
    buf_str(&b, ",\"milestones\":[");
    for (int i = 0; i < e->mark_count; i++) {
        const struct eval_mark *m = &e->marks[i];
        buf_printf(&b, "%s{\"floor\":%d,\"decision\":%d,\"turn\":%d,\"frame\":%llu,\"seconds\":%.3f}", i ? "," : "", m->floor, m->decision, m->turn,
                   (unsigned long long)m->frame, m->seconds);
    }
    buf_char(&b, ']');
    put(&b, "start_hash", e->start_hash);
    put(&b, "end_hash", e->end_hash);
    put(&b, "presses", e->presses);
    snprintf(what, sizeof what, "%s, seed %u", r->settings[e->setting].name, e->seed);
    int code = write_line(r, &b, what, err);
    return code ? code : keep_episode(r, e, err);
}

static int keep_energy(struct eval_results *r, const struct eval_energy *e, struct err *err) {
    struct eval_energy *grown = realloc(r->energy, (size_t)(r->energy_count + 1) * sizeof *grown);
    if (!grown) return err_set(err, ERR_MEMORY, "out of memory");
    r->energy = grown;
    r->energy[r->energy_count++] = *e;
    return 0;
}

int eval_results_add_energy(struct eval_results *r, const struct eval_energy *e, struct err *err) {
    struct buf b = {0};
    buf_str(&b, "{\"event\":\"energy\"");
    put(&b, "setting", r->settings[e->setting].name);
    put_number(&b, "joules", e->joules); /* NaN: null */
    put_number(&b, "seconds", e->seconds);
    int code = write_line(r, &b, "energy", err);
    return code ? code : keep_energy(r, e, err);
}

/* ---- reading ---- */

static int find_setting(const struct eval_results *r, const char *name) {
    for (int i = 0; i < r->setting_count; i++)
        if (!strcmp(r->settings[i].name, name)) return i;
    return -1;
}

static int take_head(struct eval_results *r, const struct json *j, struct err *err) {
    const struct json *seeds = json_get(j, "seeds"), *settings = json_get(j, "settings");
    int format = (int)json_as_integer(json_get(j, "format"), -1);
    int64_t first = json_as_integer(json_get(seeds, "first"), -1), count = json_as_integer(json_get(seeds, "count"), -1);
    if (strcmp(json_as_string(json_get(j, "event"), ""), "eval") || format != FORMAT)
        return err_set(err, ERR_FORMAT, "%s: line 1: expected the event \"eval\" of format %d", r->path, FORMAT);
    if (first < 0 || first > UINT32_MAX || count < 1 || count > EPISODE_LIMIT || !settings || settings->type != JSON_ARRAY ||
        settings->count > EVAL_SETTINGS)
        return err_set(err, ERR_FORMAT, "%s: line 1: seeds or settings make no sense", r->path);
    r->seed_first = (uint32_t)first;
    r->seed_count = (int)count;
    snprintf(r->rom_hash, sizeof r->rom_hash, "%s", json_as_string(json_get(j, "rom_hash"), ""));
    snprintf(r->started_at, sizeof r->started_at, "%s", json_as_string(json_get(j, "started_at"), ""));
    snprintf(r->machine, sizeof r->machine, "%s", json_as_string(json_get(j, "machine"), ""));
    for (uint32_t i = 0; i < settings->count; i++) {
        struct eval_setting *s = &r->settings[r->setting_count++];
        snprintf(s->name, sizeof s->name, "%s", json_as_string(json_get(settings->items[i], "name"), ""));
        if (!(s->options = strdup(json_as_string(json_get(settings->items[i], "options"), "")))) return err_set(err, ERR_MEMORY, "out of memory");
    }
    return 0;
}

static int take_episode(struct eval_results *r, const struct json *j, const char *what, struct err *err) {
    struct eval_episode e = {.setting = find_setting(r, json_as_string(json_get(j, "setting"), ""))};
    const struct json *marks = json_get(j, "milestones"), *decided = json_get(j, "decided_by");
    int64_t seed = json_as_integer(json_get(j, "seed"), -1);
    if (e.setting < 0 || seed < r->seed_first || seed >= (int64_t)r->seed_first + r->seed_count || eval_results_have(r, e.setting, (uint32_t)seed))
        return err_set(err, ERR_FORMAT, "%s: setting or seed is unknown, or occurs twice", what);
    e.seed = (uint32_t)seed;
    snprintf(e.outcome, sizeof e.outcome, "%s", json_as_string(json_get(j, "outcome"), ""));
    snprintf(e.cause, sizeof e.cause, "%s", json_as_string(json_get(j, "cause"), ""));
    e.floor_reached = (int)json_as_integer(json_get(j, "floor_reached"), 0);
    e.turns = (int)json_as_integer(json_get(j, "turns"), 0);
    e.decisions = (int)json_as_integer(json_get(j, "decisions"), 0);
    for (int i = 0; i < DECIDED_BY_COUNT; i++) e.decided[i] = (int)json_as_integer(json_get(decided, decided_by_name[i]), 0);
    e.tokens = json_as_integer(json_get(j, "tokens"), 0);
    e.seconds = json_as_number(json_get(j, "seconds"), 0);
    e.model_seconds = json_as_number(json_get(j, "model_seconds"), 0);
    e.emulator_seconds = json_as_number(json_get(j, "emulator_seconds"), 0);
    for (uint32_t i = 0; marks && marks->type == JSON_ARRAY && i < marks->count && i < EVAL_MARKS; i++) {
        const struct json *m = marks->items[i];
        e.marks[e.mark_count++] = (struct eval_mark){
            (int)json_as_integer(json_get(m, "floor"), 0), (int)json_as_integer(json_get(m, "decision"), 0), (int)json_as_integer(json_get(m, "turn"), 0),
            (uint64_t)json_as_integer(json_get(m, "frame"), 0), json_as_number(json_get(m, "seconds"), 0)};
    }
    snprintf(e.start_hash, sizeof e.start_hash, "%s", json_as_string(json_get(j, "start_hash"), ""));
    snprintf(e.end_hash, sizeof e.end_hash, "%s", json_as_string(json_get(j, "end_hash"), ""));
    e.presses = strdup(json_as_string(json_get(j, "presses"), ""));
    int code = e.presses ? keep_episode(r, &e, err) : err_set(err, ERR_MEMORY, "out of memory");
    free(e.presses);
    return code;
}

static int take_line(struct eval_results *r, const struct json *j, uint64_t number, const char *what, struct err *err) {
    const char *event = json_as_string(json_get(j, "event"), "");
    if (number == 1) return take_head(r, j, err);
    if (!strcmp(event, "episode")) return take_episode(r, j, what, err);
    if (strcmp(event, "energy")) return err_set(err, ERR_FORMAT, "%s: field event: expected episode or energy", what);
    struct eval_energy e = {find_setting(r, json_as_string(json_get(j, "setting"), "")), json_as_number(json_get(j, "joules"), NAN),
                            json_as_number(json_get(j, "seconds"), 0)};
    return e.setting < 0 ? err_set(err, ERR_FORMAT, "%s: the setting is unknown", what) : keep_energy(r, &e, err);
}

/* Reads every whole line; *bytes: where they end. */
static int read_lines(struct eval_results *r, off_t *bytes, struct err *err) {
    struct line_reader lines;
    char *line, what[PATH_MAX + 32], expected[33];
    size_t n, tail = sizeof chain_key - 1 + 32 + 2;
    *bytes = 0;
    int code = line_reader_open(r->path, &lines, err);
    while (!code && (code = line_reader_next(&lines, &line, &n, NULL, err)) == 1) {
        struct arena a = {0};
        snprintf(what, sizeof what, "%s: line %llu", r->path, (unsigned long long)lines.number);
        *bytes += (off_t)n + 1;
        bool shaped = n > tail && !memcmp(line + n - tail, chain_key, sizeof chain_key - 1);
        if (shaped) hash_hex(r->chain, strlen(r->chain), line, n - tail, expected);
        if (!shaped || memcmp(expected, line + n - 34, 32)) {
            code = err_set(err, ERR_FORMAT, "%s (or one before it) was changed, removed or added after it was written", what);
            break;
        }
        memcpy(r->chain, expected, sizeof expected);
        const struct json *j = json_parse(line, n, what, &a, err);
        code = j ? take_line(r, j, lines.number, what, err) : err->code;
        arena_free(&a);
    }
    line_reader_close(&lines);
    if (!code && !*bytes) code = err_set(err, ERR_FORMAT, "%s is empty", r->path);
    return code;
}

static int set_path(struct eval_results *r, const char *folder, struct err *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/results.jsonl", PATH_MAX - 20, folder);
    r->fd = -1;
    return (r->path = strdup(path)) ? 0 : err_set(err, ERR_MEMORY, "out of memory");
}

int eval_results_read(struct eval_results *r, const char *folder, struct err *err) {
    off_t bytes;
    int code = set_path(r, folder, err);
    return code ? code : read_lines(r, &bytes, err);
}

/* Is what the file has what was asked for? Else says what differs. */
static int same_task(const struct eval_results *have, const struct eval_results *want, struct err *err) {
    if (strcmp(have->rom_hash, want->rom_hash)) return err_set(err, ERR_ARGUMENT, "%s was begun with another ROM", have->path);
    if (have->seed_first != want->seed_first || have->seed_count != want->seed_count)
        return err_set(err, ERR_ARGUMENT, "%s was begun with the seeds %u:%d, not %u:%d", have->path, have->seed_first, have->seed_count, want->seed_first,
                       want->seed_count);
    bool same = have->setting_count == want->setting_count;
    for (int i = 0; same && i < have->setting_count; i++)
        same = !strcmp(have->settings[i].name, want->settings[i].name) && !strcmp(have->settings[i].options, want->settings[i].options);
    return same ? 0 : err_set(err, ERR_ARGUMENT, "%s was begun with other settings; name another folder with --out", have->path);
}

int eval_results_open(struct eval_results *r, const char *folder, struct err *err) {
    struct eval_results have = {.fd = -1};
    off_t bytes = 0;
    int code = set_path(r, folder, err);
    if (!code) code = file_make_folders(folder, err);
    if (code) return code;
    if (!file_exists(r->path)) {
        r->fd = open(r->path, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        return r->fd < 0 ? err_set(err, ERR_IO, "%s: %s", r->path, strerror(errno)) : write_head(r, err);
    }
    code = set_path(&have, folder, err);
    if (!code) code = read_lines(&have, &bytes, err);
    if (!code) code = same_task(&have, r, err);
    if (!code && ((have.fd = open(have.path, O_WRONLY | O_APPEND | O_CLOEXEC)) < 0 || ftruncate(have.fd, bytes))) /* without a torn line */
        code = err_set(err, ERR_IO, "%s: %s", have.path, strerror(errno));
    if (code) {
        eval_results_close(&have);
        return code;
    }
    eval_results_close(r);
    *r = have;
    return 0;
}

bool eval_results_have(const struct eval_results *r, int setting, uint32_t seed) {
    for (int i = 0; i < r->episode_count; i++)
        if (r->episodes[i].setting == setting && r->episodes[i].seed == seed) return true;
    return false;
}

void eval_results_close(struct eval_results *r) {
    if (r->fd >= 0) close(r->fd);
    for (int i = 0; i < r->episode_count; i++) free(r->episodes[i].presses);
    for (int i = 0; i < r->setting_count; i++) free(r->settings[i].options);
    free(r->episodes);
    free(r->energy);
    free(r->path);
    *r = (struct eval_results){.fd = -1};
}
