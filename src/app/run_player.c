#include "app/run_player.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "app/run_game.h"
#include "base/file.h"
#include "record/png_file.h"

enum { SPACING = 16, MOST_STATES = 256, LONGEST_GAP = 1000 * 1000, PICTURE_LIMIT = 1 << 20 };

struct place { /* of a step in trajectory.jsonl */
    uint64_t offset;
    uint32_t bytes;
    uint64_t first_frame;
    int32_t key_frame; /* step whose picture was kept: this one or the nearest before, -1 none */
};

struct kept_state { /* at the observation of a step, deflated */
    uint32_t index;
    uint8_t *data;
    uLong bytes, plain;
};

struct run_player {
    char *folder;
    struct run_reader *reader;
    struct emulator *emulator; /* NULL: key frames only */
    int trajectory;
    struct place *places;
    struct dash_row *rows;
    uint32_t count, cap;
    struct kept_state states[MOST_STATES];
    int state_count;
    uint32_t spacing;

    int64_t at;                /* step whose observation this is, -1: nowhere yet */
    bool picture_there;
    uint8_t rgb[FRAME_PIXELS * 3];
    struct world world;
    struct world_seen seen;
    struct key_press presses[MAX_STEP_PRESSES];
    int press_count;
    uint64_t position;         /* emulator's frame in the run's own count */
};

/* ---- reading ------------------------------------------------------------------------------------------------------------------- */

static float number_of(const struct json *j, const char *key) { return (float)json_as_number(json_get(j, key), 0); }
static int16_t small_of(const struct json *j, const char *key) {
    int64_t v = json_as_integer(json_get(j, key), 0);
    return (int16_t)(v < 0 ? 0 : v > INT16_MAX ? INT16_MAX : v);
}
static int32_t count_of(const struct json *j, const char *key) {
    const struct json *a = json_get(j, key);
    return a && a->type == JSON_ARRAY ? (int32_t)a->count : 0;
}

static void take_row(const struct run_line *line, struct dash_row *row) {
    const struct json *j = line->json, *ms = json_get(j, "ms");
    *row = (struct dash_row){.episode = (uint32_t)line->episode, .step = line->step, .floor = small_of(j, "floor"), .hp = small_of(j, "hp"),
                             .max_hp = small_of(j, "max_hp"), .belly = small_of(j, "belly"), .confidence = number_of(j, "confidence"),
                             .total_ms = number_of(ms, "total"), .ask_ms = number_of(ms, "ask"), .image_ms = number_of(ms, "image"),
                             .prefill_ms = number_of(ms, "prefill"), .generate_ms = number_of(ms, "generate"), .emulator_ms = number_of(ms, "emulator"),
                             .prompt_tokens = count_of(j, "prompt_tokens") + (int32_t)json_as_integer(json_get(j, "prompt_from"), 0), .cached_tokens = (int32_t)json_as_integer(json_get(j, "cached_tokens"), 0),
                             .answer_tokens = count_of(j, "answer_tokens")};
    snprintf(row->decided_by, sizeof row->decided_by, "%s", line->decided_by);
    snprintf(row->action, sizeof row->action, "%s", line->action);
}

static int add_step(struct run_player *p, const struct run_line *line, uint64_t offset, struct err *err) {
    if (p->count == p->cap) {
        uint32_t cap = p->cap ? p->cap * 2 : 1024;
        struct place *places = realloc(p->places, cap * sizeof *places);
        if (places) p->places = places;
        struct dash_row *rows = places ? realloc(p->rows, cap * sizeof *rows) : NULL;
        if (!rows) return err_set(err, ERR_MEMORY, "%s: out of memory for %u steps", p->folder, cap);
        p->rows = rows;
        p->cap = cap;
    }
    bool kept = json_as_string(json_get(line->json, "picture"), NULL) != NULL;
    p->places[p->count] = (struct place){offset, (uint32_t)line->bytes, line->first_frame, kept ? (int32_t)p->count : p->count ? p->places[p->count - 1].key_frame : -1};
    take_row(line, &p->rows[p->count]);
    p->count++;
    return 0;
}

static int read_steps(struct run_player *p, struct err *err) {
    struct run_line *line = malloc(sizeof *line);
    if (!line) return err_set(err, ERR_MEMORY, "%s: out of memory", p->folder);
    uint64_t offset = 0;
    int got, code = 0;
    while (!code && (got = run_next(p->reader, line, NULL, err)) != 0) {
        code = got < 0 ? got : add_step(p, line, offset, err);
        if (!code) offset += line->bytes + 1;
    }
    free(line);
    if (!code && !p->count) code = err_set(err, ERR_FORMAT, "%s: the run holds no step", p->folder);
    return code;
}

int run_player_open(const char *folder, const char *rom, struct run_player **out, char *why, size_t cap, struct err *err) {
    *out = NULL;
    *why = 0;
    struct run_player *p = calloc(1, sizeof *p);
    if (!p || !(p->folder = strdup(folder))) {
        free(p);
        return err_set(err, ERR_MEMORY, "%s: out of memory", folder);
    }
    char path[PATH_MAX];
    p->trajectory = -1;
    p->at = -1;
    p->spacing = SPACING;
    snprintf(path, sizeof path, "%.*s/trajectory.jsonl", PATH_MAX - 20, folder);
    int code = run_open(folder, &p->reader, err);
    if (!code) code = read_steps(p, err);
    if (!code && (p->trajectory = open(path, O_RDONLY | O_CLOEXEC)) < 0) code = err_set(err, ERR_IO, "%s: cannot open", path);
    if (code) {
        run_player_close(p);
        return code;
    }
    struct err no_game = {0};
    if (run_game_open(run_reader_info(p->reader), rom, &p->emulator, &no_game)) {
        if (rom) {
            run_player_close(p);
            return *err = no_game, no_game.code;
        }
        snprintf(why, cap, "%s", no_game.message);
    }
    *out = p;
    return 0;
}

void run_player_close(struct run_player *p) {
    if (!p) return;
    for (int i = 0; i < p->state_count; i++) free(p->states[i].data);
    if (p->emulator) emulator_close(p->emulator);
    if (p->trajectory >= 0) close(p->trajectory);
    run_close(p->reader);
    free(p->places);
    free(p->rows);
    free(p->folder);
    free(p);
}

const struct run_reader *run_player_reader(const struct run_player *p) { return p->reader; }
uint32_t run_player_steps(const struct run_player *p) { return p->count; }
const struct dash_row *run_player_row(const struct run_player *p, uint32_t index) { return &p->rows[index]; }
bool run_player_has_game(const struct run_player *p) { return p->emulator != NULL; }
const uint8_t *run_player_picture(const struct run_player *p) { return p->picture_there ? p->rgb : NULL; }
const struct world *run_player_world(const struct run_player *p) { return p->emulator ? &p->world : NULL; }
const struct world_seen *run_player_seen(const struct run_player *p) { return p->emulator ? &p->seen : NULL; }

int run_player_line(struct run_player *p, uint32_t index, struct buf *out, struct err *err) {
    const struct place *at = &p->places[index];
    if (!buf_reserve(out, at->bytes + 1)) return err_set(err, ERR_MEMORY, "%s: out of memory", p->folder);
    ssize_t got = pread(p->trajectory, out->data + out->len, at->bytes, (off_t)at->offset);
    if (got != (ssize_t)at->bytes) return err_set(err, ERR_IO, "%s/trajectory.jsonl: cannot read step %u", p->folder, index + 1);
    out->len += at->bytes;
    out->data[out->len] = 0;
    return 0;
}

/* ---- states kept in memory -------------------------------------------------------------------------------------------------------- */

static void keep_state(struct run_player *p) {
    uint32_t index = (uint32_t)p->at;
    if (index % p->spacing) return;
    for (int i = 0; i < p->state_count; i++) {
        if (p->states[i].index == index) return;
    }
    if (p->state_count == MOST_STATES) { /* half of them go, the others stand twice as far apart */
        int left = 0;
        p->spacing *= 2;
        for (int i = 0; i < p->state_count; i++) {
            if (p->states[i].index % p->spacing == 0) p->states[left++] = p->states[i];
            else free(p->states[i].data);
        }
        p->state_count = left;
        if (index % p->spacing) return;
    }
    struct buf plain = {0};
    buf_append(&plain, &p->seen, sizeof p->seen);
    buf_append(&plain, p->rgb, sizeof p->rgb);
    if (emulator_state_save(p->emulator, &plain, NULL) || plain.failed) return buf_free(&plain);
    struct kept_state s = {.index = index, .plain = plain.len, .bytes = compressBound(plain.len)};
    s.data = malloc(s.bytes);
    if (s.data && compress2(s.data, &s.bytes, (Bytef *)plain.data, plain.len, 1) == Z_OK) {
        uint8_t *fit = realloc(s.data, s.bytes);
        if (fit) s.data = fit;
        p->states[p->state_count++] = s;
    } else {
        free(s.data);
    }
    buf_free(&plain);
}

/* The newest state of this episode at or before a step, NULL: none. */
static const struct kept_state *nearest_state(const struct run_player *p, uint32_t index) {
    const struct kept_state *best = NULL;
    for (int i = 0; i < p->state_count; i++) {
        const struct kept_state *s = &p->states[i];
        if (s->index <= index && p->rows[s->index].episode == p->rows[index].episode && (!best || s->index > best->index)) best = s;
    }
    return best;
}

static int load_state(struct run_player *p, const struct kept_state *s, struct err *err) {
    uLongf n = s->plain;
    uint8_t *plain = malloc(n);
    if (!plain || uncompress(plain, &n, s->data, s->bytes) != Z_OK) {
        free(plain);
        return err_set(err, ERR_MEMORY, "out of memory for a state");
    }
    memcpy(&p->seen, plain, sizeof p->seen);
    memcpy(p->rgb, plain + sizeof p->seen, sizeof p->rgb);
    size_t head = sizeof p->seen + sizeof p->rgb;
    int code = emulator_state_load(p->emulator, plain + head, n - head, err);
    free(plain);
    return code;
}

/* ---- going there ------------------------------------------------------------------------------------------------------------------ */

static int take_presses(struct run_player *p, uint32_t index, struct err *err) {
    struct buf text = {0};
    struct arena arena = {0};
    int code = run_player_line(p, index, &text, err);
    const struct json *j = code ? NULL : json_parse(text.data, text.len, "step", &arena, err), *buttons = json_get(j, "buttons");
    if (!code && !j) code = err->code;
    p->press_count = 0;
    for (uint32_t i = 0; buttons && buttons->type == JSON_ARRAY && i < buttons->count && i < MAX_STEP_PRESSES; i++) { /* checked by run_next */
        const struct json *pair = buttons->items[i];
        p->presses[p->press_count++] = (struct key_press){(uint16_t)pair->items[0]->integer, (uint16_t)pair->items[1]->integer};
    }
    buf_free(&text);
    arena_free(&arena);
    return code;
}

static void decode(struct run_player *p) {
    struct memory_view memory;
    const struct rom_header *header = emulator_header(p->emulator);
    emulator_memory(p->emulator, &memory);
    world_decode(&memory, header->title, header->code, &p->world);
}

/* The emulator has reached the observation of a step. */
static int arrive(struct run_player *p, uint32_t index, struct err *err) {
    p->at = index;
    p->position = p->places[index].first_frame;
    decode(p);
    world_seen_update(&p->seen, &p->world);
    p->picture_there = emulator_frame(p->emulator, p->rgb) > 0;
    keep_state(p);
    return take_presses(p, index, err);
}

static int begin_episode(struct run_player *p, uint32_t index, struct err *err) {
    const struct run_episode *episodes;
    struct buf state = {0};
    run_reader_episodes(p->reader, &episodes);
    const struct run_episode *e = &episodes[p->rows[index].episode - 1];
    int code = run_start_state(p->reader, e, &state, err);
    emulator_reset(p->emulator);
    if (!code) code = emulator_state_load(p->emulator, state.data, state.len, err);
    buf_free(&state);
    world_seen_reset(&p->seen);
    p->at = -1;
    p->position = e->start_frame;
    return code;
}

static int run_to(struct run_player *p, uint32_t keys, uint64_t frame, struct err *err) {
    if (frame < p->position || frame - p->position > LONGEST_GAP) {
        return err_set(err, ERR_FORMAT, "%s: frame %llu does not follow frame %llu", p->folder, (unsigned long long)frame, (unsigned long long)p->position);
    }
    int frames = (int)(frame - p->position);
    if (frames) emulator_run(p->emulator, keys, frames, true);
    p->position = frame;
    return 0;
}

/* From the observation it stands at (or the episode's start) to the one of the next step. */
static int step_on(struct run_player *p, uint32_t next, struct err *err) {
    int code = 0;
    for (int i = 0; p->at >= 0 && i < p->press_count && !code; i++) code = run_to(p, p->presses[i].keys, p->position + p->presses[i].frames, err);
    if (!code) code = run_to(p, 0, p->places[next].first_frame, err);
    return code ? code : arrive(p, next, err);
}

static uint32_t first_of_episode(const struct run_player *p, uint32_t index) { return index + 1 - p->rows[index].step; }

static int show_key_frame(struct run_player *p, uint32_t index, struct err *err) {
    int32_t from = p->places[index].key_frame;
    p->at = index;
    p->picture_there = false;
    if (from < 0) return 0;
    char path[PATH_MAX];
    struct buf png = {0};
    snprintf(path, sizeof path, "%.*s/frames/e%05u-s%06u.png", PATH_MAX - 40, p->folder, p->rows[from].episode, p->rows[from].step);
    int code = file_read(path, PICTURE_LIMIT, &png, err);
    if (!code) code = png_decode(png.data, png.len, FRAME_WIDTH, FRAME_HEIGHT, p->rgb, path, err);
    buf_free(&png);
    p->picture_there = code == 0;
    return code;
}

int run_player_go(struct run_player *p, uint32_t index, struct err *err) {
    if (index >= p->count) return err_set(err, ERR_ARGUMENT, "%s: there is no step %u", p->folder, index + 1);
    if (!p->emulator) return show_key_frame(p, index, err);
    const struct kept_state *near = nearest_state(p, index);
    bool onward = p->at >= 0 && p->position == p->places[p->at].first_frame && p->at <= index && p->rows[p->at].episode == p->rows[index].episode &&
                  (!near || near->index <= p->at);
    int code = 0;
    if (onward) {
        if (p->at == index) return 0;
    } else if (near) {
        if ((code = load_state(p, near, err))) return code;
        p->at = near->index;
        p->position = p->places[near->index].first_frame;
        p->picture_there = true;
        decode(p);
        if ((code = take_presses(p, near->index, err))) return code;
    } else if ((code = begin_episode(p, index, err))) {
        return code;
    }
    uint32_t next = p->at < 0 ? first_of_episode(p, index) : (uint32_t)p->at + 1;
    for (; next <= index && !code; next++) code = step_on(p, next, err);
    if (code) p->at = -1;
    return code;
}

/* ---- playing ---------------------------------------------------------------------------------------------------------------------- */

int run_player_play(struct run_player *p, bool (*frame)(void *user, const uint8_t *rgb, uint64_t number), void *user, bool *arrived, struct err *err) {
    *arrived = false;
    if (!p->emulator || p->at < 0) return err_set(err, ERR_STATE, "%s: there is no game to play", p->folder);
    uint32_t next = (uint32_t)p->at + 1;
    bool same = next < p->count && p->rows[next].episode == p->rows[p->at].episode;
    for (int i = 0; i <= p->press_count; i++) {
        uint64_t gap = i == p->press_count && same && p->places[next].first_frame > p->position ? p->places[next].first_frame - p->position : 0;
        uint64_t frames = i < p->press_count ? p->presses[i].frames : gap;
        if (frames > LONGEST_GAP) return err_set(err, ERR_FORMAT, "%s: %llu frames between two steps", p->folder, (unsigned long long)frames);
        for (; frames; frames--) {
            emulator_run(p->emulator, i < p->press_count ? p->presses[i].keys : 0, 1, true);
            p->position++;
            p->picture_there = emulator_frame(p->emulator, p->rgb) > 0;
            if (p->picture_there && !frame(user, p->rgb, p->position)) return 0;
        }
    }
    *arrived = same;
    return same ? arrive(p, next, err) : 0;
}
