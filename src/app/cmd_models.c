/* pmd-agent models: list, check-token, estimate, download, verify, smoke. Each verb is also an option (--list, --smoke ID).
 * REAL_MODELS_DRYRUN=1 does everything short of loading or downloading weights and says what it could not check. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "app/commands.h"
#include "app/model_list.h"
#include "app/model_plan.h"
#include "base/clock.h"
#include "checkpoint/checkpoint.h"
#include "engine/memory_plan.h"
#include "base/file.h"
#include "hub/hub.h"
#include "qwen3vl.h"

static const char help[] =
    "pmd-agent models: the checkpoints this program runs, as they are on the Hugging Face Hub\n\n"
    "  models list [--context N]            every id of the list: format, size, cached or not, memory, does it fit here\n"
    "  models estimate ID|DIR [--context N] [--batch N]   what one model needs, from its config, before anything is loaded\n"
    "  models check-token                   which token would be sent, and whether the Hub accepts it\n"
    "  models download ID [--revision R]    fetch what is missing (resumes; verified; into the Hub's own cache)\n"
    "  models verify ID [--repair]          hash every cached file again; --repair removes damaged ones\n"
    "  models smoke ID|DIR                  load it, show it one picture, let it answer, check that all is finite\n\n"
    "The list is configs/qwen_vl_models_hf.txt; HF_MODELS_FILE names another. HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and\n"
    "HF_HUB_OFFLINE mean what they mean to the Hugging Face tools. REAL_MODELS_DRYRUN=1: nothing is loaded or downloaded.\n"
    "Memory: weights are mapped from disk (they count once, as file cache) and KV is bf16.\n";

struct arguments {
    const char *verb, *id, *revision;
    int64_t context;
    int batch;
    bool repair;
};

static bool dry_run(void) {
    const char *v = getenv("REAL_MODELS_DRYRUN");
    return v && *v && strcmp(v, "0");
}

static int failed(const struct err *err) {
    fprintf(stderr, "pmd-agent models: %s\n", err->message);
    return 1;
}

/* The best plan at hand: a local folder or cached snapshot gives config and file sizes; else the Hub's listing gives sizes; else the
 * published shape. unchecked says what could not be asked, or is empty. */
static void plan_for(const struct hub_settings *s, const char *id, struct model_plan *p, bool *cached, char *unchecked, size_t cap) {
    char folder[PATH_MAX];
    struct stat st;
    struct err err = {0};
    struct model_config config;
    struct hub_listing listing;
    *unchecked = 0;
    bool local = !stat(id, &st) && S_ISDIR(st.st_mode);
    if (local) snprintf(folder, sizeof folder, "%s", id);
    *cached = local || (hub_id_valid(id) && !hub_cached(s, id, NULL, folder, &err));
    model_plan_from_id(id, p);
    if (*cached && !config_read(folder, &config, &err)) {
        model_plan_from_config(&config, p);
        struct checkpoint *c;
        if (!checkpoint_open(folder, &c, &err)) {
            int64_t bytes = 0;
            for (size_t i = 0; i < checkpoint_tensor_count(c); i++) bytes += (int64_t)checkpoint_tensor_at(c, i)->bytes;
            p->weight_bytes = bytes;
            p->source = PLAN_FILES;
            checkpoint_close(c);
        } else {
            snprintf(unchecked, cap, "%.200s", err.message);
        }
        return;
    }
    if (s->offline || !hub_id_valid(id)) {
        snprintf(unchecked, cap, "%s", s->offline ? "offline: the Hub was not asked" : "no such folder");
    } else if (hub_list(s, id, "main", &listing, &err)) {
        snprintf(unchecked, cap, "%.300s", err.message);
    } else {
        int64_t bytes = 0;
        for (int i = 0; i < listing.count; i++) {
            size_t n = strlen(listing.files[i].path);
            if (hub_file_wanted(listing.files[i].path) && n > 12 && !strcmp(listing.files[i].path + n - 12, ".safetensors")) bytes += listing.files[i].bytes;
        }
        if (bytes) p->weight_bytes = bytes, p->source = PLAN_FILES;
        hub_listing_free(&listing);
    }
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
    printf("%s; cache %s; %.1f GB of memory free; context %lld\n\n", path, s.cache, (double)memory * 1e-9, (long long)context);
    printf("%-48s %-6s %9s %9s %-7s %10s %10s  %s\n", "id", "format", "params", "download", "cached", "CPU memory", "GPU memory", "fits here (CPU)");
    char first_unchecked[512] = "";
    int unchecked_count = 0;
    for (int i = 0; i < l.count; i++) {
        struct model_plan p;
        bool cached;
        char unchecked[512];
        plan_for(&s, l.names[i], &p, &cached, unchecked, sizeof unchecked);
        if (*unchecked) {
            if (!unchecked_count++) snprintf(first_unchecked, sizeof first_unchecked, "%s: %s", l.names[i], unchecked);
            if (strstr(unchecked, "Could not resolve") || strstr(unchecked, "connect")) s.offline = true; /* ask once, not twelve times */
        }
        if (p.source == PLAN_UNKNOWN) {
            printf("%-48s %-6s %9s %9s %-7s\n", l.names[i], "?", "?", "?", cached ? "yes" : "no");
            continue;
        }
        int64_t working = model_plan_memory(&p, context, 1), need = p.weight_bytes + working;
        printf("%-48s %-6s %8.2fB %6.2f GB %-7s %7.2f GB %7.2f GB  %s\n", l.names[i], p.format, (double)p.parameters * 1e-9,
               (double)p.weight_bytes * 1e-9, cached ? "yes" : "no", (double)need * 1e-9, (double)need * 1e-9 + 1.0,
               memory == 0 ? "?" : need <= memory ? "yes" : "no");
    }
    if (unchecked_count) {
        printf("\nNot checked for %d of %d (sizes are then computed from the published shapes): %s\n", unchecked_count, l.count, first_unchecked);
    }
    model_list_free(&l);
    return 0;
}

static int estimate(const struct arguments *a) {
    struct hub_settings s;
    struct err err = {0};
    if (hub_settings_read(&s, &err)) return failed(&err);
    struct model_plan p;
    bool cached;
    char unchecked[512];
    plan_for(&s, a->id, &p, &cached, unchecked, sizeof unchecked);
    if (p.source == PLAN_UNKNOWN) {
        err_set(&err, ERR_MISSING, "%s: %s", a->id, *unchecked ? unchecked : "neither in the cache nor a known Qwen3-VL size");
        return failed(&err);
    }
    int64_t context = a->context ? a->context : 8192, memory = (int64_t)memory_available(), kv = p.kv_bytes_per_token * context * a->batch;
    int64_t need = p.weight_bytes + model_plan_memory(&p, context, a->batch);
    printf("%s\n  format            %s (from: %s)\n  parameters        %.3f billion\n  weights           %.3f GB%s\n", a->id, p.format, source_text[p.source],
           (double)p.parameters * 1e-9, (double)p.weight_bytes * 1e-9, p.source == PLAN_FILES ? "" : " (estimate)");
    printf("  read per token    %.3f GB (estimate)\n  KV per token      %lld bytes\n  KV at %lld x %d   %.3f GB\n  memory in all     %.3f GB (estimate)\n",
           (double)p.decode_bytes * 1e-9, (long long)p.kv_bytes_per_token, (long long)context, a->batch, (double)kv * 1e-9, (double)need * 1e-9);
    if (context > p.max_context) printf("  the context is above the model's own limit of %lld tokens\n", (long long)p.max_context);
    printf("  free memory       %.3f GB: %s\n", (double)memory * 1e-9, memory && need > memory ? "does not fit" : "fits");
    if (*unchecked) printf("  not checked       %s\n", unchecked);
    return 0;
}

static int check_token(void) {
    struct hub_settings s;
    struct err err = {0};
    char name[128];
    if (hub_settings_read(&s, &err)) return failed(&err);
    printf("token: %s; endpoint: %s\n", s.token_source ? s.token_source : "none", s.endpoint);
    if (hub_whoami(&s, name, &err)) {
        if (dry_run() && (err.code == ERR_NETWORK || err.code == ERR_STATE || err.code == ERR_MISSING)) {
            printf("not checked: %s\n", err.message);
            return 0;
        }
        return failed(&err);
    }
    printf("accepted: account %s\n", name);
    return 0;
}

static int download(const struct arguments *a) {
    struct err err = {0};
    char folder[PATH_MAX];
    if (dry_run()) {
        struct hub_settings s;
        struct hub_listing l;
        if (hub_settings_read(&s, &err)) return failed(&err);
        if (hub_list(&s, a->id, a->revision ? a->revision : "main", &l, &err)) {
            printf("%s: files not checked: %s\n", a->id, err.message);
            return err.code == ERR_ARGUMENT ? 2 : 0;
        }
        int64_t missing = 0;
        for (int i = 0; i < l.count; i++) {
            const struct hub_file *f = &l.files[i];
            if (!hub_file_wanted(f->path)) continue;
            printf("%14lld  %-7s %s\n", (long long)f->bytes, f->cached ? "cached" : "missing", f->path);
            if (!f->cached) missing += f->bytes;
        }
        struct statvfs v;
        char at[PATH_MAX];
        snprintf(at, sizeof at, "%s", s.cache);
        while (*at && statvfs(at, &v) && strrchr(at, '/')) *strrchr(at, '/') = 0;
        double space = *at && !statvfs(at, &v) ? (double)v.f_bavail * (double)v.f_frsize * 1e-9 : -1;
        printf("%s at %s: %.3f GB to fetch, %.1f GB free on disk\n", a->id, l.commit, (double)missing * 1e-9, space);
        hub_listing_free(&l);
        return 0;
    }
    double begun = clock_seconds();
    if (model_fetch(a->id, a->revision, folder, &err)) return failed(&err), err.code == ERR_CANCELLED ? 130 : 1;
    printf("%s\n", folder);
    fprintf(stderr, "%s is complete and verified (%.1f s)\n", a->id, clock_seconds() - begun);
    return 0;
}

static int verify(const struct arguments *a) {
    struct hub_settings s;
    struct err err = {0};
    int files, damaged;
    if (hub_settings_read(&s, &err)) return failed(&err);
    int result = hub_verify(&s, a->id, a->revision, a->repair, &files, &damaged, &err);
    if (result) {
        failed(&err);
        if (damaged) fprintf(stderr, "%d of %d files are damaged%s\n", damaged, files, a->repair ? " and were removed: download again" : " (--repair removes them)");
        return 1;
    }
    struct hub_settings check = s;
    char folder[PATH_MAX];
    if (hub_cached(&check, a->id, a->revision, folder, &err)) return failed(&err);
    printf("%s: %d files, all as published\n", a->id, files);
    return 0;
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

static int wrong(const char *what) {
    fprintf(stderr, "pmd-agent models: %s\n\n%s", what, help);
    return 2;
}

int cmd_models(int argc, char **argv) {
    static const char *const verbs[] = {"list", "estimate", "check-token", "download", "verify", "smoke"};
    struct arguments a = {.batch = 1};
    for (int i = 1; i < argc; i++) {
        const char *w = argv[i], *bare = !strncmp(w, "--", 2) ? w + 2 : w;
        bool verb = false;
        if (!strcmp(w, "--help") || !strcmp(w, "-h")) return fputs(help, stdout), 0;
        for (size_t v = 0; v < sizeof verbs / sizeof *verbs && !a.verb; v++) {
            if (!strcmp(bare, verbs[v])) a.verb = verbs[v], verb = true;
        }
        if (verb) continue;
        bool value = i + 1 < argc;
        char *end = "";
        if (!strcmp(w, "--repair")) a.repair = true;
        else if (!strcmp(w, "--context") && value) a.context = strtoll(argv[++i], &end, 10);
        else if (!strcmp(w, "--batch") && value) a.batch = (int)strtol(argv[++i], &end, 10);
        else if (!strcmp(w, "--revision") && value) a.revision = argv[++i];
        else if (*w != '-' && !a.id) a.id = w;
        else return fprintf(stderr, "pmd-agent models: unexpected '%s'\n", w), wrong("see below");
        if (*end || a.context < 0 || a.context > (1 << 24) || a.batch < 1 || a.batch > 4096) return wrong("--context and --batch take positive numbers");
    }
    if (!a.verb) return wrong("say what to do");
    if (!strcmp(a.verb, "list")) return list(&a);
    if (!strcmp(a.verb, "check-token")) return check_token();
    if (!a.id) return wrong("name a model: owner/name, or a folder");
    if (!strcmp(a.verb, "estimate")) return estimate(&a);
    if (!strcmp(a.verb, "download")) return download(&a);
    if (!strcmp(a.verb, "verify")) return verify(&a);
    return smoke(&a);
}
