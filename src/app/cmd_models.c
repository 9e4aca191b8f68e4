/* pmd-agent models: list, check-token, estimate, download, verify, smoke. Each verb is also an option (--list, --smoke ID).
 * REAL_MODELS_DRYRUN=1 does everything short of loading or downloading weights and says what it could not check. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/model_list.h"
#include "app/model_plan.h"
#include "base/clock.h"
#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "engine/memory_plan.h"
#include "hub/hub.h"
#include "qwen3vl.h"

enum { GPU_CONTEXT_BYTES = 1000000000 }; /* what a CUDA context with its libraries takes, about */

static const char help[] =
    "pmd-agent models: the checkpoints this program runs, as they are on the Hugging Face Hub\n\n"
    "  models list [--context N] [--batch N]   every id of the list: format, size, cached or not, memory, does it fit here\n"
    "  models estimate ID|DIR [--context N] [--batch N] [--kv bf16|fp8] [--weights mapped|memory]   what one model needs, from its config, before anything is loaded\n"
    "  models check-token                   which token would be sent, and whether the Hub accepts it\n"
    "  models download ID [--revision R]    fetch what is missing (resumes; verified; into the Hub's own cache)\n"
    "  models verify ID [--repair]          hash every cached file again; --repair removes damaged ones\n"
    "  models smoke ID|DIR                  load it, show it one picture, let it answer, check that all is finite\n\n"
    "The list is configs/qwen_vl_models_hf.txt; HF_MODELS_FILE names another. HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and\n"
    "HF_HUB_OFFLINE mean what they mean to the Hugging Face tools. REAL_MODELS_DRYRUN=1: nothing is loaded or downloaded.\n"
    "Memory: weights are mapped from disk (they count once, as file cache) and KV is bf16; estimate --kv fp8: as a GPU's FP8 pages;\n"
    "--weights memory: what decoding reads is held in memory once more (CPU).\n";

struct arguments {
    const char *verb, *id, *revision;
    int64_t context;
    int batch;
    bool repair, kv_fp8, held;
};

static bool dry_run(void) {
    const char *v = getenv("REAL_MODELS_DRYRUN");
    return v && *v && strcmp(v, "0");
}

static int failed(const struct err *err) {
    fprintf(stderr, "pmd-agent models: %s\n", err->message);
    return 1;
}

/* What the folder's own files say: exact sizes, and how most bytes of a model without quantisation are stored. */
static int plan_for_folder(const char *folder, struct model_plan *p, struct err *err) {
    struct model_config config;
    struct checkpoint *c;
    if (config_read(folder, &config, err)) return err->code;
    model_plan_from_config(&config, p);
    if (checkpoint_open(folder, &c, err)) return err->code;
    int64_t bytes = 0, f32 = 0, f16 = 0;
    for (size_t i = 0; i < checkpoint_tensor_count(c); i++) {
        const struct tensor *t = checkpoint_tensor_at(c, i);
        bytes += (int64_t)t->bytes;
        if (t->dtype == DTYPE_F32) f32 += (int64_t)t->bytes;
        if (t->dtype == DTYPE_F16) f16 += (int64_t)t->bytes;
    }
    checkpoint_close(c);
    if (!strcmp(p->format, "bf16") && f32 > bytes / 2) p->format = "f32", p->decode_bytes *= 2;
    if (!strcmp(p->format, "bf16") && f16 > bytes / 2) p->format = "f16";
    p->weight_bytes = bytes;
    p->source = PLAN_FILES;
    return 0;
}

/* A model that is not here: its config.json and the sizes of its files, asked of the Hub. */
static int plan_from_hub(const struct hub_settings *s, const char *id, struct model_plan *p, struct err *err) {
    struct hub_listing listing;
    if (hub_list(s, id, "main", &listing, err)) return err->code;
    int64_t bytes = 0;
    bool has_config = false;
    for (int i = 0; i < listing.count; i++) {
        const struct hub_file *f = &listing.files[i];
        size_t n = strlen(f->path);
        has_config |= !strcmp(f->path, "config.json");
        if (hub_file_wanted(f->path) && n > 12 && !strcmp(f->path + n - 12, ".safetensors")) bytes += f->bytes;
    }
    /* config_read takes a folder: a temporary one with just this file. */
    char folder[] = "/tmp/pmd-config-XXXXXX", path[sizeof folder + 16];
    struct buf text = {0};
    struct model_config config;
    int result = has_config ? hub_fetch(s, id, listing.commit, "config.json", 16 << 20, &text, err)
                            : err_set(err, ERR_MISSING, "%s: the repository has no config.json", id);
    if (!result && !mkdtemp(folder)) result = err_set(err, ERR_IO, "/tmp: cannot make a folder there: %s", strerror(errno));
    if (!result) {
        snprintf(path, sizeof path, "%s/config.json", folder);
        result = file_replace(path, text.data ? text.data : "", text.len, err);
        if (!result && !(result = config_read(folder, &config, err))) model_plan_from_config(&config, p);
        else if (result == ERR_FORMAT || result == ERR_MISSING) err_context(err, "%s", id);
        unlink(path);
        rmdir(folder);
    }
    if (bytes && p->source != PLAN_UNKNOWN) p->weight_bytes = bytes, p->source = PLAN_FILES;
    buf_free(&text);
    hub_listing_free(&listing);
    return result;
}

/* The best plan at hand: the files of a local folder or cached snapshot; else what the Hub says; else the published shape that the
 * id names. Returns the code of what could not be asked or was wrong, with unchecked saying it; 0 and "" when all was checked. */
static int plan_for(const struct hub_settings *s, const char *id, struct model_plan *p, bool *cached, struct err *unchecked) {
    char folder[PATH_MAX];
    struct stat st;
    struct err missing = {0};
    *unchecked = (struct err){0};
    *cached = false;
    model_plan_from_id(id, p);
    if (!stat(id, &st) && S_ISDIR(st.st_mode)) {
        *cached = true;
        *p = (struct model_plan){.source = PLAN_UNKNOWN, .format = "?"}; /* a folder's name proves nothing */
        return plan_for_folder(id, p, unchecked);
    }
    if (!hub_id_valid(id)) return err_set(unchecked, ERR_ARGUMENT, "no such folder, and no Hub model id (expected owner/name)");
    *cached = !hub_cached(s, id, NULL, folder, &missing);
    if (*cached) return plan_for_folder(folder, p, unchecked);
    if (s->offline) return err_set(unchecked, ERR_STATE, "not in the cache, and offline: the Hub was not asked");
    return plan_from_hub(s, id, p, unchecked);
}

/* "3.469 GB", small ones in MB. */
static const char *size_text(int64_t bytes, char out[32]) {
    snprintf(out, 32, bytes < 100000000 ? "%.3f MB" : "%.3f GB", (double)bytes * (bytes < 100000000 ? 1e-6 : 1e-9));
    return out;
}

static const char *const source_text[] = {
    [PLAN_UNKNOWN] = "nothing known", [PLAN_PUBLISHED_SHAPE] = "published shape", [PLAN_CONFIG] = "config.json", [PLAN_FILES] = "files"};

static int list(const struct arguments *a) {
    struct hub_settings s;
    struct err err = {0};
    struct model_list l;
    char path[PATH_MAX];
    if (hub_settings_read(&s, &err) || model_list_hub(&l, path, &err)) return failed(&err);
    int64_t context = a->context ? a->context : 8192, memory = (int64_t)memory_available();
    printf("%s; cache %s; %.1f GB of memory free; context %lld x %d\n\n", path, s.cache, (double)memory * 1e-9, (long long)context, a->batch);
    printf("%-48s %-6s %9s %9s %-7s %10s %10s  %s\n", "id", "format", "params", "download", "cached", "CPU memory", "GPU memory", "fits here (CPU)");
    struct err first = {0}, silent = {0};
    int unchecked_count = 0;
    for (int i = 0; i < l.count; i++) {
        struct model_plan p;
        bool cached;
        struct err unchecked;
        if (plan_for(&s, l.names[i], &p, &cached, &unchecked)) {
            if (hub_unreachable(&unchecked)) s.offline = true, silent = unchecked; /* ask once, not twelve times */
            else if (unchecked.code == ERR_STATE && silent.code) unchecked = silent;
            if (!unchecked_count++) first = unchecked, err_context(&first, "%s", l.names[i]);
        }
        if (p.source == PLAN_UNKNOWN) {
            printf("%-48s %-6s %9s %9s %-7s %10s %10s  ?\n", l.names[i], "?", "?", "?", cached ? "yes" : "no", "?", "?");
            continue;
        }
        int64_t need = p.weight_bytes + model_plan_memory(&p, context, a->batch);
        char weights[32], cpu[32], gpu[32];
        printf("%-48s %-6s %8.2fB %9s %-7s %10s %10s  %s\n", l.names[i], p.format, (double)p.parameters * 1e-9, size_text(p.weight_bytes, weights),
               cached ? "yes" : "no", size_text(need, cpu), size_text(need + GPU_CONTEXT_BYTES, gpu),
               memory == 0 ? "?" : need <= memory ? "yes" : "no");
    }
    if (unchecked_count) {
        printf("\nNot checked for %d of %d (sizes, where known, are then computed from the published shapes): %s\n", unchecked_count, l.count,
               first.message);
    }
    model_list_free(&l);
    return 0;
}

static int estimate(const struct arguments *a) {
    struct hub_settings s;
    struct err err = {0}, unchecked;
    if (hub_settings_read(&s, &err)) return failed(&err);
    struct model_plan p;
    bool cached;
    if (plan_for(&s, a->id, &p, &cached, &unchecked) && p.source == PLAN_UNKNOWN) {
        if (dry_run() && (hub_unreachable(&unchecked) || unchecked.code == ERR_STATE)) {
            printf("%s\n  not checked       %s\n", a->id, unchecked.message);
            return 0;
        }
        if (!strstr(unchecked.message, a->id)) err_context(&unchecked, "%s", a->id);
        return failed(&unchecked);
    }
    int64_t context = a->context ? a->context : p.max_context < 8192 ? p.max_context : 8192, memory = (int64_t)memory_available();
    if (a->kv_fp8) p.kv_bytes_per_token = p.fp8_kv_bytes_per_token;
    int64_t kv = p.kv_bytes_per_token * context * a->batch, held = a->held ? p.decode_bytes : 0;
    int64_t need = p.weight_bytes + held + model_plan_memory(&p, context, a->batch);
    char text[32];
    printf("%s\n  format            %s (from: %s)\n  parameters        %.3f billion\n", a->id, p.format, source_text[p.source], (double)p.parameters * 1e-9);
    printf("  weights           %s%s\n", size_text(p.weight_bytes, text), p.source == PLAN_FILES ? "" : " (estimate)");
    printf("  read per token    %s (estimate)\n  KV per token      %lld bytes%s\n", size_text(p.decode_bytes, text), (long long)p.kv_bytes_per_token,
           a->kv_fp8 ? " (FP8 pages: GPU only)" : "");
    printf("  KV at %lld x %-5d %s\n", (long long)context, a->batch, size_text(kv, text));
    if (held) printf("  weights in memory %s (estimate)\n", size_text(held, text));
    printf("  memory in all     %s (estimate)\n", size_text(need, text));
    if (context > p.max_context) printf("  the context is above the model's own limit of %lld tokens\n", (long long)p.max_context);
    printf("  free memory       %s: %s\n", size_text(memory, text), !memory ? "not known" : need > memory ? "does not fit" : "fits");
    if (unchecked.code) printf("  not checked       %s\n", unchecked.message);
    return 0;
}

static int check_token(void) {
    struct hub_settings s;
    struct err err = {0};
    char name[128];
    if (hub_settings_read(&s, &err)) return failed(&err);
    printf("token: %s; endpoint: %s\n", s.token_source ? s.token_source : "none", s.endpoint);
    if (hub_whoami(&s, name, &err)) {
        /* A dry run forgives what could not be asked, not what the Hub refused. */
        if (dry_run() && (hub_unreachable(&err) || err.code == ERR_STATE || err.code == ERR_MISSING)) {
            printf("not checked: %s\n", err.message);
            return 0;
        }
        return failed(&err);
    }
    printf("accepted: account %s\n", name);
    return 0;
}

/* Bytes free where the cache is, or will be; -1 when that cannot be told. */
static int64_t cache_space(const struct hub_settings *s) {
    struct statvfs v;
    char at[PATH_MAX];
    snprintf(at, sizeof at, "%s", s->cache);
    while (statvfs(at, &v)) {
        char *slash = strrchr(at, '/');
        if (!strcmp(at, "/") || !strcmp(at, ".")) return -1;
        if (!slash) snprintf(at, sizeof at, ".");
        else slash[slash == at] = 0;
    }
    return (int64_t)v.f_bavail * (int64_t)v.f_frsize;
}

static int download_plan(const struct arguments *a) {
    struct hub_settings s;
    struct hub_listing l;
    struct err err = {0};
    if (hub_settings_read(&s, &err)) return failed(&err);
    if (hub_list(&s, a->id, a->revision ? a->revision : "main", &l, &err)) {
        if (!hub_unreachable(&err) && err.code != ERR_STATE) return failed(&err);
        printf("%s: files not checked: %s\n", a->id, err.message);
        return 0;
    }
    int64_t missing = 0, space = cache_space(&s);
    for (int i = 0; i < l.count; i++) {
        const struct hub_file *f = &l.files[i];
        if (!hub_file_wanted(f->path)) continue;
        printf("%14lld  %-7s %s\n", (long long)f->bytes, f->cached ? "cached" : "missing", f->path);
        if (!f->cached) missing += f->bytes;
    }
    char need[32], have[32];
    printf("%s at %s: %s to fetch, %s free on disk%s\n", a->id, l.commit, size_text(missing, need), space < 0 ? "unknown" : size_text(space, have),
           space >= 0 && missing > space ? ": does not fit" : "");
    hub_listing_free(&l);
    return 0;
}

static int download(const struct arguments *a) {
    struct err err = {0};
    char folder[PATH_MAX];
    if (dry_run()) return download_plan(a);
    double begun = clock_seconds();
    if (model_fetch(a->id, a->revision, folder, &err)) return failed(&err), err.code == ERR_CANCELLED ? 130 : 1;
    printf("%s\n", folder);
    fprintf(stderr, "%s is complete (%.1f s)\n", a->id, clock_seconds() - begun);
    return 0;
}

static int verify(const struct arguments *a) {
    struct hub_settings s;
    struct err err = {0};
    struct hub_verified v;
    char folder[PATH_MAX];
    if (hub_settings_read(&s, &err)) return failed(&err);
    if (hub_verify(&s, a->id, a->revision, a->repair, &v, &err)) {
        failed(&err);
        if (v.damaged) {
            fprintf(stderr, "%d of %d files %s damaged%s\n", v.damaged, v.files, v.damaged == 1 ? "is" : "are",
                    a->repair ? "; what was wrong is removed: download again" : " (--repair removes them)");
        }
        return 1;
    }
    if (hub_cached(&s, a->id, a->revision, folder, &err)) return failed(&err);
    if (v.unhashed) fprintf(stderr, "pmd-agent models: %d files carry no hash (plain files instead of links) and were not checked\n", v.unhashed);
    printf("%s: %d files, all as published\n", a->id, v.files);
    return v.files ? 0 : 1;
}

/* A picture with known content: a red square on green and a blue bar. */
static void draw_picture(uint8_t *rgb, int width, int height) {
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++) {
            bool square = x > width / 4 && x < width / 2 && y > height / 4 && y < 3 * height / 4, bar = x > 3 * width / 4;
            uint8_t *p = rgb + 3 * (y * width + x);
            p[0] = square ? 220 : 30, p[1] = square || bar ? 30 : 160, p[2] = bar ? 220 : 40;
        }
    }
}

static int smoke(const struct arguments *a) {
    enum { WIDTH = 480, HEIGHT = 320 };
    struct err err = {0};
    char folder[PATH_MAX];
    struct qvl_model *model = NULL;
    struct qvl_session *session = NULL;
    struct qvl_result r = {0};
    if (dry_run()) return estimate(a);
    if (model_resolve(a->id, false, folder, &err)) return failed(&err);
    struct qvl_options options = {.context = a->context ? a->context : 4096};
    uint8_t *rgb = malloc(WIDTH * HEIGHT * 3);
    int status = 1;
    if (!rgb) err_set(&err, ERR_MEMORY, "out of memory");
    if (rgb && !qvl_load(folder, &options, &model, &err) && !qvl_session_new(model, &session, &err)) {
        draw_picture(rgb, WIDTH, HEIGHT);
        struct qvl_part parts[] = {{.rgb = rgb, .width = WIDTH, .height = HEIGHT}, {.text = "What is in the picture?"}};
        struct qvl_generate g = {.sampling = {.greedy = true}, .max_tokens = 32, .think_tokens = 16};
        if (!qvl_session_message(session, QVL_USER, parts, 2, &err) && !qvl_generate(session, &g, &r, &err)) {
            status = 0;
            for (size_t i = 0; i < r.token_count; i++) {
                if (!isfinite(r.tokens[i].logprob) || r.tokens[i].logprob > 1e-3f) {
                    err_set(&err, ERR_FORMAT, "%s: token %zu has log-probability %g: not finite and sane", folder, i, (double)r.tokens[i].logprob);
                    status = 1;
                }
            }
            if (!r.token_count) err_set(&err, ERR_FORMAT, "%s: the model generated nothing", folder), status = 1;
        }
    }
    if (status == 0) {
        struct qvl_info info;
        struct rusage usage;
        qvl_model_info(model, &info);
        getrusage(RUSAGE_SELF, &usage);
        printf("%s: loaded in %.2f s on %s (%s), %s, %.2f GB of weights\n", a->id, info.load_seconds, info.device, info.kernels, info.storage,
               (double)info.weight_bytes * 1e-9);
        printf("picture %dx%d encoded in %.3f s; %lld prompt tokens in %.3f s; %zu tokens at %.1f tok/s; peak memory %.2f GB\n", WIDTH, HEIGHT,
               r.image_seconds, (long long)r.prompt_tokens, r.prefill_seconds, r.token_count,
               r.decode_seconds > 0 ? (double)r.token_count / r.decode_seconds : 0.0, (double)usage.ru_maxrss * 1024e-9);
        printf("answer: %s\nall log-probabilities finite: ok\n", r.text ? r.text : "");
    } else {
        failed(&err);
    }
    qvl_result_free(&r);
    qvl_session_free(session);
    if (model) qvl_unload(model);
    free(rgb);
    return status;
}

static int wrong(const char *what, const char *word) {
    fprintf(stderr, "pmd-agent models: %s%s%s%s\n\n%s", what, *word ? ": '" : "", word, *word ? "'" : "", help);
    return 2;
}

/* 1 to limit; -1 for anything else. */
static int64_t number_of(const char *text, int64_t limit) {
    char *end;
    long long n = strtoll(text, &end, 10);
    return *text && !*end && n >= 1 && n <= limit ? n : -1;
}

enum option { CONTEXT = 1, BATCH = 2, REVISION = 4, REPAIR = 8, ID = 16, KV = 32, WEIGHTS = 64 };

int cmd_models(int argc, char **argv) {
    static const struct {
        const char *name;
        unsigned takes; /* of enum option */
    } verbs[] = {{"list", CONTEXT | BATCH},          {"estimate", ID | CONTEXT | BATCH | KV | WEIGHTS}, {"check-token", 0},
                 {"download", ID | REVISION},        {"verify", ID | REVISION | REPAIR}, {"smoke", ID | CONTEXT}};
    struct arguments a = {.batch = 1};
    unsigned given = 0, takes = 0;
    for (int i = 1; i < argc; i++) {
        const char *w = argv[i], *bare = !strncmp(w, "--", 2) ? w + 2 : w, *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool verb = false;
        if (!strcmp(w, "--help") || !strcmp(w, "-h")) return fputs(help, stdout), 0;
        for (size_t v = 0; v < sizeof verbs / sizeof *verbs && !a.verb; v++) {
            if (!strcmp(bare, verbs[v].name)) a.verb = verbs[v].name, takes = verbs[v].takes, verb = true;
        }
        if (verb) continue;
        if (!strcmp(w, "--repair")) {
            a.repair = true, given |= REPAIR;
        } else if (!strcmp(w, "--context") || !strcmp(w, "--batch")) {
            int64_t n = value ? number_of(value, w[2] == 'c' ? 1 << 24 : 4096) : -1;
            if (n < 0) return wrong(w[2] == 'c' ? "--context takes a number of tokens from 1 to 16777216" : "--batch takes a number from 1 to 4096", "");
            if (w[2] == 'c') a.context = n, given |= CONTEXT;
            else a.batch = (int)n, given |= BATCH;
            i++;
        } else if (!strcmp(w, "--kv")) {
            if (!value || (strcmp(value, "bf16") && strcmp(value, "fp8"))) return wrong("--kv takes bf16 or fp8", "");
            a.kv_fp8 = !strcmp(value, "fp8"), given |= KV, i++;
        } else if (!strcmp(w, "--weights")) {
            if (!value || (strcmp(value, "mapped") && strcmp(value, "memory"))) return wrong("--weights takes mapped or memory", "");
            a.held = !strcmp(value, "memory"), given |= WEIGHTS, i++;
        } else if (!strcmp(w, "--revision")) {
            if (!value || !*value) return wrong("--revision takes a branch, a tag or a commit", "");
            a.revision = value, given |= REVISION, i++;
        } else if (*w && *w != '-' && !a.id) {
            a.id = w, given |= ID;
        } else {
            return wrong("unexpected", w);
        }
    }
    if (!a.verb) return wrong("say what to do", "");
    if (given & ID & ~takes) return wrong("this takes no model", a.id);
    if (given & ~takes) return wrong("an option that means nothing here, with", a.verb);
    if (takes & ID & ~given) return wrong("name a model: owner/name, or a folder", "");
    if (!strcmp(a.verb, "list")) return list(&a);
    if (!strcmp(a.verb, "check-token")) return check_token();
    if (!strcmp(a.verb, "estimate")) return estimate(&a);
    if (!strcmp(a.verb, "download")) return download(&a);
    if (!strcmp(a.verb, "verify")) return verify(&a);
    return smoke(&a);
}
