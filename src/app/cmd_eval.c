/* pmd-agent eval: settings of `play` compared on fixed seeds, resumable, and checkable by others. */
#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/agent.h"
#include "agent/home.h"
#include "app/commands.h"
#include "app/eval.h"
#include "app/model_options.h"
#include "base/file.h"
#include "record/hash.h"

static const char help[] =
    "usage: pmd-agent eval [options]                    measure, or go on with what was stopped or killed\n"
    "       pmd-agent eval --report DIR [--json|--csv]  show what is there\n"
    "       pmd-agent eval --verify DIR [--sample N]    play it again and compare (exit status 1: something differs)\n"
    "\n"
    "Plays the same seeds with every setting and prints clear rate with its 95 % interval (Wilson), turns, decisions, tokens,\n"
    "seconds and joules per floor, and milestones. Results are appended to DIR/results.jsonl episode by episode: seed, everything that was\n"
    "pressed, outcome and a hash of the game's memory at the end, so that anybody with the ROM can check them. See docs/eval.md.\n"
    "\n"
    "  --out DIR          where results are kept, default evals/<time>; a folder with results of the same task is continued\n"
    "  --seeds F:N        N seeds from F on; default 1000000:200, the public test seeds, which are in no training\n"
    "  --as NAME=OPTIONS  a setting: any options of `pmd-agent play` (\"...\" keeps words together); may be repeated\n"
    "  --model ID|DIR     the same as --as NAME=\"--model ID|DIR\"; may be repeated. Without --as and --model: the bundled checkpoint\n"
    "  --baselines LIST   played beside them: any of random, skills (dice among skills), oracle, omniscient; default all; none: none\n"
    "  --jobs N           so many games at the same time, each a process of its own that gets its share of the cores; default 1\n"
    "  --chunk N          seeds played by one process; default 5. A large model is loaded once a process: take more there\n"
    "  --rom FILE         default: the bundled dungeon\n"
    "  --keep-runs        keep the full run of every episode in DIR/runs (about 0.7 MB each)\n"
    "  --json, --csv      print the result so (csv: a line an episode) instead of a table\n"
    "  --sample N         verify: only N episodes, spread over the file; default all\n"
    "\n"
    "  pmd-agent eval --out evals/a --jobs 2 --as \"sampled=--temperature 1\" --as \"blind=--no-picture blank\"\n";

static volatile bool stop;
static void on_signal(int number) {
    stop = true;
    signal(number, SIG_DFL);
}

struct options {
    const char *out, *rom, *report, *verify, *baselines;
    int jobs, chunk, sample;
    enum eval_form form;
    bool keep_runs;
    struct eval_results r; /* seeds and settings that were asked for */
};

static int complain(const char *what, const char *value) { return fprintf(stderr, "pmd-agent eval: %s '%s' (--help explains)\n", what, value), -1; }

static int add_setting(struct options *o, const char *name, size_t n, const char *play) {
    bool fits = n > 0 && n < EVAL_NAME && o->r.setting_count < EVAL_SETTINGS;
    for (size_t i = 0; i < n; i++) fits = fits && (isalnum((unsigned char)name[i]) || strchr("._+-", name[i]));
    if (!fits || name[0] == '.' || name[0] == '-') return complain("a setting needs a name of letters, digits and . _ + -, at most 39; found", name);
    for (int i = 0; i < o->r.setting_count; i++)
        if (strlen(o->r.settings[i].name) == n && !memcmp(o->r.settings[i].name, name, n)) return complain("a name of two settings:", o->r.settings[i].name);
    static const char *const ours[] = {"--seed", "--episodes", "--record", "--no-record", "--json", "--rom", "--jobs", "--games", "--resume", "--video"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
        const char *at = strstr(play, ours[i]);
        if (at && (at == play || at[-1] == ' ') && strchr(" =", at[strlen(ours[i])])) return complain("eval itself sets", ours[i]);
    }
    if (strstr(play, "--watchdog")) return complain("an episode must go on from its start to be checked, and here it may go back to an earlier state:", "--watchdog");
    struct eval_setting *s = &o->r.settings[o->r.setting_count];
    snprintf(s->name, sizeof s->name, "%.*s", (int)n, name);
    if (!(s->options = strdup(play))) return fputs("pmd-agent eval: out of memory\n", stderr), -1;
    o->r.setting_count++;
    return 0;
}

/* The last part of a path or id, as far as a name may hold it. */
static int add_model(struct options *o, const char *model) {
    char play[PATH_MAX + 20], name[EVAL_NAME];
    size_t n = strlen(model), k = 0;
    while (n && model[n - 1] == '/') n--;
    size_t from = n;
    while (from && model[from - 1] != '/') from--;
    for (; from < n && k + 1 < sizeof name; from++) name[k++] = isalnum((unsigned char)model[from]) || strchr("._+-", model[from]) ? model[from] : '_';
    snprintf(play, sizeof play, "--model \"%s\"", model);
    return add_setting(o, name, k, play);
}

static int add_baselines(struct options *o) {
    enum { KNOWN = 4 };
    static const char *const known[KNOWN][2] = {{"omniscient", "--policy omniscient"}, {"oracle", "--policy oracle"}, {"random", "--policy random"},
                                                {"skills", "--policy random --act skills"}};
    const char *list = o->baselines ? o->baselines : "random,skills,oracle,omniscient";
    if (!strcmp(list, "none")) return 0;
    for (const char *at = list; *at;) {
        size_t n = strcspn(at, ",");
        size_t i = 0;
        while (i < KNOWN && (strlen(known[i][0]) != n || memcmp(known[i][0], at, n))) i++;
        if (i == KNOWN) return complain("--baselines takes random, skills, oracle, omniscient or none, not", at);
        if (add_setting(o, known[i][0], n, known[i][1])) return -1;
        at += n + (at[n] == ',');
    }
    return 0;
}

/* 1 taken, 0 unknown, -1 wrong. */
static int take(struct options *o, int argc, char **argv, int *i) {
    const char *v;
    double n;
    int r;
    if (!strcmp(argv[*i], "--keep-runs")) return o->keep_runs = true, 1;
    if (!strcmp(argv[*i], "--json")) return o->form = EVAL_JSON, 1;
    if (!strcmp(argv[*i], "--csv")) return o->form = EVAL_CSV, 1;
    if ((r = option_value("eval", "--out", argc, argv, i, &v))) return o->out = v, r;
    if ((r = option_value("eval", "--rom", argc, argv, i, &v))) return o->rom = v, r;
    if ((r = option_value("eval", "--report", argc, argv, i, &v))) return o->report = v, r;
    if ((r = option_value("eval", "--verify", argc, argv, i, &v))) return o->verify = v, r;
    if ((r = option_value("eval", "--baselines", argc, argv, i, &v))) return o->baselines = v, r;
    if ((r = option_value("eval", "--model", argc, argv, i, &v))) return r < 0 || add_model(o, v) ? -1 : 1;
    if ((r = option_value("eval", "--as", argc, argv, i, &v))) {
        const char *equals = r > 0 ? strchr(v, '=') : NULL;
        if (r > 0 && !equals) return complain("--as needs NAME=OPTIONS, not", v);
        return r < 0 || add_setting(o, v, (size_t)(equals - v), equals + 1) ? -1 : 1;
    }
    if ((r = option_value("eval", "--seeds", argc, argv, i, &v))) {
        unsigned first;
        int count;
        char rest;
        if (r > 0 && (sscanf(v, "%u:%d%c", &first, &count, &rest) != 2 || count < 1 || count > 100000 || (uint64_t)first + (uint64_t)count > UINT32_MAX))
            return complain("--seeds needs FIRST:COUNT (1 to 100000), not", v);
        if (r > 0) o->r.seed_first = first, o->r.seed_count = count;
        return r;
    }
    if ((r = option_value("eval", "--jobs", argc, argv, i, &v))) return r < 0 || option_number("eval", "--jobs", v, 1, 64, &n) ? -1 : (o->jobs = (int)n, 1);
    if ((r = option_value("eval", "--chunk", argc, argv, i, &v))) return r < 0 || option_number("eval", "--chunk", v, 1, 1e5, &n) ? -1 : (o->chunk = (int)n, 1);
    if ((r = option_value("eval", "--sample", argc, argv, i, &v))) return r < 0 || option_number("eval", "--sample", v, 1, 1e9, &n) ? -1 : (o->sample = (int)n, 1);
    return 0;
}

static int print(const struct eval_results *r, enum eval_form form) {
    struct buf out = {0};
    eval_report(r, form, &out);
    int bad = out.failed || fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout);
    buf_free(&out);
    if (bad) fputs("pmd-agent eval: the result could not be written\n", stderr);
    return bad ? 1 : 0;
}

static int report(const struct options *o) {
    struct eval_results r = {.fd = -1};
    struct err err = {0};
    int status = eval_results_read(&r, o->report, &err) ? (fprintf(stderr, "pmd-agent eval: %s\n", err.message), 1) : print(&r, o->form);
    eval_results_close(&r);
    return status;
}

static int verify(const struct options *o) {
    struct eval_results r = {.fd = -1};
    struct err err = {0};
    int checked = 0, code = eval_results_read(&r, o->verify, &err);
    if (!code) code = eval_verify(&r, o->rom, o->sample, &stop, &checked, &err);
    if (code < 0) fprintf(stderr, "pmd-agent eval: %s\n", err.message);
    else printf("%d of %d episodes played again: %s", checked, r.episode_count, code ? "" : "identical outcome, floor and memory\n");
    if (code > 0) printf("%d differ\n", code);
    eval_results_close(&r);
    return code ? 1 : stop ? 130 : 0;
}

static int hash_rom(struct options *o, struct err *err) {
    char path[PATH_MAX];
    struct buf rom = {0};
    int code = file_read(o->rom ? o->rom : home_file(HOME_ROM, path, sizeof path), 64 << 20, &rom, err);
    if (!code) hash_hex(rom.data, rom.len, NULL, 0, o->r.rom_hash);
    buf_free(&rom);
    return code;
}

static int measure(struct options *o) {
    char folder[80], runs[PATH_MAX];
    struct err err = {0};
    time_t now = time(NULL);
    struct tm tm;
    strftime(folder, sizeof folder, "evals/%Y%m%d-%H%M%S", localtime_r(&now, &tm));
    if (!o->out) o->out = folder;
    snprintf(runs, sizeof runs, "%.*s/runs", PATH_MAX - 20, o->out);
    struct eval_work w = {.runs = runs, .rom = o->rom, .jobs = o->jobs, .chunk = o->chunk, .keep_runs = o->keep_runs, .stop = &stop};
    int code = hash_rom(o, &err);
    if (!code) code = eval_results_open(&o->r, o->out, &err);
    if (!code) code = eval_play(&o->r, &w, &err);
    if (code) fprintf(stderr, "pmd-agent eval: %s\n", err.message);
    int status = o->r.episode_count ? print(&o->r, o->form) : 0;
    if (!code && !status) fprintf(stderr, "results: %s (pmd-agent eval --verify %s plays them again)\n", o->r.path, o->out);
    return code == ERR_CANCELLED ? 130 : code ? 1 : status;
}

int cmd_eval(int argc, char **argv) {
    struct options o = {.jobs = 1, .chunk = 5, .r = {.fd = -1, .seed_first = AGENT_TEST_SEED_FIRST, .seed_count = AGENT_TEST_SEEDS}};
    int status = 0;
    stop = false;
    for (int i = 1; i < argc && !status; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            eval_results_close(&o.r);
            return fputs(help, stdout), 0;
        }
        int r = take(&o, argc, argv, &i);
        if (r == 0) complain("unknown option", argv[i]);
        if (r <= 0) status = 2;
    }
    bool play = !o.report && !o.verify;
    if (!status && !play && (o.r.setting_count || o.out)) status = complain("only --rom, --sample and the form go with", o.report ? "--report" : "--verify") ? 2 : 0;
    if (!status && play && !o.r.setting_count && add_setting(&o, "model", 5, "")) status = 2;
    if (!status && play && add_baselines(&o)) status = 2;
    if (!status) {
        signal(SIGINT, on_signal);
        signal(SIGTERM, on_signal);
        status = o.report ? report(&o) : o.verify ? verify(&o) : measure(&o);
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
    }
    eval_results_close(&o.r);
    return status;
}
