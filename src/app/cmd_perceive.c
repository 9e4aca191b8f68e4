/* pmd-agent perceive: RAM against picture over a data set. For every picture the model says what it sees; that is scored against what the
 * game's memory said when the picture was taken. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/home.h"
#include "agent/perceive.h"
#include "app/commands.h"
#include "app/model_options.h"
#include "app/openai_model.h"
#include "record/dataset.h"

static const char help[] =
    "usage: pmd-agent perceive [options]\n"
    "\n"
    "Asks a model what it sees on the pictures of a data set (floor, HP, foes, items, stairs, an open text or menu) and scores the answers\n"
    "against the game's memory. Beside each score stands that of always giving the commonest answer: a model that does not look gets no more.\n"
    "A model that was not trained to tell what it sees (the bundled one was trained to play only) answers at random here.\n"
    "\n"
    "  --data DIR          data set (default datasets/tinywoods-200; pmd-agent dataset record makes one, of your own game too)\n"
    "  --limit N           the first N pictures only\n"
    "  --server URL        ask an OpenAI-compatible server; --model is then its name there\n"
    "  --prompt FILE       default configs/prompts/perceive.txt\n"
    "  --json              one JSON object\n";

enum { VALUES = 1000 };

struct run {
    struct model_options model;
    const char *data, *server, *prompt;
    bool json;
    int limit, pictures;
    struct perceiver perceiver;
    struct perception_score score;
    int usable[PERCEPTION_FIELDS];                /* answers that had the field */
    int common[PERCEPTION_FIELDS][VALUES];        /* how often a value was the truth */
    double seconds;
};

static int parse(int argc, char **argv, struct run *o) {
    double number;
    const char *v;
    for (int i = 1; i < argc; i++) {
        int r = model_options_take(&o->model, "perceive", argc, argv, &i);
        if (r) {
            if (r < 0) return -1;
        } else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            return printf("%s%s", help, model_options_help), 1;
        } else if (!strcmp(argv[i], "--json")) {
            o->json = true;
        } else if ((r = option_value("perceive", "--data", argc, argv, &i, &v))) {
            if (r < 0) return -1;
            o->data = v;
        } else if ((r = option_value("perceive", "--server", argc, argv, &i, &v))) {
            if (r < 0) return -1;
            o->server = v;
        } else if ((r = option_value("perceive", "--prompt", argc, argv, &i, &v))) {
            if (r < 0) return -1;
            o->prompt = v;
        } else if ((r = option_value("perceive", "--limit", argc, argv, &i, &v))) {
            if (r < 0 || option_number("perceive", "--limit", v, 1, 1e9, &number)) return -1;
            o->limit = (int)number;
        } else {
            return fprintf(stderr, "pmd-agent perceive: unknown option '%s'\n\n%s%s", argv[i], help, model_options_help), -1;
        }
    }
    return 0;
}

static int look(void *user, const struct json *entry, const uint8_t *rgb, struct err *err) {
    struct run *o = user;
    struct perception p;
    const char *scene = json_as_string(json_get(entry, "scene"), "");
    (void)err;
    if (o->limit && o->pictures == o->limit) return 0;
    perception_of_entry(json_get(entry, "world"), scene, p.truth);
    perceiver_ask(&o->perceiver, rgb, FRAME_WIDTH, FRAME_HEIGHT, (uint64_t)o->pictures, p.said, NULL, 0, &o->seconds, NULL);
    perception_add(&o->score, &p);
    for (int i = 0; i < PERCEPTION_FIELDS; i++) {
        if (p.truth[i] == PERCEPTION_NONE) continue;
        o->usable[i] += p.said[i] != PERCEPTION_NONE;
        if (p.truth[i] < VALUES) o->common[i][p.truth[i]]++;
    }
    o->pictures++;
    if (!o->json && o->pictures % 50 == 0) fprintf(stderr, "%d pictures, %.1f s\n", o->pictures, o->seconds);
    return 0;
}

static int commonest(const struct run *o, int field) {
    int most = 0;
    for (int v = 0; v < VALUES; v++) most = o->common[field][v] > most ? o->common[field][v] : most;
    return most;
}

static void print(const struct run *o) {
    const char *name = o->model.model ? o->model.model : o->server ? o->server : HOME_MODEL;
    if (o->json) {
        struct buf b = {0};
        buf_str(&b, "{\"model\":"), buf_json_string(&b, name, strlen(name));
        buf_str(&b, ",\"data\":"), buf_json_string(&b, o->data, strlen(o->data));
        buf_printf(&b, ",\"pictures\":%d,\"seconds\":%.2f,\"fields\":{", o->pictures, o->seconds);
        for (int i = 0; i < PERCEPTION_FIELDS; i++) {
            buf_printf(&b, "%s\"%s\":{\"asked\":%d,\"usable\":%d,\"agreed\":%d,\"commonest\":%d}", i ? "," : "", perception_name[i], o->score.asked[i],
                       o->usable[i], o->score.agreed[i], commonest(o, i));
        }
        buf_str(&b, "}}");
        if (!b.failed) puts(b.data);
        buf_free(&b);
        return;
    }
    printf("%s on %s: %d pictures, %.1f s\n%-8s %6s %7s %9s %18s\n", name, o->data, o->pictures, o->seconds, "field", "asked", "usable", "agreed", "commonest answer");
    for (int i = 0; i < PERCEPTION_FIELDS; i++) {
        int n = o->score.asked[i];
        if (n) printf("%-8s %6d %7d %7.1f %% %16.1f %%\n", perception_name[i], n, o->usable[i], 100.0 * o->score.agreed[i] / n, 100.0 * commonest(o, i) / n);
    }
}

static int open_asker(struct run *o, struct qvl_model **model, struct openai_model **server, struct asker **asker, struct err *err) {
    char folder[4096];
    struct answerer by;
    struct ask_options ask = {.system = "", .greedy = true};
    if (o->server) {
        struct openai_options options = {.base_url = o->server, .model = o->model.model};
        int code = openai_model_open(&options, server, err);
        if (code) return code;
        by = openai_model_answerer(*server);
        ask.answerer = &by;
    } else {
        const char *named = o->model.model;
        if (!named) o->model.model = home_file(HOME_MODEL, folder, sizeof folder);
        int bad = model_options_open(&o->model, "perceive", true, model);
        o->model.model = named;
        if (bad) return ERR_MISSING; /* said already */
    }
    return asker_new(*model, &ask, asker, err);
}

int cmd_perceive(int argc, char **argv) {
    static struct run run;
    struct run *o = &run;
    struct qvl_model *model = NULL;
    struct openai_model *server = NULL;
    struct asker *asker = NULL;
    struct err err = {0};
    char data[4096];
    *o = (struct run){0};
    int parsed = parse(argc, argv, o);
    if (parsed) return parsed > 0 ? 0 : 2;
    if (!o->data) o->data = home_file("datasets/tinywoods-200", data, sizeof data);
    int code = open_asker(o, &model, &server, &asker, &err);
    if (!code) code = perceiver_open(&o->perceiver, o->prompt, asker, &err);
    if (!code) code = dataset_each(o->data, look, o, &err);
    if (!code && !o->pictures) code = err_set(&err, ERR_MISSING, "%s: no pictures", o->data);
    if (!code) print(o);
    else if (*err.message) fprintf(stderr, "pmd-agent perceive: %s\n", err.message);
    perceiver_close(&o->perceiver);
    asker_free(asker);
    openai_model_close(server);
    if (model) qvl_unload(model);
    return code ? 1 : 0;
}
