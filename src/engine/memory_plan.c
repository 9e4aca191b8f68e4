#include "engine/memory_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/cpu/held_weights.h"
#include "backend/cuda/cuda.h"
#include "engine/room.h"

static size_t meminfo(const char *field) {
    FILE *f = fopen("/proc/meminfo", "re");
    char line[256];
    unsigned long long kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, field, strlen(field)) && sscanf(line + strlen(field), ": %llu", &kib) == 1) break;
    if (f) fclose(f);
    return (size_t)kib * 1024;
}

static bool read_number(const char *path, unsigned long long *out) {
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%llu", out) == 1;
    if (f) fclose(f);
    return ok;
}

size_t memory_available(void) {
    size_t free_bytes = meminfo("MemAvailable");
    static const char *const limits[][2] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"}};
    for (int i = 0; i < 2; i++) {
        unsigned long long most, used;
        if (!read_number(limits[i][0], &most) || !read_number(limits[i][1], &used)) continue;
        size_t left = most > used ? (size_t)(most - used) : 0;
        if (left < free_bytes) free_bytes = left;
    }
    return free_bytes;
}

static size_t weight_bytes(const struct checkpoint *c) {
    size_t sum = 0;
    for (size_t i = 0; i < checkpoint_tensor_count(c); i++) sum += checkpoint_tensor_at(c, i)->bytes;
    return sum;
}

/* What is there for keys and values: all of the machine's free memory, or what the devices have beside the weights. With a device map as
 * few devices as leave `enough`. */
static size_t memory_for_pages(struct memory_plan *p, const struct model_config *m, const struct qvl_options *o, size_t enough) {
#ifdef HAVE_CUDA
    if (p->on_device) {
        int most = o->device_map ? cuda_cards() - o->card : 1;
        size_t room = 0, sum = 0, work = 0;
        for (p->cards = 1;; p->cards++) {
            size_t left = cuda_card_memory_free(o->card + p->cards - 1, NULL);
            p->rows = o->prefill_rows ? o->prefill_rows : ALONE_ROWS;
            while (!o->prefill_rows && p->rows > BATCH_ROWS && cuda_work_bytes(m, (int)p->rows) > left / 16) p->rows /= 2;
            sum += left, work += cuda_work_bytes(m, (int)p->rows);
            size_t taken = p->weights + work;
            room = sum > taken ? sum - taken : 0;
            if (room >= enough || p->cards >= most || p->cards >= m->text.layers) break;
        }
        p->available = sum, p->work = work;
        return room;
    }
#else
    (void)m;
#endif
    (void)o;
    (void)enough;
    return p->available > p->held ? p->available - p->held : 0;
}

int kv_kind(const struct qvl_options *o, const struct backend *backend, bool *fp8, struct err *err) {
    *fp8 = o->kv && !strcmp(o->kv, "fp8");
    if (o->kv && !*fp8 && strcmp(o->kv, "bf16")) return err_set(err, ERR_ARGUMENT, "kv \"%s\": expected \"bf16\" or \"fp8\"", o->kv);
    if (*fp8 && backend == &backend_cpu)
        return err_set(err, ERR_ARGUMENT, "kv \"fp8\": on device \"cpu\" keys and values are kept as bf16; FP8 pages are for device \"cuda\"");
    return 0;
}

int weights_held(const struct qvl_options *o, const struct backend *backend, bool *held, struct err *err) {
    *held = o->weights && !strcmp(o->weights, "memory");
    if (o->weights && !*held && strcmp(o->weights, "mapped")) return err_set(err, ERR_ARGUMENT, "weights \"%s\": expected \"mapped\" or \"memory\"", o->weights);
    if (*held && backend != &backend_cpu)
        return err_set(err, ERR_ARGUMENT, "weights \"memory\": is for device \"cpu\"; device \"%s\" has them in memory of its own", backend->name);
    return 0;
}

int memory_plan_make(const struct checkpoint *c, const struct qvl_options *o, struct memory_plan *out, struct err *err) {
    const struct model_config *m = checkpoint_config(c);
    const struct text_config *t = &m->text;
    const double mib = 1024.0 * 1024.0;
    const struct backend *backend;
    int r = choose_backend(o, &backend, err);
    if (r) return r;
    if (o->prefill_rows < 0 || o->prefill_rows > 65536)
        return err_set(err, ERR_ARGUMENT, "prefill passes of %lld rows: expected 1 to 65536, or 0", (long long)o->prefill_rows);
    *out = (struct memory_plan){.rows = PREFILL_CHUNK, .cards = 1, .on_device = backend != &backend_cpu, .weights = weight_bytes(c), .available = memory_available()};
    bool held;
    if ((r = kv_kind(o, backend, &out->kv_fp8, err)) || (r = weights_held(o, backend, &held, err))) return r;
    if (held) out->held = held_weights_bytes(c);
    size_t slot = o->f32 ? (size_t)t->head_dim * 4 : kv_slot_bytes(t->head_dim, out->kv_fp8);
    out->kv_per_token = 2 * (size_t)t->kv_heads * slot * (size_t)t->layers;
    size_t widest = (size_t)t->hidden * 6 + (size_t)t->heads * (size_t)t->head_dim * 4 + (size_t)t->intermediate * 4;
    out->work = 1024 * widest * 4 + (size_t)t->vocab * 16 * 4 + ((size_t)64 << 20);
    size_t page = out->kv_per_token * BACKEND_PAGE_TOKENS;
    int64_t most = o->context ? o->context : t->max_positions;
    if (o->context < 0 || o->context > t->max_positions)
        return err_set(err, ERR_ARGUMENT, "context of %lld tokens: the model takes 1 to %lld (max_position_embeddings)",
                       (long long)o->context, (long long)t->max_positions);
    /* One whole context and as much again for the prefix cache (at least 64 MiB: small models are asked by many), but no more
     * than a quarter of what is free unless asked for, on a device three quarters of what the weights leave. */
    size_t pages_most = ((size_t)most + BACKEND_PAGE_TOKENS - 1) / BACKEND_PAGE_TOKENS;
    size_t room = memory_for_pages(out, m, o, o->kv_bytes ? o->kv_bytes : o->context ? page * pages_most : page * pages_most / 3 * 4);
    if (o->kv_bytes) out->kv = o->kv_bytes;
    else {
        out->kv = out->on_device ? room / 4 * 3 : room / 4;
        size_t enough = page * pages_most * 2 > (size_t)64 << 20 ? page * pages_most * 2 : (size_t)64 << 20;
        if (out->kv > enough) out->kv = enough;
        size_t asked = o->context ? page * pages_most : page;
        if (out->kv < asked) out->kv = asked;
    }
    size_t tokens = out->kv / page * BACKEND_PAGE_TOKENS;
    if (o->context && tokens < (size_t)o->context)
        return err_set(err, ERR_LIMIT,
                       "a context of %lld tokens needs %.1f MiB for keys and values (%zu bytes a token), the budget is %.1f MiB "
                       "(%zu tokens)",
                       (long long)o->context, (double)(page * pages_most) / mib, out->kv_per_token, (double)out->kv / mib,
                       tokens);
    if (tokens == 0)
        return err_set(err, ERR_LIMIT, "the budget for keys and values is %zu bytes, one page of %d tokens takes %zu", out->kv,
                       BACKEND_PAGE_TOKENS, page);
    out->context = (int64_t)tokens < most ? (int64_t)tokens : most;
#ifdef HAVE_CUDA
    if (out->kv_fp8) out->work += (size_t)out->cards * cuda_unpacked_bytes(m, out->context);
#endif
    out->total = out->weights + out->held + out->kv + out->work;
    if (out->on_device && out->total > out->available)
        return err_set(err, ERR_LIMIT,
                       "not enough memory on the device: weights %.1f MiB + keys and values %.1f MiB + working memory %.1f MiB, but only %.1f MiB are free; "
                       "ask for a smaller context (--context) or budget, or for --device cpu",
                       (double)out->weights / mib, (double)out->kv / mib, (double)out->work / mib, (double)out->available / mib);
    if (out->held && out->held + out->kv + out->work > out->available)
        return err_set(err, ERR_LIMIT,
                       "not enough memory: %.1f MiB of weights read into memory (--weights memory) + keys and values %.1f MiB + working memory %.1f MiB, but only %.1f MiB are "
                       "available; leave the weights mapped (--weights mapped), or ask for a smaller context (--context) or budget",
                       (double)out->held / mib, (double)out->kv / mib, (double)out->work / mib, (double)out->available / mib);
    if (!out->on_device && out->kv + out->work > out->available)
        return err_set(
            err, ERR_LIMIT,
            "not enough memory: keys and values %.1f MiB + working memory %.1f MiB, beside %.1f MiB of mapped weights, "
            "but only %.1f MiB are available; ask for a smaller context (--context) or budget",
            (double)out->kv / mib, (double)out->work / mib, (double)out->weights / mib, (double)out->available / mib);
    return 0;
}
