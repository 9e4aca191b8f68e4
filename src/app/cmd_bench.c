/* pmd-agent bench: measure checkpoints over a matrix of workloads; compare and draw what was measured. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/home.h"
#include "app/commands.h"
#include "app/model_options.h"
#include "bench/compare.h"
#include "bench/plot.h"
#include "bench/report.h"
#include "bench/shapes.h"
#include "bench/sweep.h"
#ifndef ENGINE_ONLY
#include "app/model_list.h"
#endif

static const char help[] =
    "usage: pmd-agent bench --models all|ID|DIR,... [--random-weights] [matrix] [--json FILE] [--csv FILE] [--resume]\n"
    "       pmd-agent bench --dry-run ...               plan and estimates, nothing loaded\n"
    "       pmd-agent bench --plot FILE [--plot-to DIR] pictures of a result file, by gnuplot\n"
    "       pmd-agent bench --compare A B               two result files, cell by cell\n"
    "\n"
    "Measures prefill and decode speed, time to the first token (cold, part of the prompt reused, all of it reused), time between\n"
    "tokens, memory and energy of every cell of models x task x context x batch x best-of, and how near the decode speed comes to the\n"
    "byte floor: the bytes that a step must read, over the read bandwidth measured beside the cell. Prints a Markdown table.\n"
    "\n"
    "  --models LIST      all (the six quantised checkpoints), bases (their bf16 originals), or names: Hub ids, folders, and with\n"
    "                     --random-weights also 2b-fp8, 2b-nf4, 4b-nf4, 8b-nf4, 2b-bf16, 4b-bf16, 8b-bf16\n"
    "  --random-weights   the real shapes filled with random numbers: no download; written to TMPDIR and removed at once;\n"
    "                     every row says so. --weights-dir DIR keeps them there for the next time\n"
    "matrix; without any of these seven cells a model are measured (\"standard\"), with one of them the product of what is given\n"
    "(else: 1024 tokens, batch 1, best of 1, text):\n"
    "  --contexts LIST    tokens of one sequence, prompt and answer: 1024,8k or 1k-256k (powers of two)\n"
    "  --batches LIST     different prompts at once; --best-of LIST answers to each (the prompt is computed once)\n"
    "  --tasks LIST       text, picture-simple, picture-complex, mixed, all\n"
    "  --image-text-ratios LIST  mixed: the pictures' share of the prompt's tokens, default 0.5\n"
    "  --full             every context to 262144, batches to 64, best of 1 to 8, all tasks\n"
    "  --answer-tokens N  default 32;  --repeats N  default 3;  --pictures DIR  default datasets/tinywoods-200\n"
    "results and time:\n"
    "  --json FILE, --csv FILE   appended cell by cell; --resume goes on with files that are there\n"
    "  --time-budget-s S  most seconds of one cell: fewer repeats, and no cell whose single repeat should take longer\n"
    "  --max-wall S       begin no cell that would end later; the rest is for --resume (exit status 3)\n"
    "\n"
    "Exit status: 0 done; 1 something failed (compare: could not be compared); 2 wrong usage; 3 cells are left (--max-wall), or with\n"
    "--compare a figure of B is slower than in A by more than the noise.\n\n";

enum { MODELS_MOST = 64 };

struct options {
    struct model_options model;
    struct sweep sweep;
    const char *models[MODELS_MOST];
    char *models_text;       /* owns their characters */
    const char *plot, *plot_to, *compare_a, *compare_b;
    bool dry_run;
    char pictures[PATH_MAX];
};

static int complain(const char *message) { return fprintf(stderr, "pmd-agent bench: %s\n", message), -1; }

static int add_model(struct options *o, const char *name) {
    if (o->sweep.model_count == MODELS_MOST) return complain("--models: more than 64 models");
    o->models[o->sweep.model_count++] = name;
    return 0;
}

/* The checkpoints known by name. With random weights those of one shape are one: instruct and thinking differ in nothing that is
 * measured. */
static int add_known(struct options *o, bool bases) {
    int r = 0;
    for (int i = 0; !r && i < known_model_count; i++) {
        const struct known_model *k = &known_models[i];
        if (k->base != bases || !k->ids[0]) continue;
        if (o->sweep.random_weights) r = add_model(o, k->name);
        else
            for (int n = 0; !r && n < 2 && k->ids[n]; n++) r = add_model(o, k->ids[n]);
    }
    return r;
}

static int take_models(struct options *o) {
    int r = 0;
    if (!o->models_text) return complain("--models all|ID|DIR,... is needed");
    for (char *save, *name = strtok_r(o->models_text, ",", &save); !r && name; name = strtok_r(NULL, ",", &save)) {
        const struct known_model *k = known_model_find(name);
        if (!strcmp(name, "all") || !strcmp(name, "bases")) r = add_known(o, name[0] == 'b');
        else if (o->sweep.random_weights && !k)
            return fprintf(stderr, "pmd-agent bench: --random-weights: no shape is known for '%s'\n", name), -1;
        else r = add_model(o, o->sweep.random_weights ? k->name : name);
    }
    for (int i = 0; !r && i < o->sweep.model_count; i++)
        for (int k = 0; k < i; k++)
            if (!strcmp(o->models[i], o->models[k]))
                return fprintf(stderr, "pmd-agent bench: --models: %s is there twice\n", o->models[i]), -1;
    return !r && !o->sweep.model_count ? complain("--models: no model is named") : r;
}

static int take_whole(const char *name, const char *text, int64_t high, int64_t *out, int *count) {
    struct err err;
    return matrix_parse_whole(name, text, 1, high, out, count, &err) ? complain(err.message) : 0;
}

/* One option with a value: 1 taken, 0 another one, -1 wrong. */
static int take_value(struct options *o, int argc, char **argv, int *i) {
    struct matrix *m = &o->sweep.matrix;
    struct err err;
    double number;
    const char *v = NULL;
    static const char *const names[] = {"--models", "--contexts", "--batches", "--best-of", "--tasks", "--image-text-ratios",
                                        "--answer-tokens", "--repeats", "--pictures", "--json", "--csv", "--time-budget-s",
                                        "--max-wall", "--weights-dir", "--plot-to", "--plot", "--compare"};
    enum { NAMES = sizeof names / sizeof *names };
    int which = 0, r = 0;
    while (which < NAMES && !(r = option_value("bench", names[which], argc, argv, i, &v))) which++;
    if (r <= 0) return r;
    switch (which) {
    case 0: free(o->models_text); return (o->models_text = strdup(v)) ? 1 : complain("out of memory");
    case 1: return take_whole("--contexts", v, 1 << 24, m->contexts, &m->context_count) ? -1 : 1;
    case 2: return take_whole("--batches", v, 1024, m->batches, &m->batch_count) ? -1 : 1;
    case 3: return take_whole("--best-of", v, 256, m->best_of, &m->best_count) ? -1 : 1;
    case 4: return matrix_parse_tasks(v, m, &err) ? complain(err.message) : 1;
    case 5: return matrix_parse_shares("--image-text-ratios", v, m->shares, &m->share_count, &err) ? complain(err.message) : 1;
    case 6: return option_number("bench", names[which], v, 1, 65536, &number) ? -1 : (o->sweep.how.answer_tokens = (int)number, 1);
    case 7: return option_number("bench", names[which], v, 1, 100, &number) ? -1 : (o->sweep.how.repeats = (int)number, 1);
    case 8: return snprintf(o->pictures, sizeof o->pictures, "%s", v), 1;
    case 9: return o->sweep.json = v, 1;
    case 10: return o->sweep.csv = v, 1;
    case 11: return option_number("bench", names[which], v, 0.001, 1e7, &o->sweep.how.budget_s) ? -1 : 1;
    case 12: return option_number("bench", names[which], v, 0.001, 1e7, &o->sweep.max_wall_s) ? -1 : 1;
    case 13: return o->sweep.weights_folder = v, 1;
    case 14: return o->plot_to = v, 1;
    case 15: return o->plot = v, 1;
    default:
        o->compare_a = v;
        if (*i + 1 >= argc) return complain("--compare needs two files");
        return o->compare_b = argv[++*i], 1;
    }
}

static int parse_options(int argc, char **argv, struct options *o) {
    for (int i = 1; i < argc; i++) {
        int r = model_options_take(&o->model, "bench", argc, argv, &i);
        if (!r) r = take_value(o, argc, argv, &i);
        if (r < 0) return -1;
        if (r > 0) continue;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return printf("%s%s", help, model_options_help), 1;
        if (!strcmp(argv[i], "--random-weights")) o->sweep.random_weights = true;
        else if (!strcmp(argv[i], "--full")) o->sweep.matrix.full = true;
        else if (!strcmp(argv[i], "--resume")) o->sweep.resume = true;
        else if (!strcmp(argv[i], "--dry-run")) o->dry_run = true;
        else return fprintf(stderr, "pmd-agent bench: unknown option '%s' (pmd-agent bench --help)\n", argv[i]), -1;
    }
    if (o->model.model && !o->models_text && !(o->models_text = strdup(o->model.model))) return complain("out of memory");
    if (o->model.load.context || o->model.load.kv_bytes)
        return complain("--context and --kv-mib follow from the cells; use --contexts and --batches");
    if (o->sweep.resume && !o->sweep.json && !o->sweep.csv) return complain("--resume needs --json FILE or --csv FILE");
    return o->plot || o->compare_a ? 0 : take_models(o);
}

static int find(void *user, const char *name, char folder[PATH_MAX], struct err *err) {
    (void)user;
#ifdef ENGINE_ONLY
    struct stat st;
    if (stat(name, &st) || !S_ISDIR(st.st_mode))
        return err_set(err, ERR_MISSING, "%s: no such folder (this build has no Hub client)", name);
    return snprintf(folder, PATH_MAX, "%s", name) < PATH_MAX ? 0 : err_set(err, ERR_ARGUMENT, "%s: the path is too long", name);
#else
    return model_resolve(name, false, folder, err);
#endif
}

static int run_compare(const struct options *o, struct err *err) {
    struct comparison c;
    if (compare_files(o->compare_a, o->compare_b, &c, err)) return 1;
    return c.slower ? 3 : 0;
}

static int run_sweep(struct options *o, struct err *err) {
    struct results results;
    size_t left;
    int r = sweep_run(&o->sweep, &results, &left, err);
    if (results.count) report_results(&results);
    bool failed = false;
    for (size_t i = 0; i < results.count; i++) failed = failed || !strcmp(results.items[i].status, "failed");
    results_free(&results);
    if (r) return 1;
    if (left) fprintf(stderr, "pmd-agent bench: %zu cells are left%s\n", left, o->sweep.json || o->sweep.csv ? "; go on with --resume" : "");
    return failed ? 1 : left ? 3 : 0;
}

int cmd_bench(int argc, char **argv) {
    struct options o = {.sweep = {.how = {.repeats = 3, .answer_tokens = 32}, .version = PMD_VERSION}};
    struct err err = {0};
    home_file("datasets/tinywoods-200", o.pictures, sizeof o.pictures);
    int r = parse_options(argc, argv, &o);
    o.sweep.models = o.models;
    o.sweep.load = o.model.load;
    o.sweep.pictures = o.pictures;
    o.sweep.find = find;
    if (r) r = r < 0 ? 2 : 0;
    else if (o.compare_a) r = run_compare(&o, &err);
    else if (o.plot) r = plot_results(o.plot, o.plot_to, &err) ? 1 : 0;
    else if (o.dry_run) r = sweep_dry_run(&o.sweep, &err) ? 1 : 0;
    else r = run_sweep(&o, &err);
    if (err.code) fprintf(stderr, "pmd-agent bench: %s\n", err.message);
    free(o.models_text);
    return r;
}
