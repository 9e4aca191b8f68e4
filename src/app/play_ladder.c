#include "app/play_ladder.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/ask_engine.h"
#include "agent/home.h"
#include "app/model_list.h"
#include "app/router_file.h"
#include "base/file.h"
#include "engine/model_pool.h"

struct rung_model {
    char name[96], folder[PATH_MAX];
    size_t weight_bytes;
    struct qvl_model *model; /* held from its first question to the end; NULL: not loaded yet */
};

struct play_ladder {
    struct router_file *file;
    char path[PATH_MAX];     /* of the file, "": none was read */
    struct rung_model rungs[ROUTER_RUNGS];
    int count;
    struct model_pool *pool;
    struct ladder *ladder;
    pthread_mutex_t lock;    /* which are loaded */
};

struct game_rung {
    struct play_ladder_game *game;
    int rung;
    struct engine_answerer *engine; /* made with its first question */
};

struct play_ladder_game {
    struct play_ladder *ladder;
    struct engine_answerer_options options;
    struct game_rung rungs[ROUTER_RUNGS];
    struct router *router;
};

/* The last part of a folder or id: how outputs name it. */
static const char *short_name(const char *name) {
    const char *slash = strrchr(name, '/');
    return slash && slash[1] ? slash + 1 : name;
}

static int read_settings(const struct play_options *o, struct play_ladder *l, struct err *err) {
    int code = 0;
    if (o->router) snprintf(l->path, sizeof l->path, "%s", o->router);
    else home_file("configs/router.yaml", l->path, sizeof l->path);
    if (o->router || file_exists(l->path)) code = router_file_read(l->path, l->file, err);
    else code = router_file_parse("", 0, "defaults", l->file, err), *l->path = 0;
    if (code) return code;
    struct router_settings *s = &l->file->settings;
    if (o->max_loaded > 0) l->file->max_loaded = o->max_loaded;
    if (o->decision_ms > 0) s->decision_ms = o->decision_ms;
    if (o->fixed_rung > 0) s->fixed = o->fixed_rung - 1;
    if (o->ladder || o->model || !l->file->model_count) l->file->model_count = 0;
    for (const char *at = o->ladder; at && *at;) {
        size_t n = strcspn(at, ",");
        if (!n || n >= ROUTER_MODEL_NAME || l->file->model_count == ROUTER_RUNGS) {
            return err_set(err, ERR_ARGUMENT, "--ladder %s: expected up to %d names, separated by commas", o->ladder, ROUTER_RUNGS);
        }
        snprintf(l->file->models[l->file->model_count++], ROUTER_MODEL_NAME, "%.*s", (int)n, at);
        at += n + (at[n] == ',');
    }
    char bundled[PATH_MAX];
    if (!l->file->model_count) {
        snprintf(l->file->models[l->file->model_count++], ROUTER_MODEL_NAME, "%s", o->model ? o->model : home_file(HOME_MODEL, bundled, sizeof bundled));
    }
    return 0;
}

bool play_ladder_wanted(const struct play_options *o) {
    if (o->backend != BACKEND_HF && o->backend != BACKEND_LOCAL) return false;
    if (o->ladder || o->router || o->decision_ms > 0) return true;
    if (o->model) return false;
    char path[PATH_MAX];
    struct router_file *f = malloc(sizeof *f);
    struct err err;
    bool wanted = f && file_exists(home_file("configs/router.yaml", path, sizeof path)) && (router_file_read(path, f, &err) || f->model_count > 0);
    free(f);
    return wanted;
}

static bool is_loaded(void *user, int rung) {
    struct play_ladder *l = user;
    pthread_mutex_lock(&l->lock);
    bool loaded = l->rungs[rung].model != NULL;
    pthread_mutex_unlock(&l->lock);
    return loaded;
}

/* The pool makes those who come at the same time wait for one load. */
static int acquire(struct play_ladder *l, int rung, struct qvl_model **out, struct err *err) {
    struct rung_model *m = &l->rungs[rung];
    if (is_loaded(l, rung)) return *out = m->model, 0;
    struct qvl_model *model;
    int code = model_pool_acquire(l->pool, m->folder, &model, err);
    if (code) return code;
    pthread_mutex_lock(&l->lock);
    bool again = m->model != NULL;
    if (!again) m->model = model;
    pthread_mutex_unlock(&l->lock);
    if (again) model_pool_release(l->pool, model);
    *out = model;
    return 0;
}

static int find_models(struct play_ladder *l, const struct qvl_options *options, struct router_rung *rungs, struct err *err) {
    const struct router_file *f = l->file;
    l->count = f->model_count;
    for (int i = 0; i < l->count; i++) {
        struct rung_model *m = &l->rungs[i];
        snprintf(m->name, sizeof m->name, "%s", short_name(f->models[i]));
        for (int k = 0; k < i; k++) {
            if (!strcmp(l->rungs[k].name, m->name)) return err_set(err, ERR_ARGUMENT, "the ladder has two models named %s", m->name);
        }
        int code = model_resolve(f->models[i], false, m->folder, err);
        struct qvl_plan plan = {0};
        if (!code) code = qvl_plan_load(m->folder, options, &plan, err);
        if (code) return code;
        m->weight_bytes = plan.weight_bytes;
        rungs[i] = (struct router_rung){.name = m->name, .cost = (double)plan.weight_bytes};
        for (int k = 0; k < f->calibration_count; k++) {
            if (strcmp(f->calibration[k].model, m->name) && strcmp(f->calibration[k].model, f->models[i])) continue;
            char path[PATH_MAX];
            if ((code = calibration_read(home_file(f->calibration[k].path, path, sizeof path), &rungs[i].calibration, err))) return code;
        }
    }
    return 0;
}

static int open_ladder(const struct play_options *o, struct play_ladder *l, struct err *err) {
    struct router_rung *rungs = calloc(ROUTER_RUNGS, sizeof *rungs);
    struct qvl_options options = {.device = o->device, .threads = o->threads, .cache_dir = o->kv_cache};
    int code = rungs ? read_settings(o, l, err) : err_set(err, ERR_MEMORY, "out of memory for a ladder");
    if (!code && l->file->model_count > l->file->max_loaded) {
        code = err_set(err, ERR_ARGUMENT, "the ladder has %d models, but only %d may be loaded at a time (--max-loaded-models): they would push each other out",
                       l->file->model_count, l->file->max_loaded);
    }
    if (!code) code = find_models(l, &options, rungs, err);
    if (!code) code = model_pool_new(l->file->max_loaded, &options, &l->pool, err);
    struct qvl_model *first;
    if (!code) code = acquire(l, 0, &first, err);
    if (!code) {
        struct qvl_info info;
        qvl_model_info(first, &info);
        /* What loading the others will take, by what it took here. */
        for (int i = 1; i < l->count; i++) rungs[i].load_ms = info.load_seconds * 1e3 * (double)l->rungs[i].weight_bytes / (double)(info.weight_bytes ? info.weight_bytes : 1);
        code = ladder_new(&l->file->settings, rungs, l->count, is_loaded, l, NULL, &l->ladder, err);
    }
    free(rungs);
    return code;
}

int play_ladder_open(const struct play_options *o, char *label, size_t cap, struct play_ladder **out, struct err *err) {
    struct play_ladder *l = calloc(1, sizeof *l);
    *out = NULL;
    if (!l || !(l->file = calloc(1, sizeof *l->file))) {
        free(l);
        return err_set(err, ERR_MEMORY, "out of memory for a ladder");
    }
    pthread_mutex_init(&l->lock, NULL);
    int code = open_ladder(o, l, err);
    if (code) return play_ladder_close(l), code;
    *label = 0;
    for (int i = 0; i < l->count; i++) {
        size_t n = strlen(label);
        snprintf(label + n, cap - n, "%s%s", i ? " < " : "", l->rungs[i].name);
    }
    *out = l;
    return 0;
}

void play_ladder_close(struct play_ladder *l) {
    if (!l) return;
    ladder_free(l->ladder);
    for (int i = 0; i < l->count; i++) {
        if (l->rungs[i].model) model_pool_release(l->pool, l->rungs[i].model);
    }
    if (l->pool) model_pool_free(l->pool);
    pthread_mutex_destroy(&l->lock);
    free(l->file);
    free(l);
}

void play_ladder_detail(const struct play_ladder *l, struct buf *out) {
    const struct router_settings *s = &l->file->settings;
    buf_str(out, "{\"backend\":\"ladder\",\"models\":[");
    for (int i = 0; i < l->count; i++) {
        buf_str(out, i ? ",{\"name\":" : "{\"name\":"), buf_json_string(out, l->rungs[i].name, strlen(l->rungs[i].name));
        buf_str(out, ",\"folder\":"), buf_json_string(out, l->rungs[i].folder, strlen(l->rungs[i].folder));
        buf_printf(out, ",\"weight_bytes\":%zu}", l->rungs[i].weight_bytes);
    }
    buf_printf(out, "],\"fixed\":%d,\"decision_ms\":%g,\"ask_again_below\":%g,\"up_below\":%g,\"down_above\":%g,\"hold\":%d}", s->fixed + 1, s->decision_ms,
               (double)s->ask_again_below, (double)s->up_below, (double)s->down_above, s->hold);
}

void play_ladder_report(struct play_ladder *l, struct buf *out) {
    for (int i = 0; i < l->count; i++) {
        double warm, first;
        long decisions;
        ladder_times(l->ladder, i, &warm, &first, &decisions);
        buf_printf(out, "  %s: %ld answers", l->rungs[i].name, decisions);
        if (warm > 0) buf_printf(out, ", %.1f ms", warm);
        if (first > 0) buf_printf(out, ", %.1f ms after a switch", first);
        buf_char(out, '\n');
    }
}

/* ---- one game ------------------------------------------------------------------------------------------------------------------- */

static int rung_answer(void *user, const struct question *q, struct answer *out, struct err *err) {
    struct game_rung *g = user;
    if (!g->engine) {
        struct qvl_model *model;
        int code = acquire(g->game->ladder, g->rung, &model, err);
        if (!code) code = engine_answerer_new(model, &g->game->options, &g->engine, err);
        if (code) return code;
    }
    struct answerer door = engine_answerer_door(g->engine);
    return door.answer(door.user, q, out, err);
}

int play_ladder_game_open(struct play_ladder *l, const struct play_options *o, struct play_ladder_game **out, struct err *err) {
    struct play_ladder_game *g = calloc(1, sizeof *g);
    *out = NULL;
    if (!g) return err_set(err, ERR_MEMORY, "out of memory for a game's router");
    g->ladder = l;
    g->options = (struct engine_answerer_options){.think_tokens = o->think_tokens, .best_of = o->best_of, .sum_vote = o->vote_sum};
    struct answerer answerers[ROUTER_RUNGS];
    for (int i = 0; i < l->count; i++) {
        g->rungs[i] = (struct game_rung){g, i, NULL};
        answerers[i] = (struct answerer){rung_answer, &g->rungs[i]};
    }
    int code = router_new(l->ladder, answerers, &g->router, err);
    if (code) return play_ladder_game_close(g), code;
    *out = g;
    return 0;
}

void play_ladder_game_close(struct play_ladder_game *g) {
    if (!g) return;
    for (int i = 0; i < ROUTER_RUNGS; i++) engine_answerer_free(g->rungs[i].engine);
    router_free(g->router);
    free(g);
}

struct router *play_ladder_router(struct play_ladder_game *g) { return g->router; }

int play_ladder_vocabulary(const struct play_ladder *l) {
    struct qvl_info info;
    qvl_model_info(l->rungs[0].model, &info); /* loaded since play_ladder_open */
    return info.vocab;
}
