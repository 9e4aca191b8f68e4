/* pmd-agent calibrate RUN...: how much a model's confidence is worth, from decisions of which the fair oracle's action is on record. */
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/calibration.h"
#include "app/commands.h"
#include "base/file.h"
#include "record/run_set.h"

struct samples_list {
    struct calibration_sample *all;
    size_t count, cap;
    int group;
    char model[96];       /* that they are of; "": not known yet */
    long other, unsure, uncompared; /* decisions left out */
};

static int usage(FILE *to, int status) {
    fputs("usage: pmd-agent calibrate RUN... [--model NAME] [--out FILE] [--json]\n"
          "Says how often a model is right (does what the fair oracle would do) when it is so and so sure, and writes the table that the router\n"
          "uses (configs/router.yaml: calibration). The runs must have been played with --ask-oracle, with actions step by step (no skills).\n"
          "  --model NAME   decisions of this model only, where a ladder of several played\n"
          "  --out FILE     write the table there (one JSON object)\n"
          "  --json         print that object instead of words\n"
          "\n"
          "  pmd-agent play --episodes 20 --seed 600000 --ask-oracle --record runs/cal\n"
          "  pmd-agent calibrate runs/cal --out configs/calibration/tinywoods-vl.json\n",
          to);
    return status;
}

static int add_sample(struct samples_list *l, float confidence, bool right, struct err *err) {
    if (l->count == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 4096;
        struct calibration_sample *grown = realloc(l->all, cap * sizeof *grown);
        if (!grown) return err_set(err, ERR_MEMORY, "out of memory for %zu decisions", l->count);
        l->all = grown;
        l->cap = cap;
    }
    l->all[l->count++] = (struct calibration_sample){confidence, right, l->group};
    return 0;
}

static int take_line(struct samples_list *l, const struct run_line *line, const char *run_model, const char *only, struct err *err) {
    const char *model = json_as_string(json_get(line->json, "model"), run_model), *oracle = json_as_string(json_get(line->json, "oracle_action"), NULL);
    double confidence = json_as_number(json_get(line->json, "confidence"), 0);
    if (strcmp(line->decided_by, decided_by_name[BY_MODEL]) || !model || (only && strcmp(model, only))) return l->other++, 0;
    if (!oracle || action_by_name(line->action) < 0) return l->uncompared++, 0;
    /* Where one answer only was possible nothing is to be learned. */
    if (!(confidence > 0 && confidence < 1)) return l->unsure++, 0;
    if (!*l->model) snprintf(l->model, sizeof l->model, "%s", model);
    if (strcmp(l->model, model)) return err_set(err, ERR_ARGUMENT, "the runs hold decisions of %s and of %s: choose with --model", l->model, model);
    return add_sample(l, (float)confidence, !strcmp(line->action, oracle), err);
}

static int read_run(struct samples_list *l, const char *folder, const char *only, struct err *err) {
    struct run_reader *r;
    int code = run_open(folder, &r, err), got, episode = 0;
    if (code) return code;
    struct run_line *line = malloc(sizeof *line);
    if (!line) code = err_set(err, ERR_MEMORY, "out of memory");
    while (!code && (got = run_next(r, line, NULL, err))) {
        if (got < 0) code = got;
        else code = take_line(l, line, run_reader_info(r)->model, only, err);
        if (!code && line->episode != episode) episode = line->episode, l->group++;
    }
    free(line);
    run_close(r);
    return code;
}

static int read_runs(struct samples_list *l, char **folders, int count, const char *only, struct err *err) {
    int code = 0;
    for (int i = 0; i < count && !code; i++) {
        struct run_set set;
        if ((code = run_set_open(folders[i], &set, err))) return code;
        for (int g = 0; g < (set.games ? set.games : 1) && !code; g++) {
            char folder[PATH_MAX];
            code = read_run(l, run_set_game(&set, g, folder), only, err);
        }
        run_set_close(&set);
    }
    return code;
}

static void print_words(const struct samples_list *l, const struct calibration *c) {
    size_t right = 0;
    for (size_t i = 0; i < l->count; i++) right += l->all[i].right;
    printf("%s: %zu decisions, %.1f %% as the fair oracle", c->model, l->count, 100.0 * (double)right / (double)l->count);
    printf(" (left out: %ld by others, %ld without the oracle's action, %ld without a choice)\n", l->other, l->uncompared, l->unsure);
    printf("   sure     right   decisions\n");
    for (int b = 0; b < 10; b++) {
        double sure = 0, good = 0;
        long n = 0;
        for (size_t i = 0; i < l->count; i++) {
            int bin = (int)(l->all[i].confidence * 10);
            if ((bin > 9 ? 9 : bin) != b) continue;
            sure += l->all[i].confidence, good += l->all[i].right, n++;
        }
        if (n) printf("  %5.1f %%  %5.1f %%  %7ld\n", 100 * sure / (double)n, 100 * good / (double)n, n);
    }
    printf("expected calibration error on episodes that were not fitted: %.3f before, %.3f with the table of %d points\n", c->error_before, c->error_after,
           c->count);
}

int cmd_calibrate(int argc, char **argv) {
    static const struct option options[] = {{"model", 1, NULL, 'm'}, {"out", 1, NULL, 'o'}, {"json", 0, NULL, 'j'}, {"help", 0, NULL, 'h'}, {0}};
    const char *only = NULL, *out = NULL;
    bool json = false;
    int c;
    optind = 0;
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 'm') only = optarg;
        else if (c == 'o') out = optarg;
        else if (c == 'j') json = true;
        else return c == 'h' ? usage(stdout, 0) : usage(stderr, 2);
    }
    if (optind == argc) return usage(stderr, 2);
    struct samples_list list = {0};
    struct calibration table;
    struct err err = {0};
    struct buf text = {0};
    int code = read_runs(&list, argv + optind, argc - optind, only, &err);
    if (!code) code = calibration_fit(list.all, list.count, &table, &err);
    if (!code) {
        snprintf(table.model, sizeof table.model, "%s", list.model);
        calibration_write(&table, &text);
        if (text.failed) code = err_set(&err, ERR_MEMORY, "out of memory");
    }
    if (!code && out) code = file_replace(out, text.data, text.len, &err);
    if (!code && json) fputs(text.data, stdout);
    else if (!code) print_words(&list, &table);
    if (code) fprintf(stderr, "pmd-agent calibrate: %s\n", err.message);
    buf_free(&text);
    free(list.all);
    return code ? 1 : 0;
}
