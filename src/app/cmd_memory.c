/* pmd-agent memory: the memory over runs, from the shell. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/home.h"
#include "app/commands.h"
#include "app/memory_runs.h"
#include "app/model_list.h"
#include "base/clock.h"
#include "base/file.h"
#include "memory/vector_math.h"
#include "record/png_file.h"

static const char help[] =
    "usage: pmd-agent memory rebuild|search|stats|verify [options]\n"
    "\n"
    "Memory over runs, as `pmd-agent play --memory DIR` keeps it: every step in DIR/memory.sqlite, embeddings of keyframes, an index of them, and\n"
    "what was recalled. All of it is derived from runs.\n"
    "\n"
    "  --memory DIR        the memory's folder (default memory)\n"
    "\n"
    "rebuild             makes the store and the index again from runs, in one piece: a run that cannot be read is named and left out\n"
    "  --runs DIR          folder of runs (default runs)\n"
    "  --model DIR|ID      embed the pictures of keyframes with this model where an embedding is missing; `bundled` is models/tinywoods-vl\n"
    "  --embed KIND        image (default), last, thought\n"
    "  --fresh             forget the embeddings that the store has (default: they are kept where run, step and picture are the same)\n"
    "  --device D, --threads N   for the model and the index\n"
    "search              the newest steps that fit, or with --like those that look like a picture\n"
    "  --run NAME  --episode N  --scene S  --floor N  --action A  --outcome O  --keyframes     --limit N (default 20)\n"
    "  --like FILE.png     a 240x160 picture (a key frame of a run, say); with --model and --embed as above (default: bundled, image)\n"
    "stats               what is in it, and whether what was recalled helped. --json for programs\n"
    "verify              checks the store, every embedding, and the index files against it\n"
    "\n"
    "examples\n"
    "  pmd-agent play --memory memory --episodes 5\n"
    "  pmd-agent memory search --scene stairs --outcome cleared\n"
    "  pmd-agent memory search --like runs/20260101-120000-4711/frames/e00001-s000012.png\n"
    "  pmd-agent memory rebuild --model bundled\n"
    "\n"
    "exit status: 0 all well, 1 failure (rebuild: also when a run was left out), 2 wrong usage\n";

struct options {
    const char *folder, *runs, *model, *like, *device;
    enum embed_kind kind;
    int threads;
    bool fresh, json;
    struct store_filter filter;
};

static volatile bool stop;
static void on_signal(int number) {
    stop = true;
    signal(number, SIG_DFL);
}

static int wrong(const char *option, const char *value, const char *expected) {
    fprintf(stderr, "pmd-agent memory: %s %s: expected %s (--help explains)\n", option, value, expected);
    return 2;
}

static bool whole(const char *text, int max, int *out) {
    char *end;
    errno = 0;
    long n = strtol(text, &end, 10);
    *out = (int)n;
    return *text && !*end && !errno && n >= 0 && n <= max;
}

static int parse(int argc, char **argv, struct options *o) {
    enum { MEMORY = 1, RUNS, MODEL, KIND, FRESH, DEVICE, THREADS, RUN, EPISODE, SCENE, FLOOR, ACTION, OUTCOME, KEYFRAMES, LIMIT, LIKE, JSON, HELP };
    static const struct option options[] = {
        {"memory", 1, NULL, MEMORY}, {"runs", 1, NULL, RUNS},       {"model", 1, NULL, MODEL},   {"embed", 1, NULL, KIND},        {"fresh", 0, NULL, FRESH},
        {"device", 1, NULL, DEVICE}, {"threads", 1, NULL, THREADS}, {"run", 1, NULL, RUN},       {"episode", 1, NULL, EPISODE},   {"scene", 1, NULL, SCENE},
        {"floor", 1, NULL, FLOOR},   {"action", 1, NULL, ACTION},   {"outcome", 1, NULL, OUTCOME}, {"keyframes", 0, NULL, KEYFRAMES}, {"limit", 1, NULL, LIMIT},
        {"like", 1, NULL, LIKE},     {"json", 0, NULL, JSON},       {"help", 0, NULL, HELP},     {0}};
    *o = (struct options){.folder = "memory", .runs = "runs", .filter = {.floor = -1, .episode = -1, .limit = 20}};
    optind = 0;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case MEMORY: o->folder = optarg; break;
        case RUNS: o->runs = optarg; break;
        case MODEL: o->model = optarg; break;
        case FRESH: o->fresh = true; break;
        case DEVICE: o->device = optarg; break;
        case RUN: o->filter.run = optarg; break;
        case SCENE: o->filter.scene = optarg; break;
        case ACTION: o->filter.action = optarg; break;
        case OUTCOME: o->filter.outcome = optarg; break;
        case KEYFRAMES: o->filter.keyframes = true; break;
        case LIKE: o->like = optarg; break;
        case JSON: o->json = true; break;
        case KIND:
            for (o->kind = 0; o->kind < EMBED_KINDS && strcmp(optarg, embed_kind_name[o->kind]);) o->kind++;
            if (o->kind == EMBED_KINDS) return wrong("--embed", optarg, "image, last or thought");
            break;
        case THREADS:
            if (!whole(optarg, 1024, &o->threads) || !o->threads) return wrong("--threads", optarg, "a number from 1 to 1024");
            break;
        case EPISODE:
            if (!whole(optarg, 1000000, &o->filter.episode)) return wrong("--episode", optarg, "a number");
            break;
        case FLOOR:
            if (!whole(optarg, 100, &o->filter.floor)) return wrong("--floor", optarg, "a number from 0 to 100");
            break;
        case LIMIT:
            if (!whole(optarg, 1000000, &o->filter.limit) || !o->filter.limit) return wrong("--limit", optarg, "a number from 1 to 1000000");
            break;
        case 'h':
        case HELP: return fputs(help, stdout), 1;
        default: return fputs("pmd-agent memory --help explains the options\n", stderr), 2;
        }
    }
    return optind < argc ? wrong("argument", argv[optind], "options only") : 0;
}

static void notice(void *user, const char *text) {
    (void)user;
    fprintf(stderr, "pmd-agent memory: %s\n", text);
}

/* ---- the model ------------------------------------------------------------------------------------------------------------------------- */

struct eye {
    struct qvl_model *model;
    struct embedder *embedder;
    char folder[PATH_MAX];
    struct qvl_info info;
};

static int eye_open(const struct options *o, const char *name, struct eye *e, struct err *err) {
    *e = (struct eye){0};
    if (!strcmp(name, "bundled")) home_file(HOME_MODEL, e->folder, sizeof e->folder);
    else if (model_resolve(name, false, e->folder, err)) return err->code;
    struct qvl_options load = {.device = o->device, .threads = o->threads};
    int code = qvl_load(e->folder, &load, &e->model, err);
    if (code) return code;
    qvl_model_info(e->model, &e->info);
    return embedder_new(e->model, o->kind, &e->embedder, err);
}

static void eye_close(struct eye *e) {
    embedder_free(e->embedder);
    if (e->model) qvl_unload(e->model);
}

static int memory_for(const struct options *o, const struct eye *e, const char *name, const char *game, bool read_only, struct memory **out, struct err *err) {
    struct store_space space = {name, e->info.checkpoint, embed_kind_name[o->kind], game, e->info.hidden};
    struct memory_options m = {.folder = o->folder, .read_only = read_only, .space = e->embedder ? &space : NULL, .notice = notice,
                               .threads = o->threads ? o->threads : (int)sysconf(_SC_NPROCESSORS_ONLN)};
    return memory_open(&m, out, err);
}

/* ---- rebuild ---------------------------------------------------------------------------------------------------------------------------- */

/* A run that breaks off in the middle must not stay in half. *run: 0 before the first pass; 0 again when it was left out. */
static int take_or_leave_out(struct memory *m, const char *folder, const struct take_options *take, int64_t *run, struct take_counts *counts, int *left_out, struct err *err) {
    struct err why;
    struct take_counts before = *counts;
    struct store *s = memory_store(m);
    if (store_savepoint(s, err)) return err->code;
    int64_t second = *run;
    int code = second ? memory_take_recalled(m, folder, take, second, counts, &why) : memory_take_steps(m, folder, take, run, counts, &why);
    if (!code) return store_savepoint_keep(s, err);
    if (store_savepoint_undo(s, err)) return err->code;
    *run = 0;
    if (second && store_run_remove(s, second, err)) return err->code;
    *counts = before;
    if (code == ERR_CANCELLED || code == ERR_MEMORY || code == ERR_IO) return *err = why, code;
    ++*left_out;
    fprintf(stderr, "pmd-agent memory: left out: %s\n", why.message);
    return 0;
}

/* The game of the runs: vectors of different games are different spaces. The first run that says one. */
static void game_of(const struct run_list *l, char game[16]) {
    snprintf(game, 16, "%s", "");
    for (int i = 0; i < l->count && !*game; i++) {
        struct run_reader *r;
        if (run_open(l->folders[i], &r, NULL)) continue;
        snprintf(game, 16, "%s", run_reader_info(r)->rom_code);
        run_close(r);
    }
}

static int rebuild_from(const struct options *o, const struct run_list *list, const char *game, struct memory *m, const struct eye *e, struct take_counts *counts, int *left_out,
                        int64_t *kept, int64_t *lost, struct err *err) {
    struct take_options take = {.embedder = e->embedder, .game = game, .stop = &stop};
    struct store *s = memory_store(m);
    int64_t *runs = calloc((size_t)list->count + 1, sizeof *runs); /* numbers; 0: left out */
    int code = runs ? store_begin(s, err) : err_set(err, ERR_MEMORY, "out of memory for a list of runs");
    if (!code) code = store_forget_runs(s, !o->fresh, err);
    for (int i = 0; i < list->count && !code; i++) {
        fprintf(stderr, "\r%d of %d runs", i + 1, list->count);
        code = take_or_leave_out(m, list->folders[i], &take, &runs[i], counts, left_out, err);
    }
    for (int i = 0; i < list->count && !code; i++) {
        if (runs[i]) code = take_or_leave_out(m, list->folders[i], &take, &runs[i], counts, left_out, err);
    }
    if (list->count) fputc('\n', stderr);
    if (!code) code = store_restore_vectors(s, kept, lost, err);
    if (!code) code = store_commit(s, err);
    if (code) store_rollback(s);
    free(runs);
    return code;
}

static int rebuild(const struct options *o, struct err *err) {
    struct run_list list;
    struct eye e = {0};
    struct memory *m = NULL;
    struct take_counts counts = {0};
    char game[16];
    int left_out = 0, code = run_list_find(o->runs, &list, err);
    int64_t kept = 0, lost = 0;
    double start = clock_seconds();
    if (code) return code;
    game_of(&list, game);
    if (o->model) code = eye_open(o, o->model, &e, err);
    if (!code) code = memory_for(o, &e, o->model, game, false, &m, err);
    if (!code) code = rebuild_from(o, &list, game, m, &e, &counts, &left_out, &kept, &lost, err);
    memory_close(m); /* opened again below: the index is made of what the store has now */
    m = NULL;
    if (!code && o->model) code = memory_for(o, &e, o->model, game, false, &m, err);
    memory_close(m);
    eye_close(&e);
    run_list_free(&list);
    if (code) return code;
    printf("%lld runs, %lld steps, %lld keyframes in %.1f s; embeddings: %lld made, %lld kept, %lld lost", (long long)counts.runs, (long long)counts.steps,
           (long long)counts.keyframes, clock_seconds() - start, (long long)counts.embedded, (long long)kept, (long long)lost);
    if (counts.without_picture) printf(", %lld keyframes without a picture on record", (long long)counts.without_picture);
    if (counts.forgotten) printf("; %lld memories told are of runs that are gone", (long long)counts.forgotten);
    puts(counts.torn ? "; a last line was torn by a crash" : "");
    return left_out ? err_set(err, ERR_FORMAT, "%d of the runs were left out", left_out) : 0;
}

/* ---- search ------------------------------------------------------------------------------------------------------------------------------ */

static int print_step(void *user, const struct store_found *f) {
    char causes[80] = "", note[300];
    int *count = user;
    ++*count;
    if (f->causes) keyframe_causes_text(f->causes, causes);
    line_escape(f->note, note, sizeof note);
    printf("%s e%d s%-4u floor %d %-8s hp %d/%d  %s (%s)%s%s%s%s%s%s%s%s\n", f->run, f->episode, f->number, f->floor, f->scene, f->hp, f->max_hp, f->action,
           f->decided_by, *f->outcome ? "  episode: " : "", f->outcome, *causes ? "  keyframe: " : "", causes, *f->picture ? "  " : "", f->picture,
           *note ? "  note: " : "", note);
    return 0;
}

static int search_steps(const struct options *o, struct err *err) {
    struct memory *m;
    struct memory_options mo = {.folder = o->folder, .read_only = true};
    int count = 0, code = memory_open(&mo, &m, err);
    if (code) return code;
    code = store_find(memory_store(m), &o->filter, print_step, &count, err);
    memory_close(m);
    if (!code && !count) puts("nothing fits");
    return code;
}

/* Which game's space of this model there is in the store. */
struct space_search {
    const char *identity, *kind;
    char game[16];
};
static int find_space(void *user, const struct store_space_row *row) {
    struct space_search *s = user;
    if (strcmp(row->identity, s->identity) || strcmp(row->kind, s->kind) || !row->vectors) return 0;
    return snprintf(s->game, sizeof s->game, "%s", row->game), 1;
}

static int by_similarity(const void *x, const void *y) {
    float a = ((const struct memory_told *)x)->similarity, b = ((const struct memory_told *)y)->similarity;
    return (a < b) - (a > b);
}

static int search_like(const struct options *o, struct err *err) {
    static uint8_t rgb[FRAME_PIXELS * 3];
    const char *name = o->model ? o->model : "bundled";
    struct buf file = {0};
    struct eye e = {0};
    struct memory *m = NULL;
    struct memory_told told[MEMORY_TOLD];
    int count = 0, code = file_read(o->like, 4 << 20, &file, err);
    if (!code) code = png_decode(file.data, file.len, FRAME_WIDTH, FRAME_HEIGHT, rgb, o->like, err);
    if (!code && o->kind == EMBED_THOUGHT) code = err_set(err, ERR_ARGUMENT, "--like: a picture alone has no thought; use --embed image or last");
    if (!code) code = eye_open(o, name, &e, err);
    float *v = code ? NULL : malloc((size_t)e.info.hidden * sizeof *v);
    if (!code) code = v ? embed_picture(e.embedder, rgb, v, err) : err_set(err, ERR_MEMORY, "out of memory");
    struct space_search space = {e.info.checkpoint, embed_kind_name[o->kind], ""};
    struct eye none = {0};
    if (!code) code = memory_for(o, &none, NULL, "", true, &m, err);
    if (!code) code = store_spaces(memory_store(m), find_space, &space, err);
    memory_close(m);
    m = NULL;
    if (!code && !*space.game) code = err_set(err, ERR_MISSING, "%s: no embeddings (%s) of %s are in it: `memory rebuild --model` makes them", o->folder, space.kind, name);
    if (!code) code = memory_for(o, &e, name, space.game, true, &m, err);
    double start = clock_seconds();
    int limit = o->filter.limit < MEMORY_TOLD ? o->filter.limit : MEMORY_TOLD;
    if (!code) code = memory_recall(m, v, 0, 0, told, limit, &count, err);
    double ms = (clock_seconds() - start) * 1e3;
    if (!code) qsort(told, (size_t)count, sizeof *told, by_similarity);
    for (int i = 0; !code && i < count; i++) {
        char text[300], from[200];
        memory_told_text(&told[i], text, sizeof text, from, sizeof from);
        printf("%.3f  %s e%d s%u  %s  silos %s", (double)told[i].similarity, told[i].memory.run_name, told[i].memory.episode, told[i].memory.number, text,
               told[i].silos ? "" : "-");
        for (int s = 0; s < SILO_COUNT; s++) if (told[i].silos >> s & 1) printf("%d", s);
        printf("%s%s\n", *told[i].memory.picture ? "  " : "", told[i].memory.picture);
    }
    if (!code) printf("%d memories in %.2f ms\n", count, ms);
    memory_close(m);
    eye_close(&e);
    free(v);
    buf_free(&file);
    return code;
}

/* ---- stats and verify ------------------------------------------------------------------------------------------------------------------- */

static int add_space(void *user, const struct store_space_row *row) {
    struct buf *b = user;
    buf_str(b, b->len && b->data[b->len - 1] == '}' ? ",{\"model\":" : "{\"model\":");
    buf_json_string(b, row->model, strlen(row->model));
    buf_printf(b, ",\"identity\":\"%.32s\",\"kind\":\"%s\",\"game\":", row->identity, row->kind);
    buf_json_string(b, row->game, strlen(row->game));
    buf_printf(b, ",\"dims\":%d,\"vectors\":%lld}", row->dims, (long long)row->vectors);
    return 0;
}

static int print_space(void *user, const struct store_space_row *row) {
    const struct options *o = user;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/index-%lld.ivf", PATH_MAX - 40, o->folder, (long long)row->id);
    printf("embeddings of %s (%.8s), %s, game %s: %lld of %d dimensions; %s\n", row->model, row->identity, row->kind, row->game, (long long)row->vectors, row->dims,
           file_exists(path) ? "index file" : "searched exactly");
    return 0;
}

static double percent(int64_t part, int64_t of) { return of ? 100.0 * (double)part / (double)of : 0; }

static int stats(const struct options *o, struct err *err) {
    struct memory *m;
    struct store_counts c;
    struct memory_options mo = {.folder = o->folder, .read_only = true};
    int code = memory_open(&mo, &m, err);
    if (code) return code;
    code = store_counts(memory_store(m), &c, err);
    struct buf spaces = {0};
    if (!code && o->json) {
        code = store_spaces(memory_store(m), add_space, &spaces, err);
        printf("{\"runs\":%lld,\"episodes\":%lld,\"steps\":%lld,\"keyframes\":%lld,\"embeddings\":%lld,\"recalled\":%lld,\"judged\":%lld,\"followed\":%lld,"
               "\"followed_good\":%lld,\"not_followed_good\":%lld,\"spaces\":[%s]}\n",
               (long long)c.runs, (long long)c.episodes, (long long)c.steps, (long long)c.keyframes, (long long)c.embeddings, (long long)c.recalls,
               (long long)c.judged, (long long)c.followed, (long long)c.followed_good, (long long)c.other_good, spaces.data ? spaces.data : "");
    } else if (!code) {
        printf("%lld runs, %lld episodes ended, %lld steps, %lld keyframes, %lld embeddings\n", (long long)c.runs, (long long)c.episodes, (long long)c.steps,
               (long long)c.keyframes, (long long)c.embeddings);
        code = store_spaces(memory_store(m), print_space, (void *)o, err);
        int64_t others = c.judged - c.followed;
        printf("recalled: %lld, judged %lld. Good after %d steps (no HP lost, and a new tile or floor; or cleared):\n"
               "  the action taken was the memory's:  %lld of %lld (%.1f %%)\n  another action was taken:           %lld of %lld (%.1f %%)\n",
               (long long)c.recalls, (long long)c.judged, OUTCOME_STEPS, (long long)c.followed_good, (long long)c.followed, percent(c.followed_good, c.followed),
               (long long)c.other_good, (long long)others, percent(c.other_good, others));
    }
    buf_free(&spaces);
    memory_close(m);
    return code;
}

struct check {
    struct memory *m;
    const struct options *o;
    int64_t space, vectors;
    int dims, problems;
    struct err err;
};

static int check_vector(void *user, int64_t keyframe, int level, const float *v, struct err *err) {
    struct check *c = user;
    (void)level, (void)err;
    float length = vector_dot(v, v, (size_t)c->dims);
    if (!(fabsf(length - 1) < 1e-3f)) {
        c->problems++;
        printf("keyframe %lld: its embedding in space %lld has the squared length %g, expected 1\n", (long long)keyframe, (long long)c->space, (double)length);
    }
    c->vectors++;
    return 0;
}

/* The index of a space is opened as it would be for playing; what is wrong with it is told by notice. */
static int check_space(void *user, const struct store_space_row *row) {
    struct check *c = user;
    struct memory *m;
    c->space = row->id;
    c->dims = row->dims;
    if (store_embeddings(memory_store(c->m), row->id, 0, check_vector, c, &c->err)) return 1;
    struct store_space space = {row->model, row->identity, row->kind, row->game, row->dims};
    struct memory_options o = {.folder = c->o->folder, .space = &space, .notice = notice};
    if (memory_open(&o, &m, &c->err)) return 1;
    struct vector_index_stats s;
    memory_index_stats(m, &s);
    memory_close(m);
    printf("%s, %s, %s: %lld embeddings, %lld of them in an index file\n", row->model, row->kind, row->game, (long long)row->vectors, (long long)s.in_file);
    if (s.vectors == row->vectors) return 0;
    c->problems++;
    printf("  the index has %lld vectors, the store %lld\n", (long long)s.vectors, (long long)row->vectors);
    return 0;
}

static int verify(const struct options *o, struct err *err) {
    struct check c = {.o = o};
    struct memory_options mo = {.folder = o->folder, .read_only = true};
    int code = memory_open(&mo, &c.m, err);
    if (!code) code = store_verify(memory_store(c.m), err);
    if (!code) code = store_spaces(memory_store(c.m), check_space, &c, err);
    if (!code && c.err.code) code = c.err.code, *err = c.err;
    memory_close(c.m);
    if (code) return code;
    printf("%s: %s (%lld embeddings)\n", o->folder, c.problems ? "problems found" : "whole", (long long)c.vectors);
    return c.problems ? err_set(err, ERR_FORMAT, "%s: %d problems; `pmd-agent memory rebuild` makes it again", o->folder, c.problems) : 0;
}

int cmd_memory(int argc, char **argv) {
    struct options o;
    struct err err = {0};
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) return fputs(help, argc < 2 ? stderr : stdout), argc < 2 ? 2 : 0;
    int status = parse(argc - 1, argv + 1, &o), code;
    if (status) return status == 1 ? 0 : status;
    stop = false;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    if (!strcmp(argv[1], "rebuild")) code = rebuild(&o, &err);
    else if (!strcmp(argv[1], "search")) code = o.like ? search_like(&o, &err) : search_steps(&o, &err);
    else if (!strcmp(argv[1], "stats")) code = stats(&o, &err);
    else if (!strcmp(argv[1], "verify")) code = verify(&o, &err);
    else return wrong("command", argv[1], "rebuild, search, stats or verify");
    if (code) fprintf(stderr, "pmd-agent memory %s: %s\n", argv[1], err.message);
    return code == ERR_CANCELLED ? 130 : code ? 1 : 0;
}
