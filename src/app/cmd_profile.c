/* pmd-agent profile: where the time of a recorded run's decisions went, from the timings in its trajectory. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/commands.h"
#include "app/model_options.h"
#include "base/file.h"
#include "record/run.h"

static const char help[] =
    "usage: pmd-agent profile RUN [--json] [--svg FILE] [--skip N]\n"
    "\n"
    "Reads runs/X/trajectory.jsonl and says where a decision's time went: model, capture, decode, retrieval, path finding, emulator,\n"
    "recording and what is left, as a table beside the shares that were once claimed for agents of this kind.\n"
    "\n"
    "  --json       one JSON object\n"
    "  --svg FILE   a plot of the shares\n"
    "  --skip N     leave the first N decisions of every episode out (warming up), default 0\n"
    "\n"
    "With a model behind a server (play --server) its time includes the network: it cannot be told apart here.\n";

enum part { PART_MODEL, PART_CAPTURE, PART_DECODE, PART_RETRIEVAL, PART_PATH, PART_EMULATOR, PART_RECORD, PART_REST, PARTS };
static const char *const part_name[PARTS] = {"model", "capture", "decode", "retrieval", "path finding", "emulator", "recording", "rest"};
static const char *const part_what[PARTS] = {
    "pictures, prompt, answer", "picture taken and hashed, what is seen brought up to date", "the game's memory into a world",
    "memory asked for the prompt", "searches on the seen map", "frames of the game itself", "the line on disk", "prompt text, checks, presses"};
static const char *const part_claimed[PARTS] = {"60-70", "10-15", "5-10", "3-5", "2-5", "", "", ""};

struct profile {
    uint64_t steps;
    double ms[PARTS], total;
    double image, prefill, generate; /* inside model */
    float *totals;                   /* of each step, for percentiles */
    size_t cap;
    bool remote;
};

static double field(const struct json *ms, const char *name) {
    double v = json_as_number(json_get(ms, name), 0);
    return v > 0 ? v : 0;
}

static int add_total(struct profile *p, double total, struct err *err) {
    if (p->steps == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 1024;
        float *grown = realloc(p->totals, cap * sizeof *grown);
        if (!grown) return err_set(err, ERR_MEMORY, "out of memory for %zu decisions", cap);
        p->totals = grown;
        p->cap = cap;
    }
    p->totals[p->steps++] = (float)total;
    p->total += total;
    return 0;
}

static int add_step(struct profile *p, const struct json *ms, struct err *err) {
    static const char *const names[PART_RECORD] = {"ask", "observe", "decode", "recall", "path", "emulator"};
    for (int i = 0; i < PART_RECORD; i++) p->ms[i] += field(ms, names[i]);
    p->image += field(ms, "image");
    p->prefill += field(ms, "prefill");
    p->generate += field(ms, "generate");
    return add_total(p, field(ms, "total"), err);
}

/* How long a line took to write stands in the next one. */
static void add_record(struct profile *p, double ms) {
    p->ms[PART_RECORD] += ms;
    p->total += ms;
    p->totals[p->steps - 1] += (float)ms;
}

static int read_run(const char *folder, int skip, struct profile *p, struct err *err) {
    struct run_reader *run;
    int code = run_open(folder, &run, err), got = 1;
    if (code) return code;
    const char *backend = json_as_string(json_get(json_get(run_reader_info(run)->json, "model_detail"), "backend"), "");
    p->remote = !strcmp(backend, "openai");
    struct run_line *line = malloc(sizeof *line);
    bool counted = false; /* the step before */
    if (!line) code = err_set(err, ERR_MEMORY, "out of memory");
    while (!code && got > 0) {
        got = run_next(run, line, NULL, err);
        if (got < 0) code = got;
        if (got <= 0) break;
        const struct json *ms = json_get(line->json, "ms");
        if (!json_get(ms, "emulator"))
            code = err_set(err, ERR_FORMAT, "%s: episode %d, step %u has no field ms.emulator: the run was recorded by an older program", folder,
                           line->episode, line->step);
        if (!code && counted) add_record(p, field(line->json, "record_ms"));
        counted = !code && (int)line->step > skip;
        if (counted) code = add_step(p, ms, err);
    }
    free(line);
    run_close(run);
    if (!code && !p->steps) code = err_set(err, ERR_FORMAT, "%s holds no decisions%s", folder, skip ? " behind those skipped" : "");
    p->ms[PART_REST] = p->total;
    for (int i = 0; i < PART_REST; i++) p->ms[PART_REST] -= p->ms[i];
    if (p->ms[PART_REST] < 0) p->ms[PART_REST] = 0; /* rounding to microseconds */
    return code;
}

/* ---- forms ---- */

static int by_size(const void *a, const void *b) { return (*(const float *)a > *(const float *)b) - (*(const float *)a < *(const float *)b); }

/* Nearest rank. */
static double percentile(const struct profile *p, double share) {
    size_t rank = (size_t)ceil(share * (double)p->steps);
    return p->totals[rank ? rank - 1 : 0];
}

static double share(const struct profile *p, double ms) { return p->total > 0 ? 100 * ms / p->total : 0; }

static void table(const struct profile *p, struct buf *b) {
    double n = (double)p->steps;
    buf_printf(b, "%llu decisions, %.2f s; one takes %.2f ms in the median, %.2f ms at the 95th percentile\n\n", (unsigned long long)p->steps, p->total / 1e3,
               percentile(p, 0.5), percentile(p, 0.95));
    buf_str(b, "| part | ms a decision | share | once claimed | what |\n| --- | --- | --- | --- | --- |\n");
    for (int i = 0; i < PARTS; i++) {
        buf_printf(b, "| %s | %.3f | %.2f %% | %s%s | %s%s |\n", part_name[i], p->ms[i] / n, share(p, p->ms[i]), part_claimed[i], *part_claimed[i] ? " %" : "",
                   part_what[i], i == PART_MODEL && p->remote ? ", and the network to the server" : "");
        if (i != PART_MODEL || p->ms[i] <= 0) continue;
        buf_printf(b, "| - pictures | %.3f | %.2f %% | | vision tower |\n", p->image / n, share(p, p->image));
        buf_printf(b, "| - prompt | %.3f | %.2f %% | | prefill of what was not cached |\n", p->prefill / n, share(p, p->prefill));
        buf_printf(b, "| - answer | %.3f | %.2f %% | | decoding token by token |\n", p->generate / n, share(p, p->generate));
    }
}

static void json(const struct profile *p, struct buf *b) {
    buf_printf(b, "{\"decisions\":%llu,\"seconds\":%.6f,\"ms_p50\":%.4f,\"ms_p95\":%.4f,\"remote\":%s,\"parts\":{", (unsigned long long)p->steps, p->total / 1e3,
               percentile(p, 0.5), percentile(p, 0.95), p->remote ? "true" : "false");
    for (int i = 0; i < PARTS; i++)
        buf_printf(b, "%s\"%s\":{\"ms\":%.5f,\"share\":%.6f}", i ? "," : "", part_name[i], p->ms[i] / (double)p->steps, share(p, p->ms[i]) / 100);
    buf_printf(b, "},\"model\":{\"image_ms\":%.5f,\"prefill_ms\":%.5f,\"generate_ms\":%.5f}}\n", p->image / (double)p->steps, p->prefill / (double)p->steps,
               p->generate / (double)p->steps);
}

/* A bar a part, with the once claimed range as a bracket. Readable on light and dark ground. */
static void svg(const struct profile *p, struct buf *b) {
    enum { LEFT = 110, WIDTH = 480, ROW = 30, TOP = 50 };
    buf_printf(b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"13\">\n"
               "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<text x=\"10\" y=\"22\" font-size=\"15\">Where a decision's time goes (%llu decisions, "
               "median %.1f ms)</text>\n<text x=\"10\" y=\"40\" fill=\"#666\">bars: measured; brackets: once claimed</text>\n", LEFT + WIDTH + 90,
               TOP + PARTS * ROW + 10, (unsigned long long)p->steps, percentile(p, 0.5));
    for (int i = 0; i < PARTS; i++) {
        double s = share(p, p->ms[i]), low, high;
        int y = TOP + i * ROW;
        buf_printf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text><rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"16\" fill=\"#2a78b8\"/>"
                   "<text x=\"%.1f\" y=\"%d\">%.2f %%</text>", LEFT - 8, y + 17, part_name[i], LEFT, y + 4, s * WIDTH / 100, LEFT + s * WIDTH / 100 + 5, y + 17, s);
        if (sscanf(part_claimed[i], "%lf-%lf", &low, &high) == 2)
            buf_printf(b, "<path d=\"M%.1f %d v4 H%.1f v-4\" fill=\"none\" stroke=\"#c0392b\" stroke-width=\"2\"/>", LEFT + low * WIDTH / 100, y + 21,
                       LEFT + high * WIDTH / 100);
        buf_char(b, '\n');
    }
    buf_str(b, "</svg>\n");
}

static int finish(struct profile *p, bool as_json, const char *plot) {
    struct buf out = {0}, picture = {0};
    struct err err = {0};
    qsort(p->totals, p->steps, sizeof *p->totals, by_size);
    (as_json ? json : table)(p, &out);
    int code = out.failed ? err_set(&err, ERR_MEMORY, "out of memory") : 0;
    if (!code && (fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout))) code = err_set(&err, ERR_IO, "the result could not be written");
    if (!code && plot) {
        svg(p, &picture);
        code = picture.failed ? err_set(&err, ERR_MEMORY, "out of memory") : file_replace(plot, picture.data, picture.len, &err);
    }
    buf_free(&out);
    buf_free(&picture);
    if (code) fprintf(stderr, "pmd-agent profile: %s\n", err.message);
    return code ? 1 : 0;
}

int cmd_profile(int argc, char **argv) {
    const char *folder = NULL, *plot = NULL, *v;
    bool as_json = false;
    double skip = 0;
    for (int i = 1; i < argc; i++) {
        int r;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return fputs(help, stdout), 0;
        if (!strcmp(argv[i], "--json")) {
            as_json = true;
        } else if ((r = option_value("profile", "--svg", argc, argv, &i, &plot)) != 0) {
            if (r < 0) return 2;
        } else if ((r = option_value("profile", "--skip", argc, argv, &i, &v)) != 0) {
            if (r < 0 || option_number("profile", "--skip", v, 0, 1e9, &skip)) return 2;
        } else if (argv[i][0] == '-' || folder) {
            return fprintf(stderr, "pmd-agent profile: %s '%s' (--help explains)\n", folder ? "one run at a time; not needed:" : "no option", argv[i]), 2;
        } else
            folder = argv[i];
    }
    if (!folder) return fputs(help, stderr), 2;
    struct profile p = {0};
    struct err err = {0};
    int status = read_run(folder, (int)skip, &p, &err) ? (fprintf(stderr, "pmd-agent profile: %s\n", err.message), 1) : finish(&p, as_json, plot);
    free(p.totals);
    return status;
}
