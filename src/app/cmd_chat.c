/* pmd-agent chat: one question with pictures, or a conversation. The answer goes to standard output as it comes, figures and
 * thoughts to standard error. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/model_options.h"
#include "backend/cpu/bandwidth.h"
#include "base/buf.h"
#include "base/file.h"

static const char help[] =
    "usage: pmd-agent chat --model ID|DIR [--image FILE]... [TEXT]\n"
    "\n"
    "Answers TEXT; without TEXT, a conversation: a line is a message, /image FILE adds a picture to the next message,\n"
    "/clear starts afresh, /quit or end of input ends. Ctrl-C stops an answer, twice the program.\n"
    "\n"
    "  --image FILE       a PNG or JPEG, before the text\n"
    "  --system TEXT      a system message\n"
    "  --max-tokens N     default: until the model ends or the context is full\n"
    "  --think-tokens N   thinking models: thoughts are ended after so many tokens\n"
    "  --greedy           always the most likely token\n"
    "  --temperature T --top-p P --top-k K --min-p P --repetition-penalty R --presence-penalty P --seed N\n"
    "                     default: the checkpoint's generation_config.json\n"
    "  --schema FILE      holds the answer to this JSON schema\n"
    "  --stop TEXT        ends the answer before TEXT (may be repeated)\n"
    "  --quiet            no figures\n";

enum { MAX_IMAGES = 64, MAX_STOPS = 16 };
static const size_t image_limit = (size_t)256 << 20;

struct options {
    struct model_options model;
    const char *images[MAX_IMAGES], *stops[MAX_STOPS], *text, *system, *schema;
    int image_count;
    bool quiet;
    struct qvl_generate generate;
};

static volatile sig_atomic_t interrupted;
static void on_interrupt(int signal_number) {
    if (interrupted++) {
        signal(signal_number, SIG_DFL);
        raise(signal_number);
    }
}

static int take_sampling(struct options *o, int argc, char **argv, int *i) {
    struct qvl_sampling *s = &o->generate.sampling;
    const char *v;
    double n;
    const struct { const char *name; float *value; double low, high; } numbers[] = {
        {"--temperature", &s->temperature, 1e-6, 1e6}, {"--top-p", &s->top_p, 1e-9, 1}, {"--min-p", &s->min_p, 0, 1},
        {"--repetition-penalty", &s->repetition_penalty, 1e-6, 1e6}, {"--presence-penalty", &s->presence_penalty, -1e6, 1e6}};
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
        int r = option_value("chat", numbers[k].name, argc, argv, i, &v);
        if (r == 0) continue;
        if (r < 0 || option_number("chat", numbers[k].name, v, numbers[k].low, numbers[k].high, &n)) return -1;
        return *numbers[k].value = (float)n, 1;
    }
    const struct { const char *name; int *value; } whole[] = {
        {"--top-k", &s->top_k}, {"--max-tokens", &o->generate.max_tokens}, {"--think-tokens", &o->generate.think_tokens}};
    for (size_t k = 0; k < sizeof whole / sizeof *whole; k++) {
        int r = option_value("chat", whole[k].name, argc, argv, i, &v);
        if (r == 0) continue;
        if (r < 0 || option_number("chat", whole[k].name, v, 1, 1 << 30, &n)) return -1;
        return *whole[k].value = (int)n, 1;
    }
    int r = option_value("chat", "--seed", argc, argv, i, &v);
    if (r <= 0) return r;
    if (option_number("chat", "--seed", v, 0, 9007199254740992.0, &n)) return -1;
    return s->seed = (uint64_t)n, 1;
}

static int parse_options(int argc, char **argv, struct options *o) {
    for (int i = 1; i < argc; i++) {
        const char *v;
        int r = model_options_take(&o->model, "chat", argc, argv, &i);
        if (r == 0) r = take_sampling(o, argc, argv, &i);
        if (r < 0) return -1;
        if (r > 0) continue;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return printf("%s%s", help, model_options_help), 1;
        if (!strcmp(argv[i], "--greedy")) {
            o->generate.sampling.greedy = true;
        } else if (!strcmp(argv[i], "--quiet")) {
            o->quiet = true;
        } else if ((r = option_value("chat", "--image", argc, argv, &i, &v))) {
            if (r < 0) return -1;
            if (o->image_count == MAX_IMAGES) return fprintf(stderr, "pmd-agent chat: at most %d pictures\n", MAX_IMAGES), -1;
            o->images[o->image_count++] = v;
        } else if ((r = option_value("chat", "--stop", argc, argv, &i, &v))) {
            if (r < 0) return -1;
            if (o->generate.stop_count == MAX_STOPS)
                return fprintf(stderr, "pmd-agent chat: at most %d stop texts\n", MAX_STOPS), -1;
            o->stops[o->generate.stop_count++] = v;
        } else if ((r = option_value("chat", "--system", argc, argv, &i, &v))) {
            if (r < 0) return -1;
            o->system = v;
        } else if ((r = option_value("chat", "--schema", argc, argv, &i, &v))) {
            if (r < 0) return -1;
            o->schema = v;
        } else if (argv[i][0] == '-' && argv[i][1]) {
            return fprintf(stderr, "pmd-agent chat: unknown option '%s'\n\n%s%s", argv[i], help, model_options_help), -1;
        } else if (o->text) {
            return fprintf(stderr, "pmd-agent chat: one text is expected (quote it); a second one is '%s'\n", argv[i]), -1;
        } else {
            o->text = argv[i];
        }
    }
    o->generate.stop = o->stops;
    return 0;
}

struct printer {
    bool thinking_shown;
};
static int print_text(void *user, const char *text, size_t n, bool thinking) {
    struct printer *p = user;
    FILE *to = thinking ? stderr : stdout;
    if (thinking && !p->thinking_shown) fputs("<think>\n", stderr), p->thinking_shown = true;
    if (!thinking && p->thinking_shown) fputs("\n</think>\n", stderr), p->thinking_shown = false;
    fwrite(text, 1, n, to);
    return interrupted || fflush(to) ? 1 : 0;
}

/* "12.3 tok/s" and what it means in bytes, beside what the memory can do. */
static void print_figures(const struct qvl_model *m, const struct qvl_result *r, double bandwidth) {
    struct qvl_info info;
    qvl_model_info(m, &info);
    fprintf(stderr, "[%lld prompt tokens (%lld cached), first token %.0f ms (pictures %.0f, prefill %.0f)",
            (long long)r->prompt_tokens, (long long)r->cached_tokens, r->first_token_seconds * 1e3, r->image_seconds * 1e3,
            r->prefill_seconds * 1e3);
    if (r->token_count > 1 && r->decode_seconds > 0) {
        double rate = (double)(r->token_count - 1) / r->decode_seconds, gbs = rate * (double)info.decode_bytes / 1e9;
        fprintf(stderr, "; %zu tokens, %.1f tok/s = %.2f GB/s", r->token_count, rate, gbs);
        if (bandwidth > 0 && !strcmp(info.device, "cpu"))
            fprintf(stderr, " of %.2f GB/s read bandwidth measured here (%.0f %%)", bandwidth / 1e9, 100e9 * gbs / bandwidth);
    }
    fprintf(stderr, "; memory %.1f MiB + %.1f MiB mapped]\n", (double)info.memory_bytes / 1048576.0,
            (double)info.weight_bytes / 1048576.0);
}

struct attached {
    struct buf files[MAX_IMAGES];
    int count;
};

static int attach(struct attached *a, const char *path, struct err *err) {
    if (a->count == MAX_IMAGES) return err_set(err, ERR_LIMIT, "at most %d pictures in one message", MAX_IMAGES);
    int r = file_read(path, image_limit, &a->files[a->count], err);
    if (r) buf_free(&a->files[a->count]);
    else a->count++;
    return r;
}

static void detach(struct attached *a) {
    for (int i = 0; i < a->count; i++) buf_free(&a->files[i]);
    a->count = 0;
}

static int ask(struct qvl_session *s, const struct qvl_model *m, struct options *o, struct attached *a, const char *text,
               double bandwidth, struct err *err) {
    struct qvl_part parts[MAX_IMAGES + 1] = {0};
    struct printer printer = {0};
    struct qvl_result result;
    for (int i = 0; i < a->count; i++)
        parts[i] = (struct qvl_part){.encoded = a->files[i].data, .encoded_bytes = a->files[i].len};
    parts[a->count].text = text;
    int r = qvl_session_message(s, QVL_USER, parts, a->count + 1, err);
    detach(a);
    if (r) return r;
    o->generate.on_text = print_text;
    o->generate.user = &printer;
    interrupted = 0;
    r = qvl_generate(s, &o->generate, &result, err);
    if (r) return r;
    putchar('\n');
    fflush(stdout);
    if (!o->quiet) print_figures(m, &result, bandwidth);
    qvl_result_free(&result);
    return ferror(stdout) ? err_set(err, ERR_IO, "standard output: cannot write the answer") : 0;
}

/* A conversation; errors of one message are said and the next one is awaited. */
static int converse(struct qvl_session *s, const struct qvl_model *m, struct options *o, struct attached *a, double bandwidth) {
    bool prompt = isatty(0);
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int failures = 0;
    for (;;) {
        struct err err = {0};
        int r = 0;
        if (prompt) fputs("> ", stderr);
        if ((n = getline(&line, &cap, stdin)) < 0) break;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
        if (n == 0) continue;
        if (!strcmp(line, "/quit")) break;
        if (!strcmp(line, "/clear")) {
            qvl_session_clear(s);
            if (o->system) r = qvl_session_message(s, QVL_SYSTEM, &(struct qvl_part){.text = o->system}, 1, &err);
        } else if (!strncmp(line, "/image ", 7)) {
            r = attach(a, line + 7, &err);
        } else {
            r = ask(s, m, o, a, line, bandwidth, &err);
        }
        if (r) fprintf(stderr, "pmd-agent chat: %s\n", err.message), failures++;
    }
    free(line);
    if (prompt) fputc('\n', stderr);
    return !prompt && failures ? -1 : 0;
}

static int run(struct qvl_model *m, struct options *o, struct err *err) {
    struct qvl_session *s = NULL;
    struct attached a = {0};
    struct buf schema = {0};
    double bandwidth = 0;
    int r = qvl_session_new(m, &s, err);
    if (!r && o->schema) {
        r = file_read(o->schema, 1 << 20, &schema, err);
        o->generate.json_schema = schema.data ? schema.data : "";
    }
    if (!r && !o->quiet) cpu_read_bandwidth(o->model.load.threads, &bandwidth, NULL); /* a missing yardstick is no failure */
    if (!r && o->system) r = qvl_session_message(s, QVL_SYSTEM, &(struct qvl_part){.text = o->system}, 1, err);
    for (int i = 0; !r && i < o->image_count; i++) r = attach(&a, o->images[i], err);
    if (!r) r = o->text ? ask(s, m, o, &a, o->text, bandwidth, err) : converse(s, m, o, &a, bandwidth);
    detach(&a);
    buf_free(&schema);
    qvl_session_free(s);
    return r;
}

int cmd_chat(int argc, char **argv) {
    struct options o = {0};
    int r = parse_options(argc, argv, &o);
    if (r) return r < 0 ? 2 : 0;
    struct qvl_model *m;
    struct err err = {0};
    if (model_options_open(&o.model, "chat", o.quiet, &m)) return 1;
    if (!o.quiet) {
        struct qvl_info info;
        qvl_model_info(m, &info);
        fprintf(stderr, "loaded in %.2f s: %s, %.1f M parameters, %s on %s (%s)\n", info.load_seconds, info.folder,
                (double)info.parameters / 1e6, info.storage, info.device, info.kernels);
    }
    signal(SIGINT, on_interrupt);
    r = run(m, &o, &err);
    if (r && err.message[0]) fprintf(stderr, "pmd-agent chat: %s\n", err.message);
    qvl_unload(m);
    return r ? 1 : interrupted ? 130 : 0;
}
