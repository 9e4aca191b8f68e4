#include "app/memory_runs.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "record/png_file.h"

int run_memory_name(const char *folder, char name[256], char full[4096], struct err *err) {
    char path[PATH_MAX], set[PATH_MAX];
    if (!realpath(folder, path)) return err_set(err, ERR_MISSING, "%s: %s", folder, strerror(errno));
    snprintf(full, 4096, "%s", path);
    char *last = strrchr(path, '/');
    snprintf(set, sizeof set, "%.*s/games.json", (int)(last - path), path);
    const char *start = last + 1;
    if (last != path && file_exists(set)) {
        char *above = memrchr(path, '/', (size_t)(last - path));
        if (above) start = above + 1;
    }
    if (!*start || snprintf(name, 256, "%s", start) >= 256) return err_set(err, ERR_ARGUMENT, "%s: a folder name of more than 255 bytes cannot name a run", folder);
    return 0;
}

/* ---- one run ---------------------------------------------------------------------------------------------------------------------- */

struct taking {
    struct memory *m;
    const struct take_options *o;
    struct take_counts *c;
    const char *folder, *name;
    int64_t run;
    struct keyframe_track track;
    const struct run_episode *episodes;
    int episode_count, episode, reopens; /* episode: the one whose steps are being taken; reopens: run_reader_reopens */
    uint32_t steps;
    bool embeds;
    float *vector;
    struct token_chain tokens;
    const int32_t *prompt;  /* of this line; NULL: none */
    int prompt_count;
};

static int read_picture(const struct taking *t, const char *name, uint8_t *rgb, struct err *err) {
    char path[PATH_MAX];
    struct buf file = {0};
    if (strstr(name, "..")) return err_set(err, ERR_FORMAT, "%s: the picture \"%.60s\" lies outside the run", t->folder, name);
    snprintf(path, sizeof path, "%.*s/%.*s", PATH_MAX / 2, t->folder, PATH_MAX / 4, name);
    int code = file_read(path, 4 << 20, &file, err);
    if (!code) code = png_decode(file.data, file.len, FRAME_WIDTH, FRAME_HEIGHT, rgb, path, err);
    buf_free(&file);
    return code;
}

static int32_t *read_tokens(const struct json *ids, int *count) {
    *count = 0;
    if (!ids || ids->type != JSON_ARRAY || !ids->count) return NULL;
    int32_t *out = malloc(ids->count * sizeof *out);
    for (uint32_t i = 0; out && i < ids->count; i++) out[(*count)++] = (int32_t)json_as_integer(ids->items[i], 0);
    return out;
}

/* 1: t->vector is the step's; 0: there is nothing to make it of. */
static int embed_line(struct taking *t, const struct run_line *line, const struct store_step *s, struct err *err) {
    static _Thread_local uint8_t rgb[FRAME_PIXELS * 3];
    if (!s->picture) return 0;
    int code = read_picture(t, s->picture, rgb, err);
    if (code) return code == ERR_MISSING ? 0 : code;
    if (embedder_kind(t->o->embedder) != EMBED_THOUGHT) {
        code = embed_picture(t->o->embedder, rgb, t->vector, err);
        return code ? code : 1;
    }
    struct embed_answer a = {.rgb = rgb, .prompt = t->prompt, .prompt_count = t->prompt_count};
    int32_t *answer = read_tokens(json_get(line->json, "answer_tokens"), &a.answer_count);
    a.answer = answer;
    code = a.prompt && answer ? embed_thought(t->o->embedder, &a, t->vector, err) : ERR_ARGUMENT;
    free(answer);
    return code == ERR_ARGUMENT ? 0 : code ? code : 1;
}

/* The memories that the line says were told. */
static int take_recalled(struct taking *t, const struct run_line *line, struct memory_told out[MEMORY_TOLD], int *count, struct err *err) {
    const struct json *list = json_get(line->json, "recalled");
    *count = 0;
    if (!list) return 0;
    if (list->type != JSON_ARRAY || list->count > MEMORY_TOLD) {
        return err_set(err, ERR_FORMAT, "%s: step %u of episode %d: field recalled: expected an array of at most %d", t->folder, line->step, line->episode, MEMORY_TOLD);
    }
    for (uint32_t i = 0; i < list->count; i++) {
        const struct json *j = list->items[i];
        const char *run = json_as_string(json_get(j, "run"), NULL);
        int64_t episode = json_as_integer(json_get(j, "episode"), -1), step = json_as_integer(json_get(j, "step"), -1), keyframe;
        int64_t silos = json_as_integer(json_get(j, "silos"), -1);
        if (!run || episode < 1 || episode > INT_MAX || step < 1 || step > UINT32_MAX || silos < 0 || silos > 255) {
            return err_set(err, ERR_FORMAT, "%s: step %u of episode %d: field recalled, entry %u: run, episode, step or silos makes no sense", t->folder,
                           line->step, line->episode, i);
        }
        if (store_keyframe_at(memory_store(t->m), run, (int)episode, (uint32_t)step, &keyframe, err)) return err->code;
        if (!keyframe) {
            t->c->forgotten++;
            continue;
        }
        struct memory_told *told = &out[(*count)++];
        *told = (struct memory_told){.score = (float)json_as_number(json_get(j, "score"), 0), .similarity = (float)json_as_number(json_get(j, "similarity"), 0),
                                     .silos = (unsigned)silos};
        told->memory.keyframe = keyframe;
    }
    return 0;
}

/* First pass: what a line says of its step. */
static int take_step(struct taking *t, const struct run_line *line, struct err *err) {
    struct store_step s;
    int embedded = 0;
    int64_t known = 0; /* keyframe that the store has already */
    t->prompt = token_chain_line(&t->tokens, line->json, &t->prompt_count);
    if (store_step_of_line(line, &s, err)) return err_context(err, "%s", t->folder);
    bool over = line->episode < t->reopens; /* else it is lived again, and recall sees it then */
    if (t->o->recall && over && recall_resume(t->o->recall, line, err)) return err->code;
    s.run = t->run;
    s.seed = t->episodes[line->episode - 1].seed;
    keyframe_track_step(&t->track, &s);
    if (s.causes && t->o->recall && store_keyframe_at(memory_store(t->m), t->name, s.episode, s.number, &known, err)) return err->code;
    if (s.causes && t->embeds && !known && (embedded = embed_line(t, line, &s, err)) < 0) return embedded;
    t->c->steps++;
    t->c->keyframes += s.causes != 0;
    t->c->embedded += embedded;
    t->c->without_picture += s.causes && t->embeds && !known && !embedded;
    return memory_step(t->m, &s, embedded ? t->vector : NULL, NULL, 0, err);
}

static int end_episode(struct taking *t, struct err *err) {
    const struct run_episode *e = t->episode ? &t->episodes[t->episode - 1] : NULL;
    return e && e->ended ? memory_episode_end(t->m, t->run, t->episode, t->steps, e->outcome, err) : 0;
}

/* Second pass: what was recalled at it. What the store has already stays. */
static int take_told(struct taking *t, const struct run_line *line, struct err *err) {
    struct store *s = memory_store(t->m);
    struct memory_told told[MEMORY_TOLD];
    struct store_recall r;
    int count = 0;
    if (line->episode != t->episode) {
        if (end_episode(t, err)) return err->code;
        t->episode = line->episode;
    }
    t->steps = line->step;
    if (take_recalled(t, line, told, &count, err)) return err->code;
    int known = count ? store_recalled(s, t->run, line->episode, line->step, &r, 1, err) : 0;
    if (known < 0) return known;
    for (int i = 0; i < count && !known; i++) {
        r = (struct store_recall){t->run, line->episode, line->step, i + 1, told[i].memory.keyframe, told[i].score, told[i].similarity, told[i].silos};
        if (store_recall(s, &r, err)) return err->code;
    }
    return store_judge(s, t->run, line->episode, line->step, false, err);
}

static int take_lines(struct taking *t, struct run_reader *reader, int (*take)(struct taking *t, const struct run_line *line, struct err *err), struct err *err) {
    struct run_line *line = malloc(sizeof *line);
    if (!line) return err_set(err, ERR_MEMORY, "%s: out of memory", t->folder);
    int got = 0, code = 0;
    bool torn = false;
    while (!code && (got = run_next(reader, line, &torn, err)) == 1) {
        code = t->o->stop && *t->o->stop ? err_set(err, ERR_CANCELLED, "stopped") : take(t, line, err);
    }
    if (torn) t->c->torn = true;
    free(line);
    return code ? code : got < 0 ? got : 0;
}

static int taking_open(struct taking *t, const char *folder, char name[256], char full[4096], struct run_reader **reader, struct err *err) {
    int code = run_memory_name(folder, name, full, err);
    if (!code) code = run_open(folder, reader, err);
    if (code) return code;
    t->folder = folder;
    t->name = name;
    t->episode_count = run_reader_episodes(*reader, &t->episodes);
    t->reopens = run_reader_reopens(*reader);
    return 0;
}

int memory_take_steps(struct memory *m, const char *folder, const struct take_options *o, int64_t *run, struct take_counts *c, struct err *err) {
    char name[256], full[4096];
    struct run_reader *reader = NULL;
    struct taking t = {.m = m, .o = o, .c = c};
    int code = taking_open(&t, folder, name, full, &reader, err);
    if (code) return code;
    const struct run_info *i = run_reader_info(reader);
    struct store_run row = {name, full, i->started_at, i->rom_code, i->rom_hash, i->policy, i->model};
    code = memory_run_add(m, &row, &t.run, err);
    t.embeds = o->embedder && !strcmp(i->rom_code, o->game);
    if (!code && t.embeds && !(t.vector = malloc((size_t)embedder_dims(o->embedder) * sizeof *t.vector))) {
        code = err_set(err, ERR_MEMORY, "%s: out of memory", folder);
    }
    if (!code) code = take_lines(&t, reader, take_step, err);
    if (!code) c->runs++, *run = t.run;
    free(t.vector);
    token_chain_free(&t.tokens);
    run_close(reader);
    return code;
}

int memory_take_recalled(struct memory *m, const char *folder, const struct take_options *o, int64_t run, struct take_counts *c, struct err *err) {
    char name[256], full[4096];
    struct run_reader *reader = NULL;
    struct taking t = {.m = m, .o = o, .c = c, .run = run};
    int code = taking_open(&t, folder, name, full, &reader, err);
    if (!code) code = take_lines(&t, reader, take_told, err);
    if (!code) code = end_episode(&t, err);
    run_close(reader);
    return code;
}

/* ---- all runs ---------------------------------------------------------------------------------------------------------------------- */

void run_list_free(struct run_list *l) {
    for (int i = 0; i < l->count; i++) free(l->folders[i]);
    free(l->folders);
    *l = (struct run_list){0};
}

static int add_folder(struct run_list *l, const char *path, struct err *err) {
    char **more = realloc(l->folders, ((size_t)l->count + 1) * sizeof *more);
    char *copy = more ? strdup(path) : NULL;
    if (more) l->folders = more;
    if (!copy) return err_set(err, ERR_MEMORY, "out of memory for a list of runs");
    l->folders[l->count++] = copy;
    return 0;
}

static int look_into(struct run_list *l, const char *folder, int depth, struct err *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/run.json", PATH_MAX - 16, folder);
    if (file_exists(path)) return add_folder(l, folder, err);
    if (depth == 0) return 0;
    DIR *d = opendir(folder);
    if (!d) return errno == ENOTDIR ? 0 : err_set(err, ERR_IO, "%s: %s", folder, strerror(errno));
    int code = 0;
    for (struct dirent *e; !code && (e = readdir(d));) {
        if (*e->d_name == '.' || snprintf(path, sizeof path, "%s/%s", folder, e->d_name) >= PATH_MAX) continue;
        code = look_into(l, path, depth - 1, err);
    }
    closedir(d);
    return code;
}

struct dated {
    char *folder, at[64];
};
static int compare(const void *x, const void *y) {
    const struct dated *a = x, *b = y;
    int c = strcmp(a->at, b->at);
    return c ? c : strcmp(a->folder, b->folder);
}

/* Oldest first, as they came into the store: of equal pictures the first has the embedding. One that cannot be read is refused later, by name. */
static int sort_by_start(struct run_list *l, struct err *err) {
    struct dated *list = calloc((size_t)l->count + 1, sizeof *list);
    if (!list) return err_set(err, ERR_MEMORY, "out of memory for a list of runs");
    for (int i = 0; i < l->count; i++) {
        struct run_reader *r;
        list[i].folder = l->folders[i];
        if (run_open(l->folders[i], &r, NULL)) continue;
        const char *at = run_reader_info(r)->started_at;
        snprintf(list[i].at, sizeof list[i].at, "%s", at ? at : "");
        run_close(r);
    }
    qsort(list, (size_t)l->count, sizeof *list, compare);
    for (int i = 0; i < l->count; i++) l->folders[i] = list[i].folder;
    free(list);
    return 0;
}

int run_list_find(const char *root, struct run_list *out, struct err *err) {
    *out = (struct run_list){0};
    int code = look_into(out, root, 2, err);
    if (!code) code = sort_by_start(out, err);
    if (code) run_list_free(out);
    return code;
}
