/* Loading for the CPU: the weights stay where the checkpoint maps them (held_weights.h may change that); here the threads start and the working memory begins. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/bandwidth.h"
#include "backend/cpu/model.h"

static int64_t widest_input(const struct backend_model *m) {
    const struct text_config *t = &m->w.config.text;
    const struct vision_config *v = &m->w.config.vision;
    int64_t widths[] = {t->hidden, (int64_t)t->heads * t->head_dim, t->intermediate, (int64_t)v->hidden * v->merge * v->merge,
                        v->intermediate, m->w.patch_embed.in};
    int64_t most = 0;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (widths[i] > most) most = widths[i];
    return most;
}

static void cpu_unload(struct backend_model *m) {
    if (!m) return;
    kv_pages_free(&m->kv);
    pool_free(m->pool);
    for (size_t i = 0; i < sizeof m->work / sizeof *m->work; i++) free(m->work[i].data);
    free(m->scratch.data);
    model_weights_close(&m->w);
    if (m->held) munmap(m->held, m->held_bytes);
    free(m->angles);
    free(m);
}

static int cpu_load(struct checkpoint *c, const struct backend_options *o, struct backend_model **out, struct err *err) {
    *out = NULL;
    const struct cpu_ops *ops = cpu_ops_select(o->cpu_limit, err);
    if (!ops) return err ? err->code : ERR_ARGUMENT;
    struct backend_model *m = calloc(1, sizeof *m);
    if (!m) return err_set(err, ERR_MEMORY, "out of memory");
    m->ops = ops;
    m->precision = o->f32 ? PRECISION_F32 : PRECISION_BF16;
    m->fp8_activations = o->fp8_e4m3_activations; /* with f32: everything else exact, for proof */
    int r = model_weights_open(c, &m->w, err);
    if (!r) r = pool_new(o->threads, &m->pool, err);
    if (!r) { /* what failed to open has no heads to divide by */
        int text_head = m->w.config.text.head_dim, vision_head = m->w.config.vision.hidden / m->w.config.vision.heads;
        m->widest_input = widest_input(m);
        r = scratch_reserve(m, m->widest_input, text_head > vision_head ? text_head : vision_head, 1024, err);
    }
    if (!r) r = kv_pages_init(m, o->kv_bytes, err);
    if (r) {
        cpu_unload(m);
        return r;
    }
    *out = m;
    return 0;
}

static size_t cpu_memory_bytes(const struct backend_model *m) {
    size_t sum = m->held_bytes + m->scratch.bytes + (size_t)m->kv.used_high * m->kv.page_bytes;
    sum += (size_t)m->kv.capacity * (sizeof *m->kv.pages + sizeof *m->kv.free_list);
    for (size_t i = 0; i < sizeof m->work / sizeof *m->work; i++) sum += m->work[i].bytes;
    sum += (size_t)m->angle_rows * (size_t)m->w.config.text.head_dim * sizeof *m->angles;
    return sum;
}

static void cpu_describe(const struct backend_model *m, struct backend_info *out) {
    memset(out, 0, sizeof *out);
    out->kernels = m->ops->name;
    out->threads = pool_threads(m->pool);
    out->pages = m->kv.capacity;
    model_weights_describe(&m->w, out);
}

const struct backend backend_cpu = {
    .name = "cpu",
    .load = cpu_load,
    .unload = cpu_unload,
    .encode_image = cpu_encode_image,
    .forward = cpu_forward,
    .page_alloc = cpu_page_alloc,
    .page_free = cpu_page_free,
    .page_copy = cpu_page_copy,
    .page_bytes = cpu_page_bytes,
    .page_export = cpu_page_export,
    .page_import = cpu_page_import,
    .memory_bytes = cpu_memory_bytes,
    .describe = cpu_describe,
    .ceilings = cpu_ceilings,
};
