#include "app/model_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef ENGINE_ONLY
#include "app/model_list.h"
#endif

const char model_options_help[] =
    "  --model ID|DIR     a Hub id (taken from the Hub's cache, or fetched) or a checkpoint folder\n"
    "  --device D         auto (default), cpu or cuda\n"
    "  --card N           GPU: which one, from 0;  --replicas N  a copy on each of N, requests are spread over them;\n"
    "                     --device-map auto  layers on several, where one does not hold the model and a whole context\n"
    "  --threads N        default: one per core\n"
    "  --context N        most tokens of the conversation; default: the model's, as far as memory goes\n"
    "  --kv-mib N         memory for keys and values, prompt cache included\n"
    "  --kv KIND          bf16 (default) or fp8: how keys and values are kept; fp8, GPU only, takes half the memory and loses\n"
    "                     accuracy (docs/cuda.md)\n"
    "  --weights WHERE    CPU: mapped (default): read where the files are mapped; memory: read into memory first, which decodes some percent faster and\n"
    "                     takes that memory once more and a second or more at the start\n"
    "  --f32              exact fp32 products (slow, for comparison)\n"
    "  --cpu SET          cap of the instruction set: c, avx2, avx512, avx512bf16, amx\n"
    "  --prefill-rows N   GPU: most tokens of a prompt in one pass while nothing else is answered; default 8192\n"
    "  --fp8-activations A  bf16 or e4m3, for FP8 checkpoints (default: bf16; on cuda e4m3, which there\n"
    "                       counts for prompts and batches of more than 64 rows, decoding has bf16)\n"
    "  --kv-cache DIR     keep computed prompts on disk: a prompt seen before is read, not computed, also after a restart;\n"
    "                     may be shared by processes and models; default: none\n"
    "  --kv-cache-gb N    most GB (10^9 bytes) of that folder; default 8\n"
    "  --kv-cache-daily-gb N  most GB written to it on one day; default 32\n"
    "  --kv-host-gb N     GPU: pages kept in host memory too; default: none\n"
    "  --pillow           resize pictures as Pillow does instead of torchvision\n";

int option_value(const char *command, const char *name, int argc, char **argv, int *i, const char **value) {
    size_t n = strlen(name);
    if (strncmp(argv[*i], name, n) || (argv[*i][n] && argv[*i][n] != '=')) return 0;
    if (argv[*i][n] == '=') *value = argv[*i] + n + 1;
    else if (*i + 1 < argc) *value = argv[++*i];
    else return fprintf(stderr, "pmd-agent %s: %s needs a value\n", command, name), -1;
    return 1;
}

int option_number(const char *command, const char *name, const char *text, double low, double high, double *out) {
    char *end;
    *out = strtod(text, &end);
    if (end != text && !*end && *out >= low && *out <= high) return 0;
    fprintf(stderr, "pmd-agent %s: %s: expected a number from %.15g to %.15g, found '%s'\n", command, name, low, high, text);
    return -1;
}

static int take_bytes(const char *command, const char *name, int argc, char **argv, int *i, uint64_t *out) {
    const char *v;
    double number;
    int r = option_value(command, name, argc, argv, i, &v);
    if (r == 0) return 0;
    if (r < 0 || option_number(command, name, v, 0.001, 1e6, &number)) return -1;
    *out = (uint64_t)(number * 1e9);
    return 1;
}

static int take_cache(struct model_options *o, const char *command, int argc, char **argv, int *i) {
    const char *v;
    uint64_t host = 0;
    int r = option_value(command, "--kv-cache", argc, argv, i, &v);
    if (r) return r < 0 ? r : (o->load.cache_dir = v, 1);
    if ((r = take_bytes(command, "--kv-cache-gb", argc, argv, i, &o->load.disk_bytes))) return r;
    if ((r = take_bytes(command, "--kv-cache-daily-gb", argc, argv, i, &o->load.disk_daily_bytes))) return r;
    if ((r = take_bytes(command, "--kv-host-gb", argc, argv, i, &host)) == 1) o->load.host_bytes = (size_t)host;
    return r;
}

static int take_cards(struct model_options *o, const char *command, int argc, char **argv, int *i) {
    const char *v;
    double number;
    int r = option_value(command, "--device-map", argc, argv, i, &v);
    if (r < 0 || (r && strcmp(v, "auto") && fprintf(stderr, "pmd-agent %s: --device-map: expected auto, found '%s'\n", command, v))) return -1;
    if (r) return o->load.device_map = v, 1;
    if ((r = option_value(command, "--card", argc, argv, i, &v))) {
        if (r < 0 || option_number(command, "--card", v, 0, 63, &number)) return -1;
        return o->load.card = (int)number, 1;
    }
    if ((r = option_value(command, "--replicas", argc, argv, i, &v))) {
        if (r < 0 || option_number(command, "--replicas", v, 1, 64, &number)) return -1;
        return o->load.replicas = (int)number, 1;
    }
    return 0;
}

int model_options_take(struct model_options *o, const char *command, int argc, char **argv, int *i) {
    const char *v;
    double number;
    int r;
    if (!strcmp(argv[*i], "--f32")) return o->load.f32 = true, 1;
    if (!strcmp(argv[*i], "--pillow")) return o->load.pillow_resize = true, 1;
    if ((r = option_value(command, "--model", argc, argv, i, &v))) return r < 0 ? r : (o->model = v, 1);
    if ((r = option_value(command, "--device", argc, argv, i, &v))) return r < 0 ? r : (o->load.device = v, 1);
    if ((r = option_value(command, "--cpu", argc, argv, i, &v))) return r < 0 ? r : (o->load.cpu_limit = v, 1);
    if ((r = option_value(command, "--fp8-activations", argc, argv, i, &v))) return r < 0 ? r : (o->load.fp8_activations = v, 1);
    if ((r = option_value(command, "--kv", argc, argv, i, &v))) return r < 0 ? r : (o->load.kv = v, 1);
    if ((r = option_value(command, "--weights", argc, argv, i, &v))) return r < 0 ? r : (o->load.weights = v, 1);
    if ((r = option_value(command, "--threads", argc, argv, i, &v))) {
        if (r < 0 || option_number(command, "--threads", v, 0, 1024, &number)) return -1;
        return o->load.threads = (int)number, 1;
    }
    if ((r = option_value(command, "--context", argc, argv, i, &v))) {
        if (r < 0 || option_number(command, "--context", v, 1, 1 << 24, &number)) return -1;
        return o->load.context = (int64_t)number, 1;
    }
    if ((r = take_cards(o, command, argc, argv, i))) return r;
    if ((r = option_value(command, "--prefill-rows", argc, argv, i, &v))) {
        if (r < 0 || option_number(command, "--prefill-rows", v, 1, 65536, &number)) return -1;
        return o->load.prefill_rows = (int64_t)number, 1;
    }
    if ((r = option_value(command, "--kv-mib", argc, argv, i, &v))) {
        if (r < 0 || option_number(command, "--kv-mib", v, 1, 1 << 24, &number)) return -1;
        return o->load.kv_bytes = (size_t)number << 20, 1;
    }
    return take_cache(o, command, argc, argv, i);
}

static void print_notice(void *user, const char *text) {
    (void)user;
    fprintf(stderr, "%s\n", text);
}

static void print_plan(const struct qvl_plan *p) {
    const double mib = 1024.0 * 1024.0;
    char held[64] = "";
    if (p->total_bytes == 0) return;
    if (p->held_bytes) snprintf(held, sizeof held, " + %.1f MiB of them in memory", (double)p->held_bytes / mib);
    fprintf(
        stderr,
        "memory plan (estimate): weights %.1f MiB mapped%s + keys and values %.1f MiB + working memory %.1f MiB; %.0f MiB available; "
        "context %lld tokens at %zu bytes\n",
        (double)p->weight_bytes / mib, held, (double)p->kv_bytes / mib, (double)p->work_bytes / mib, (double)p->available_bytes / mib,
        (long long)p->context, p->kv_bytes_per_token);
}

int model_options_open(struct model_options *o, const char *command, bool quiet, struct qvl_model **out) {
    struct err err = {0};
    struct qvl_plan plan;
    if (!o->model) return fprintf(stderr, "pmd-agent %s: --model ID|DIR is needed\n", command), 1;
    int r = 0;
#ifdef ENGINE_ONLY
    snprintf(o->folder, sizeof o->folder, "%s", o->model);
#else
    r = model_resolve(o->model, false, o->folder, &err);
#endif
    if (!r) {
        r = qvl_plan_load(o->folder, &o->load, &plan, &err);
        if (!r && !quiet) print_plan(&plan);
    }
    if (!o->load.on_notice) o->load.on_notice = print_notice;
    if (!r) r = qvl_load(o->folder, &o->load, out, &err);
    if (r) fprintf(stderr, "pmd-agent %s: %s\n", command, err.message);
    return r ? 1 : 0;
}
