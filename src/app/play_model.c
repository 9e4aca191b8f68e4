#include "app/play_model.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/home.h"
#include "app/mock_model.h"
#include "app/model_list.h"
#include "app/openai_model.h"

static int load_checkpoint(const struct play_options *o, struct play_model *m, struct err *err) {
    struct stat s;
    snprintf(m->label, sizeof m->label, "%s", o->model ? o->model : "tinywoods-vl");
    if (o->model) {
        int code = model_resolve(o->model, false, m->folder, err);
        if (code) return code;
    } else if (stat(home_file(HOME_MODEL, m->folder, sizeof m->folder), &s) || !S_ISDIR(s.st_mode)) {
        return err_set(err, ERR_MISSING, "%s: no such folder; the bundled checkpoint is missing (PMD_HOME names the project's folder)", m->folder);
    }
    struct qvl_options options = {.device = o->device, .threads = o->threads, .cache_dir = o->kv_cache};
    return qvl_load(m->folder, &options, &m->engine, err);
}

static int connect_server(const struct play_options *o, volatile bool *stop, struct play_model *m, struct err *err) {
    struct openai_options options = {.base_url = o->server, .model = o->model, .no_stream = o->no_stream,
                                     .timeout_s = o->server_timeout_s, .stop = stop};
    int code = openai_model_open(&options, &m->server, err);
    if (code) return code;
    m->by = openai_model_answerer(m->server);
    snprintf(m->label, sizeof m->label, "%s", openai_model_name(m->server));
    return 0;
}

static int open_mock(const struct play_options *o, struct play_model *m, struct err *err) {
    int code = mock_model_open(o->mock_script, &m->mock, err);
    if (code) return code;
    m->by = mock_model_answerer(m->mock);
    snprintf(m->label, sizeof m->label, "mock: script %s, no model", o->mock_script);
    return 0;
}

int play_model_open(const struct play_options *o, volatile bool *stop, struct play_model *m, struct err *err) {
    *m = (struct play_model){0};
    if (o->backend == BACKEND_OPENAI) return connect_server(o, stop, m, err);
    if (o->backend == BACKEND_MOCK) return open_mock(o, m, err);
    if (play_ladder_wanted(o)) return play_ladder_open(o, m->label, sizeof m->label, &m->ladder, err);
    return load_checkpoint(o, m, err);
}

bool play_model_is_ours(const struct play_model *m) {
    enum { LANGUAGE_VOCABULARY = 10000 };
    struct qvl_info info;
    if (m->ladder) return play_ladder_vocabulary(m->ladder) < LANGUAGE_VOCABULARY;
    if (!m->engine) return !m->server;
    qvl_model_info(m->engine, &info);
    return info.vocab < LANGUAGE_VOCABULARY;
}

static void put_string(struct buf *out, const char *name, const char *text) {
    buf_printf(out, ",\"%s\":", name);
    buf_json_string(out, text, strlen(text));
}

void play_model_detail(const struct play_model *m, struct buf *out) {
    if (m->ladder) {
        play_ladder_detail(m->ladder, out);
    } else if (m->engine) {
        struct qvl_info i;
        qvl_model_info(m->engine, &i);
        buf_str(out, "{\"backend\":\"engine\"");
        put_string(out, "folder", m->folder);
        buf_printf(out, ",\"device\":\"%s\",\"kernels\":\"%s\",\"storage\":\"%s\",\"parameters\":%lld,\"weight_bytes\":%zu}", i.device, i.kernels,
                   i.storage, (long long)i.parameters, i.weight_bytes);
    } else if (m->server) {
        buf_str(out, "{\"backend\":\"openai\"");
        put_string(out, "server", openai_model_url(m->server));
        buf_char(out, '}');
    } else if (m->mock) {
        buf_str(out, "{\"backend\":\"mock\",\"mock\":true}");
    }
}

void play_model_close(struct play_model *m) {
    play_ladder_close(m->ladder);
    if (m->engine) qvl_unload(m->engine);
    openai_model_close(m->server);
    mock_model_close(m->mock);
}

int play_model_game_open(struct play_model *m, const struct play_options *o, struct play_model_game *out, struct err *err) {
    *out = (struct play_model_game){.by = m->by};
    if (m->ladder) {
        int code = play_ladder_game_open(m->ladder, o, &out->ladder, err);
        if (code) return code;
        out->router = play_ladder_router(out->ladder);
        out->by = router_door(out->router);
    }
    if (!m->engine) return 0;
    struct engine_answerer_options options = {.think_tokens = o->think_tokens, .best_of = o->best_of, .sum_vote = o->vote_sum};
    int code = engine_answerer_new(m->engine, &options, &out->engine, err);
    if (!code) out->by = engine_answerer_door(out->engine);
    return code;
}

void play_model_game_close(struct play_model_game *g) {
    engine_answerer_free(g->engine);
    play_ladder_game_close(g->ladder);
    *g = (struct play_model_game){0};
}
