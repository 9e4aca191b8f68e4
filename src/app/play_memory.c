#include "app/play_memory.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "app/memory_runs.h"

static void notice(void *user, const char *text) {
    (void)user;
    fprintf(stderr, "pmd-agent play: memory: %s\n", text);
}

static int open_memory(struct play *p, struct err *err) {
    struct memory_options o = {.folder = p->o.memory, .threads = p->o.threads > 0 ? p->o.threads : (int)sysconf(_SC_NPROCESSORS_ONLN), .notice = notice,
                               .read_only = p->o.no_record};
    struct rom_header header;
    struct qvl_info info;
    struct store_space space;
    int code = rom_header_read(p->rom.data, p->rom.len, &header, err);
    if (code) return code;
    snprintf(p->game, sizeof p->game, "%s", header.code);
    if (p->model.engine) {
        qvl_model_info(p->model.engine, &info);
        space = (struct store_space){p->model.label, info.checkpoint, embed_kind_name[p->o.embed], p->game, info.hidden};
        o.space = &space;
    } else if (p->o.policy == POLICY_MODEL) {
        notice(NULL, "who answers is not in this process: no embeddings, only what was near in time is recalled");
    }
    return memory_open(&o, &p->memory, err);
}

static int open_game(struct play *p, struct game *g, struct err *err) {
    struct recall_options o = {.memory = p->memory, .record = g->run.run, .model = p->model.engine, .kind = p->o.embed, .scratchpad = p->o.scratchpad,
                               .stop = p->stop};
    struct take_counts counts = {0};
    int code = recall_new(&o, &g->recall, err);
    if (code || !p->memory || !o.record) return code;
    /* A new run is only entered. Of one that goes on the store may lack the last steps. */
    struct take_options take = {.recall = g->recall, .game = p->game, .stop = p->stop};
    if (o.model) code = embedder_new(o.model, o.kind, &take.embedder, err);
    if (!code) code = memory_take_steps(p->memory, run_folder(o.record), &take, &g->memory_run, &counts, err);
    if (!code) recall_set_run(g->recall, g->memory_run);
    embedder_free(take.embedder);
    return code;
}

/* Once all games have their steps: one may have recalled another's. */
static int take_recalled(struct play *p, struct game *g, struct err *err) {
    struct take_options take = {.game = p->game, .stop = p->stop};
    struct take_counts counts = {0};
    return p->memory && g->run.run ? memory_take_recalled(p->memory, run_folder(g->run.run), &take, g->memory_run, &counts, err) : 0;
}

int play_memory_open(struct play *p, struct err *err) {
    if (!p->o.memory && !p->o.scratchpad) return 0;
    int code = p->o.memory ? open_memory(p, err) : 0;
    for (int i = 0; i < p->o.jobs && !code; i++) code = open_game(p, &p->games[i], err);
    for (int i = 0; i < p->o.jobs && !code; i++) code = take_recalled(p, &p->games[i], err);
    return code;
}

int play_memory_close(struct play *p, struct err *err) {
    int code = 0;
    for (int i = 0; p->games && i < p->o.jobs; i++) {
        struct game *g = &p->games[i];
        if (!code && g->recall) code = recall_error(g->recall, err);
        recall_free(g->recall);
        g->recall = NULL;
    }
    memory_close(p->memory);
    p->memory = NULL;
    return code;
}
