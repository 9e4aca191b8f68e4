#include "bench/plot.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "bench/gnuplot.h"
#include "bench/result.h"

enum { AXIS_MOST = 64 };

/* The measured cells of one model in one file. */
struct drawing {
    const struct results *all;
    const struct result *first;      /* names model, weights, machine */
    char base[PATH_MAX];             /* FOLDER/FILE-MODEL */
    int made;
};

/* ---- what is there ---- */

static bool is_mine(const struct drawing *d, const struct result *r) {
    return !strcmp(r->status, "measured") && !strcmp(r->model, d->first->model) && !strcmp(r->weights, d->first->weights);
}

/* The last line about a cell of text. */
static const struct result *cell_at(const struct drawing *d, int64_t context, int64_t batch, int64_t best_of) {
    const struct result *found = NULL;
    for (size_t i = 0; i < d->all->count; i++) {
        const struct result *r = &d->all->items[i];
        if (is_mine(d, r) && !strcmp(r->task, "text") && r->context == context && r->batch == batch && r->best_of == best_of) found = r;
    }
    return found;
}

enum axis { AXIS_CONTEXT, AXIS_BATCH, AXIS_BEST };
static int64_t on_axis(const struct result *r, enum axis a) {
    return a == AXIS_CONTEXT ? r->context : a == AXIS_BATCH ? r->batch : r->best_of;
}

static int by_number(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Distinct values, ascending, among text cells; best_of 0: any. */
static int values_on(const struct drawing *d, enum axis a, int64_t best_of, int64_t out[AXIS_MOST]) {
    int n = 0;
    for (size_t i = 0; i < d->all->count && n < AXIS_MOST; i++) {
        const struct result *r = &d->all->items[i];
        if (!is_mine(d, r) || strcmp(r->task, "text") || (best_of && r->best_of != best_of)) continue;
        bool there = false;
        for (int k = 0; k < n; k++) there = there || out[k] == on_axis(r, a);
        if (!there) out[n++] = on_axis(r, a);
    }
    qsort(out, (size_t)n, sizeof *out, by_number);
    return n;
}

/* ---- script ---- */

static void short_number(int64_t v, char out[24]) {
    if (v >= 1024 && v % 1024 == 0) snprintf(out, 24, "%lldk", (long long)(v / 1024));
    else snprintf(out, 24, "%lld", (long long)v);
}

static void put_tics(struct buf *b, const char *axis, const int64_t *values, int n) {
    buf_printf(b, "set %stics (", axis);
    for (int i = 0; i < n; i++) {
        char text[24];
        short_number(values[i], text);
        buf_printf(b, "%s'%s' %lld", i ? ", " : "", text, (long long)values[i]);
    }
    /* A little more than the last one, else rounding loses its tic. */
    buf_printf(b, ")\nset %srange [%lld:%.9g]\n", axis, (long long)values[0], (double)values[n - 1] * 1.0001);
}

/* A logarithmic axis with some air around what is drawn. */
struct extent {
    double low, high;
};
static void widen(struct extent *e, double v) {
    if (!isfinite(v) || v <= 0) return;
    if (e->low == 0 || v < e->low) e->low = v;
    if (v > e->high) e->high = v;
}
static void put_log_range(struct buf *b, const char *axis, struct extent e) {
    if (e.low > 0) buf_printf(b, "set %srange [%.4g:%.4g]\n", axis, e.low / 1.5, e.high * 1.5);
}

/* A text inside single quotes of gnuplot. */
static void put_quoted(struct buf *b, const char *text) {
    for (; *text; text++) {
        if (*text == '\'') buf_char(b, '\'');
        buf_char(b, *text == '\n' ? ' ' : *text);
    }
}

static void put_head(struct buf *b, const struct drawing *d, const char *title, const char *note) {
    buf_str(b, "reset session\nset encoding utf8\nset datafile missing '?'\n"
               "set linetype 1 lc rgb '#2a6f97' lw 2.5 pt 7 ps 1.1\nset linetype 2 lc rgb '#e07a1f' lw 2.5 pt 5 ps 1.1\n"
               "set linetype 3 lc rgb '#3a8f5c' lw 2.5 pt 9 ps 1.3\nset linetype 4 lc rgb '#a23b72' lw 2.5 pt 13 ps 1.3\n"
               "set linetype 5 lc rgb '#6c5ba7' lw 2.5 pt 11 ps 1.3\nset linetype 6 lc rgb '#c9a227' lw 2.5 pt 15 ps 1.1\n"
               "set linetype 7 lc rgb '#4d4d4d' lw 2.5 pt 6 ps 1.1\nset linetype 8 lc rgb '#5fb3b3' lw 2.5 pt 4 ps 1.1\n"
               "set linetype 9 lc rgb '#b5651d' lw 2.5 pt 8 ps 1.2\nset linetype cycle 9\n"
               "set border 3 lc rgb '#666666' lw 1\nset tics nomirror out scale 0.6 tc rgb '#333333'\n"
               "set grid lc rgb '#e4e4e4' lt 1 lw 1\nset key outside right top vertical Left reverse samplen 2 spacing 1.25 tc rgb '#333333'\n"
               "set label 1 '");
    put_quoted(b, title);
    buf_str(b, "' at screen 0.03, 0.955 left font ',17' tc rgb '#111111' noenhanced\nset label 2 '");
    put_quoted(b, note);
    buf_str(b, "' at screen 0.03, 0.91 left font ',11' tc rgb '#666666' noenhanced\nset label 3 '");
    char foot[400];
    snprintf(foot, sizeof foot, "%s on %s (%s, %s), %.10s; medians of %lld repeats%s", d->first->storage, d->first->machine,
             d->first->device, d->first->kernels, d->first->date, (long long)d->first->repeats,
             strcmp(d->first->weights, "random") ? "" : "; random weights of the real shapes");
    put_quoted(b, foot);
    buf_str(b, "' at screen 0.03, 0.03 left font ',9' tc rgb '#888888' noenhanced\n"
               "set lmargin at screen 0.09\nset bmargin at screen 0.17\nset tmargin at screen 0.86\n");
}

/* Draws what `body` plots, as PNG and as SVG. */
static int draw(struct drawing *d, const char *name, struct buf *head, const struct buf *body, struct err *err) {
    static const struct {
        const char *ending, *terminal;
    } forms[] = {{"png", "pngcairo size 1400,900 font 'DejaVu Sans,13' background rgb 'white'"},
                 {"svg", "svg size 1120,720 dynamic font 'DejaVu Sans,13' background rgb 'white'"}};
    int r = 0;
    for (int i = 0; !r && i < 2; i++) {
        struct buf script = {0};
        buf_append(&script, head->data, head->len);
        buf_printf(&script, "set terminal %s\nset output '", forms[i].terminal);
        put_quoted(&script, d->base);
        buf_printf(&script, "-%s.%s'\n", name, forms[i].ending);
        buf_append(&script, body->data, body->len);
        buf_str(&script, "unset output\n");
        script.failed = script.failed || head->failed || body->failed;
        r = gnuplot_run(&script, err);
        buf_free(&script);
        if (!r) printf("%s-%s.%s\n", d->base, name, forms[i].ending), d->made++;
    }
    buf_free(head);
    return r;
}

static void left_out(const struct drawing *d, const char *what, const char *why) {
    fprintf(stderr, "%s: no picture of %s: %s\n", d->first->model, what, why);
}

/* ---- the pictures ---- */

enum layer { LAYER_SPEED, LAYER_FLOOR, LAYER_EDGE, LAYER_FRONT, LAYERS };
static const char *const layer_names[] = {"speed", "floor", "edge", "front"};

/* The points of a landscape; of its far edges and its front edge only, where figures are written beside them. */
static void put_grid(struct buf *b, const struct drawing *d, enum layer layer, const int64_t *contexts, int nc, const int64_t *batches,
                     int nb, struct extent *extent) {
    buf_printf(b, "$%s << END\n", layer_names[layer]);
    for (int k = 0; k < nb; k++) {
        for (int i = 0; i < nc; i++) {
            const struct result *r = cell_at(d, contexts[i], batches[k], 1);
            double v = r ? layer == LAYER_FLOOR ? r->floor_tok_s : r->decode_tok_s.median : NAN;
            widen(extent, v);
            if (layer == LAYER_EDGE && i > 0 && k < nb - 1) v = NAN;
            if (layer == LAYER_FRONT && (i == 0 || k > 0)) v = NAN;
            if (isfinite(v)) buf_printf(b, "%lld %lld %.6g\n", (long long)contexts[i], (long long)batches[k], v);
            else buf_printf(b, "%lld %lld NaN\n", (long long)contexts[i], (long long)batches[k]);
        }
        buf_char(b, '\n');
    }
    buf_str(b, "END\n");
}

static int draw_landscape(struct drawing *d, struct err *err) {
    int64_t contexts[AXIS_MOST], batches[AXIS_MOST];
    int nc = values_on(d, AXIS_CONTEXT, 1, contexts), nb = values_on(d, AXIS_BATCH, 1, batches);
    struct extent extent = {0};
    struct buf head = {0}, body = {0};
    if (nc < 2 || nb < 2) return left_out(d, "the landscape", "it takes two contexts and two batches of text"), 0;
    char title[200];
    snprintf(title, sizeof title, "%s: decode speed", d->first->model);
    put_head(&head, d, title, "surface: measured tokens/s of all sequences together; lines above it: the byte floor, the most that memory allows");
    for (int l = LAYER_SPEED; l < LAYERS; l++) put_grid(&body, d, (enum layer)l, contexts, nc, batches, nb, &extent);
    put_log_range(&body, "z", extent);
    put_tics(&body, "x", contexts, nc);
    put_tics(&body, "y", batches, nb);
    buf_str(&body, "set logscale x 2\nset logscale y 2\nset logscale z 10\nset logscale cb 10\nset border 31 lc rgb '#999999'\n"
                   "set xyplane relative 0\nset view 62, 38, 0.95, 1.15\nset xlabel 'context (tokens)' offset 0,-0.5\n"
                   "set ylabel 'sequences at once' offset 2,-0.5\nset zlabel 'tokens/s' rotate by 90 offset -1,0\nset format z '%.0f'\n"
                   "set format cb '%.0f'\nset grid x y z lc rgb '#e6e6e6' lt 1 lw 0.5\n"
                   "set palette defined (0 '#440154', 1 '#3b528b', 2 '#21918c', 3 '#5ec962', 4 '#fde725')\n"
                   "set colorbox user origin 0.93, 0.25 size 0.015, 0.5\nset key at screen 0.97, 0.955 right top horizontal\n"
                   "unset lmargin\nunset bmargin\nunset tmargin\nset origin -0.02, 0.01\nset size 1, 0.93\n"
                   "set pm3d scansautomatic border lc rgb '#ffffff' lw 0.6\n"
                   "splot $speed using 1:2:3 with pm3d notitle, "
                   "$speed using 1:2:3 with points pt 7 ps 0.6 lc rgb '#222222' title 'measured', "
                   "$floor using 1:2:3 with lines lc rgb '#d1495b' lw 1.4 title 'byte floor', "
                   "$edge using 1:2:3:(sprintf($3 < 10 ? '%.1f' : '%.0f', $3)) with labels font ',9' offset 0,0.9 tc rgb '#111111' notitle, "
                   "$front using 1:2:3:(sprintf($3 < 10 ? '%.1f' : '%.0f', $3)) with labels font ',9' offset -1.2,-0.9 tc rgb '#111111' notitle\n");
    int r = draw(d, "landscape", &head, &body, err);
    buf_free(&body);
    return r;
}

static int draw_first_token(struct drawing *d, struct err *err) {
    int64_t contexts[AXIS_MOST];
    int n = values_on(d, AXIS_CONTEXT, 1, contexts), lines = 0;
    struct extent extent = {0};
    struct buf head = {0}, body = {0}, plots = {0};
    for (int i = 0; i < n; i++) {
        const struct result *r = cell_at(d, contexts[i], 1, 1);
        char text[24];
        if (!r || !isfinite(r->ttft_cold_ms.median)) continue;
        const struct {
            int share;
            struct measure m;
        } at[] = {{0, r->ttft_cold_ms}, {50, r->ttft_half_ms}, {90, r->ttft_prefix_ms}, {100, r->ttft_full_ms}};
        buf_printf(&body, "$c%d << END\n", i);
        for (int k = 0; k < 4; k++)
            if (isfinite(at[k].m.median) && at[k].m.median > 0) {
                buf_printf(&body, "%d %.6g\n", at[k].share, at[k].m.median);
                widen(&extent, at[k].m.median);
            }
        buf_str(&body, "END\n");
        short_number(contexts[i], text);
        buf_printf(&plots, "%s$c%d using 1:2 with linespoints title '%s tokens'", lines ? ", " : "plot ", i, text);
        lines++;
    }
    if (!lines) return left_out(d, "the first token", "it takes a text cell of batch 1, best of 1"), 0;
    char title[200];
    snprintf(title, sizeof title, "%s: time to the first token", d->first->model);
    put_head(&head, d, title, "one prompt; how much of it the prompt cache knows already (in full: not even a forward pass)");
    buf_str(&body, "set logscale y 10\nset format y '%g'\nset xlabel 'share of the prompt reused'\nset ylabel 'milliseconds'\n"
                   "set xtics ('none' 0, '50 %%' 50, '90 %%' 90, 'all' 100)\nset xrange [-3:103]\n"
                   "set rmargin at screen 0.85\n");
    put_log_range(&body, "y", extent);
    buf_append(&body, plots.data, plots.len);
    buf_char(&body, '\n');
    buf_free(&plots);
    int r = draw(d, "first-token", &head, &body, err);
    buf_free(&body);
    return r;
}

static int draw_memory(struct drawing *d, struct err *err) {
    int64_t contexts[AXIS_MOST], batches[AXIS_MOST];
    int nc = values_on(d, AXIS_CONTEXT, 1, contexts), nb = values_on(d, AXIS_BATCH, 1, batches), lines = 0;
    struct buf head = {0}, body = {0}, plots = {0};
    if (nc < 2) return left_out(d, "memory", "it takes text cells of two contexts"), 0;
    for (int k = 0; k < nb; k++) {
        int points = 0;
        buf_printf(&body, "$b%d << END\n", k);
        for (int i = 0; i < nc; i++) {
            const struct result *r = cell_at(d, contexts[i], batches[k], 1);
            if (!r || !isfinite(r->memory_mib)) continue;
            buf_printf(&body, "%lld %.6g\n", (long long)contexts[i], r->memory_mib / 1024);
            points++;
        }
        buf_str(&body, "END\n");
        if (!points) continue;
        buf_printf(&plots, "%s$b%d using 1:2 with linespoints title '%lld sequence%s'", lines ? ", " : "plot ", k, (long long)batches[k],
                   batches[k] == 1 ? "" : "s");
        lines++;
    }
    char title[200];
    snprintf(title, sizeof title, "%s: memory", d->first->model);
    put_head(&head, d, title, strcmp(d->first->device, "cpu") ? "most held on the device: weights, keys and values, working memory"
                                                              : "most resident memory of the process: mapped weights, keys and values, working memory");
    put_tics(&body, "x", contexts, nc);
    buf_str(&body, "set logscale x 2\nset xlabel 'context (tokens)'\nset ylabel 'GiB'\nset yrange [0:*]\nset offsets 0, 0, graph 0.08, 0\n"
                   "set rmargin at screen 0.83\n");
    buf_append(&body, plots.data, plots.len);
    buf_char(&body, '\n');
    buf_free(&plots);
    int r = draw(d, "memory", &head, &body, err);
    buf_free(&body);
    return r;
}

static int draw_best_of(struct drawing *d, struct err *err) {
    int64_t bests[AXIS_MOST], batches[AXIS_MOST], contexts[AXIS_MOST];
    int nn = values_on(d, AXIS_BEST, 0, bests), nb = values_on(d, AXIS_BATCH, 0, batches), lines = 0;
    struct extent extent = {0};
    struct buf head = {0}, body = {0}, plots = {0};
    if (nn < 2) return left_out(d, "best-of", "it takes text cells of two best-of numbers"), 0;
    values_on(d, AXIS_CONTEXT, bests[nn - 1], contexts);
    for (int k = 0; k < nb; k++) {
        int points = 0;
        buf_printf(&body, "$b%d << END\n", k);
        for (int i = 0; i < nn; i++) {
            const struct result *r = cell_at(d, contexts[0], batches[k], bests[i]);
            if (!r || !isfinite(r->decode_tok_s.median)) continue;
            buf_printf(&body, "%lld %.6g %.6g\n", (long long)bests[i], r->decode_tok_s.median, r->floor_tok_s);
            widen(&extent, r->decode_tok_s.median);
            widen(&extent, r->floor_tok_s);
            points++;
        }
        buf_str(&body, "END\n");
        if (points < 2) continue;
        buf_printf(&plots, "%s$b%d using 1:2 with linespoints lt %d title '%lld prompt%s', $b%d using 1:3 with lines lt %d lw 1.2 dt 2 "
                   "%s", lines ? ", " : "plot ", k, lines + 1, (long long)batches[k], batches[k] == 1 ? "" : "s", k, lines + 1,
                   lines ? "notitle" : "title 'byte floor'");
        lines++;
    }
    if (!lines) {
        buf_free(&body);
        return left_out(d, "best-of", "no batch has two best-of numbers at one context"), 0;
    }
    char title[200], note[200], text[24];
    short_number(contexts[0], text);
    snprintf(title, sizeof title, "%s: several answers to one prompt", d->first->model);
    snprintf(note, sizeof note, "decode speed of all answers together at %s tokens; the prompt is computed and kept once; dashed: the byte floor", text);
    put_head(&head, d, title, note);
    put_tics(&body, "x", bests, nn);
    buf_str(&body, "set logscale x 2\nset logscale y 10\nset format y '%g'\nset xlabel 'answers to each prompt'\nset ylabel 'tokens/s'\n"
                   "set rmargin at screen 0.85\n");
    put_log_range(&body, "y", extent);
    buf_append(&body, plots.data, plots.len);
    buf_char(&body, '\n');
    buf_free(&plots);
    int r = draw(d, "best-of", &head, &body, err);
    buf_free(&body);
    return r;
}

/* ---- all ---- */

static int name_pictures(struct drawing *d, const char *file, const char *folder, struct err *err) {
    const char *slash = strrchr(file, '/'), *name = slash ? slash + 1 : file, *dot = strrchr(name, '.');
    char model[128];
    snprintf(model, sizeof model, "%s", d->first->model);
    for (char *p = model; *p; p++)
        if (*p == '/' || *p == ' ') *p = '-';
    const char *end = model;
    while (*end == '-' || *end == '.') end++; /* of a path */
    int n = folder ? snprintf(d->base, sizeof d->base, "%s/", folder)
                   : snprintf(d->base, sizeof d->base, "%.*s", slash ? (int)(slash - file) + 1 : 0, file);
    if (n < 0 || (size_t)n + strlen(name) + sizeof model + 16 > sizeof d->base)
        return err_set(err, ERR_ARGUMENT, "%s: the path is too long", folder ? folder : file);
    snprintf(d->base + n, sizeof d->base - (size_t)n, "%.*s-%s", dot ? (int)(dot - name) : (int)strlen(name), name, end);
    return 0;
}

int plot_results(const char *file, const char *folder, struct err *err) {
    struct results all;
    int made = 0, r = results_read(file, &all, err);
    if (r) return r;
    if (folder) r = file_make_folders(folder, err);
    for (size_t i = 0; !r && i < all.count; i++) {
        struct drawing d = {.all = &all, .first = &all.items[i]};
        bool seen = strcmp(d.first->status, "measured") != 0;
        for (size_t k = 0; k < i && !seen; k++) seen = is_mine(&d, &all.items[k]);
        if (seen) continue;
        r = name_pictures(&d, file, folder, err);
        if (!r) r = draw_landscape(&d, err);
        if (!r) r = draw_first_token(&d, err);
        if (!r) r = draw_memory(&d, err);
        if (!r) r = draw_best_of(&d, err);
        made += d.made;
    }
    results_free(&all);
    if (!r && !made) r = err_set(err, ERR_ARGUMENT, "%s: nothing in it that could be drawn", file);
    return r;
}
