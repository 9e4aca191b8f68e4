/* Opening a checkpoint folder for one device. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <string.h>

#include "backend/cpu/held_weights.h"
#include "backend/cuda/cuda.h"
#include "base/clock.h"
#include "engine/memory_plan.h"
#include "engine/room.h"
#include "engine/spill.h"

static bool known(const int32_t *list, int count, int32_t id) {
    for (int i = 0; i < count; i++)
        if (list[i] == id) return true;
    return false;
}

/* generation_config.json's end tokens; else <|im_end|> and <|endoftext|>. */
static int find_ends(struct qvl_model *m, struct err *err) {
    const struct sampling_config *s = &m->config->sampling;
    int32_t found[CONFIG_MAX_EOS + 2];
    int n = 0;
    for (int i = 0; i < s->eos_count; i++)
        if (s->eos[i] >= 0 && s->eos[i] < m->config->text.vocab && !known(found, n, s->eos[i])) found[n++] = s->eos[i];
    static const char *const texts[] = {"<|im_end|>", "<|endoftext|>"};
    for (int i = 0; i < 2; i++) {
        int32_t id = tokenizer_added_id(m->tokenizer, texts[i]);
        if (id >= 0 && id < m->config->text.vocab && !known(found, n, id) && (i == 0 || s->eos_count == 0)) found[n++] = id;
    }
    m->eos = malloc(sizeof found);
    if (!m->eos) return err_set(err, ERR_MEMORY, "out of memory");
    memcpy(m->eos, found, sizeof found);
    m->eos_count = n;
    m->think_end = tokenizer_added_id(m->tokenizer, "</think>");
    if (m->think_end >= m->config->text.vocab) m->think_end = -1;
    return 0;
}

/* Tokenizer and matrices must agree, else tokens index beyond the embedding. */
static int check_vocabulary(const struct qvl_model *m, struct err *err) {
    int32_t have = tokenizer_vocab(m->tokenizer);
    int rows = m->config->text.vocab;
    if (have > rows)
        return err_set(err, ERR_FORMAT, "%s: tokenizer.json has ids up to %d, but config.json says vocab_size %d", m->folder,
                       have - 1, rows);
    const struct { const char *text, *field; int id; } special[] = {
        {"<|image_pad|>", "image_token_id", m->config->image_token}, {"<|video_pad|>", "video_token_id", m->config->video_token},
        {"<|vision_start|>", "vision_start_token_id", m->config->vision_start_token},
        {"<|vision_end|>", "vision_end_token_id", m->config->vision_end_token}};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
        int32_t id = tokenizer_added_id(m->tokenizer, special[i].text);
        if (id != special[i].id)
            return err_set(err, ERR_FORMAT, "%s: config.json says %s %d, but in tokenizer.json %s is %d", m->folder,
                           special[i].field, special[i].id, special[i].text, id);
    }
    return 0;
}

/* To be raised when a backend's kernels or a page's layout change in any bit: pages on disk outlive the program that wrote them. */
enum { ARITHMETIC = 1 };

/* What FP8 layers see where nothing is said: bf16, and on CUDA, for passes of many rows, what the checkpoint declares. */
static bool e4m3_activations(const struct qvl_model *m, const struct qvl_options *o) {
    return o->fp8_activations ? !strcmp(o->fp8_activations, "e4m3") : !strcmp(m->backend->name, "cuda");
}

static void make_identity(struct qvl_model *m, const struct qvl_options *o) {
    struct {
        uint8_t checkpoint[16];
        struct hash128 kernels;
        int64_t min_pixels, max_pixels, video_min, video_max;
        float mean[3], std[3];
        int32_t f32, e4m3, resampler, arithmetic;
    } all;
    memset(&all, 0, sizeof all);
    checkpoint_identity(m->checkpoint, all.checkpoint);
    memcpy(m->checkpoint_hash, all.checkpoint, sizeof m->checkpoint_hash);
    all.kernels = hash_bytes(m->backend_info.kernels, strlen(m->backend_info.kernels), 0);
    all.min_pixels = m->config->image.min_pixels, all.max_pixels = m->config->image.max_pixels;
    all.video_min = m->config->video.min_pixels, all.video_max = m->config->video.max_pixels;
    memcpy(all.mean, m->config->image.mean, sizeof all.mean);
    memcpy(all.std, m->config->image.std, sizeof all.std);
    all.f32 = o->f32, all.resampler = o->pillow_resize;
    bool kv_fp8 = false;
    kv_kind(o, m->backend, &kv_fp8, NULL);
    all.e4m3 = e4m3_activations(m, o) | kv_fp8 << 1; /* bits: what is on disk from before there were FP8 pages stays valid */
    all.arithmetic = ARITHMETIC;
    m->identity = hash_bytes(&all, sizeof all, 0);
}

int choose_backend(const struct qvl_options *o, const struct backend **out, struct err *err) {
    const char *device = o->device ? o->device : "auto";
    bool wanted = !strcmp(device, "cuda");
    *out = &backend_cpu;
    if (!strcmp(device, "cpu")) return 0;
    if (!wanted && strcmp(device, "auto")) return err_set(err, ERR_ARGUMENT, "device \"%s\": expected \"auto\", \"cpu\" or \"cuda\"", device);
#ifdef HAVE_CUDA
    struct err why = {0};
    if (cuda_available(&why)) {
        if (wanted || !o->f32) *out = &backend_cuda;
        return 0;
    }
    if (wanted) return err_set(err, ERR_MISSING, "device \"cuda\": %s", why.message);
#else
    if (wanted) return err_set(err, ERR_MISSING, "device \"cuda\": this program was built without CUDA (no nvcc was found); use \"cpu\"");
#endif
    return 0;
}

static void notice(const struct qvl_options *o, const char *format, double bytes, double seconds) {
    char text[160];
    snprintf(text, sizeof text, format, bytes * 1e-9, seconds);
    if (o->on_notice) o->on_notice(o->notice_user, text);
}

static int hold(struct qvl_model *m, const struct qvl_options *o, size_t bytes, struct err *err) {
    notice(o, "reading %.2f GB of weights into memory", (double)bytes, 0);
    double start = clock_seconds();
    int r = hold_weights(m->device, err);
    if (!r) notice(o, "%.2f GB of weights are in memory, after %.1f s", (double)bytes, clock_seconds() - start);
    return r;
}

static int load(struct qvl_model *m, const struct qvl_options *o, struct err *err) {
    struct memory_plan plan;
    struct backend_options b = {.threads = o->threads, .f32 = o->f32, .cpu_limit = o->cpu_limit};
    if (o->device_map && strcmp(o->device_map, "auto")) return err_set(err, ERR_ARGUMENT, "device_map \"%s\": expected \"auto\"", o->device_map);
    if (o->fp8_activations && strcmp(o->fp8_activations, "bf16") && strcmp(o->fp8_activations, "e4m3"))
        return err_set(err, ERR_ARGUMENT, "fp8_activations \"%s\": expected \"bf16\" or \"e4m3\"", o->fp8_activations);
    m->resampler = o->pillow_resize ? RESAMPLE_PILLOW : RESAMPLE_TORCHVISION;
    int r = choose_backend(o, &m->backend, err);
    if (!r) b.fp8_e4m3_activations = e4m3_activations(m, o);
    if (!r) r = checkpoint_open(m->folder, &m->checkpoint, err);
    if (r) return r;
    m->config = checkpoint_config(m->checkpoint);
    if ((r = memory_plan_make(m->checkpoint, o, &plan, err))) return r;
    m->context = plan.context;
    m->fixed_cuts = !plan.on_device;
    m->turns.gather = plan.on_device;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    m->turns.awake_most = plan.on_device && cores > 2 ? (int)cores - 1 : 0;
    m->alone_rows = plan.rows;
    b.kv_bytes = plan.kv;
    b.kv_fp8 = plan.kv_fp8;
    b.card = o->card;
    b.cards = plan.cards;
#ifdef HAVE_CUDA
    if (plan.cards > 1) m->backend = &backend_cuda_parts;
#endif
    if ((r = tokenizer_open(m->folder, &m->tokenizer, err))) return r;
    if ((r = check_vocabulary(m, err))) return r;
    if ((r = chat_detect_format(m->folder, &m->format, err))) return r;
    if ((r = find_ends(m, err))) return r;
    if ((r = m->backend->load(m->checkpoint, &b, &m->device, err))) return r;
    if (plan.held && (r = hold(m, o, plan.held, err))) return r;
    m->backend->describe(m->device, &m->backend_info);
    make_identity(m, o);
    m->features.limit = plan.kv / 4 > ((size_t)16 << 20) ? plan.kv / 4 : (size_t)16 << 20;
    if (m->backend_info.own_memory && m->features.limit > (size_t)128 << 20) m->features.limit = (size_t)128 << 20; /* in pinned memory, taken again */
    m->features.backend = m->backend, m->features.device = m->device;
    /* On a device logits lie in pinned memory, and pinning 16 rows of them takes 4 ms, with everybody waiting. A row saves one step when the same
     * prompt comes again: so a moderate number, pinned now, for the cache and for answers under way. */
    size_t logits = plan.kv / 8 + ((size_t)4 << 20), row = (size_t)m->config->text.vocab * sizeof(float);
    if (m->backend_info.own_memory && logits > LOGITS_KEPT * row) logits = LOGITS_KEPT * row;
    r = kv_store_init(&m->kv, m->backend, m->device, m->backend_info.pages, m->config->text.vocab, logits, err);
    if (!r && m->backend_info.own_memory) logits_rows_reserve(&m->kv.rows, LOGITS_KEPT + LOGITS_UNDER_WAY);
    return r ? r : spill_open(m, o, err);
}

int qvl_plan_load(const char *folder, const struct qvl_options *options, struct qvl_plan *out, struct err *err) {
    static const struct qvl_options defaults;
    struct checkpoint *c;
    struct memory_plan p = {0};
    int r = checkpoint_open(folder, &c, err);
    if (!r) {
        r = memory_plan_make(c, options ? options : &defaults, &p, err);
        checkpoint_close(c);
    }
    *out = (struct qvl_plan){.weight_bytes = p.weights,
                             .kv_bytes_per_token = p.kv_per_token,
                             .kv_bytes = p.kv,
                             .held_bytes = p.held,
                             .work_bytes = p.work,
                             .total_bytes = p.total,
                             .available_bytes = p.available,
                             .context = p.context};
    return r;
}

int qvl_load(const char *folder, const struct qvl_options *options, struct qvl_model **out, struct err *err) {
    static const struct qvl_options defaults;
    double start = clock_seconds();
    *out = NULL;
    if (options && options->replicas > 1) return replicas_load(folder, options, out, err);
    struct qvl_model *m = calloc(1, sizeof *m);
    if (!m || !(m->folder = strdup(folder))) {
        free(m);
        return err_set(err, ERR_MEMORY, "out of memory");
    }
    m->front = m;
    pthread_mutexattr_t kind; /* held for a microsecond at a time, by many at the same time between two passes: not worth a sleep */
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(&m->lock, &kind);
    pthread_mutexattr_destroy(&kind);
    pthread_cond_init(&m->idle, NULL);
    int r = load(m, options ? options : &defaults, err);
    if (r) {
        qvl_unload(m);
        return r;
    }
    m->load_seconds = clock_seconds() - start;
    *out = m;
    return 0;
}

void qvl_unload(struct qvl_model *m) {
    if (!m) return;
    replicas_unload(m);
    spill_close(m);
    grammars_free(m);
    features_free(&m->features);
    kv_store_free(&m->kv);
    if (m->device) m->backend->unload(m->device);
    if (m->tokenizer) tokenizer_close(m->tokenizer);
    if (m->checkpoint) checkpoint_close(m->checkpoint);
    pthread_cond_destroy(&m->idle);
    pthread_mutex_destroy(&m->lock);
    free(m->eos);
    free(m->folder);
    free(m);
}

void qvl_model_info(const struct qvl_model *m, struct qvl_info *out) {
    const struct backend_info *b = &m->backend_info;
    *out = (struct qvl_info){.folder = m->folder,
                             .device = m->backend->name,
                             .kernels = b->kernels,
                             .storage = b->storage,
                             .parameters = b->parameters,
                             .context = m->context,
                             .weight_bytes = b->weight_bytes,
                             .decode_bytes = b->decode_bytes,
                             .memory_bytes = m->backend->memory_bytes(m->device) + m->features.bytes + m->kv.logits_bytes,
                             .vocab = m->config->text.vocab,
                             .hidden = m->config->text.hidden,
                             .layers = m->config->text.layers,
                             .thinking = m->format == CHAT_THINKING,
                             .load_seconds = m->load_seconds};
    for (int i = 1; i < m->replica_count; i++) out->memory_bytes += m->replicas[i]->backend->memory_bytes(m->replicas[i]->device);
    for (int i = 0; i < 16; i++) snprintf(out->checkpoint + 2 * i, 3, "%02x", m->checkpoint_hash[i]);
}

int qvl_tokenize(struct qvl_model *m, const char *text, size_t n, bool special, int32_t **ids, size_t *count, struct err *err) {
    struct token_list list = {0};
    int r = tokenizer_encode(m->tokenizer, text, n, special, &list, err);
    if (r) token_list_free(&list);
    else if (!list.ids && !(list.ids = calloc(1, sizeof *list.ids))) r = err_set(err, ERR_MEMORY, "out of memory");
    *ids = r ? NULL : list.ids;
    *count = r ? 0 : list.count;
    return r;
}

int qvl_detokenize(struct qvl_model *m, const int32_t *ids, size_t count, char **text, struct err *err) {
    struct buf b = {0};
    int r = tokenizer_decode(m->tokenizer, ids, count, false, &b, err);
    if (!r && !b.data && !(b.data = calloc(1, 1))) b.failed = true;
    if (!r && b.failed) r = err_set(err, ERR_MEMORY, "out of memory");
    if (r) buf_free(&b);
    *text = r ? NULL : b.data;
    return r;
}

const char *qvl_token_bytes(const struct qvl_model *m, int32_t id, size_t *bytes) {
    *bytes = 0;
    return tokenizer_piece(m->tokenizer, id, bytes);
}

int qvl_check_schema(struct qvl_model *m, const char *schema, struct err *err) {
    struct grammar *g;
    int r = grammar_get(m, schema, &g, err);
    if (!r) grammar_put(m, g);
    return r;
}

void qvl_model_forget(struct qvl_model *m) {
    for (int i = 1; i < m->replica_count; i++) qvl_model_forget(m->replicas[i]);
    pthread_mutex_lock(&m->lock);
    kv_forget(&m->kv);
    if (m->spill) host_pages_forget(&m->spill->host);
    size_t limit = m->features.limit;
    m->features.limit = 0;
    features_trim(&m->features);
    m->features.limit = limit;
    pthread_mutex_unlock(&m->lock);
}

int qvl_device_ceilings(const struct qvl_options *options, struct qvl_ceilings *out, struct err *err) {
    static const struct qvl_options defaults;
    const struct qvl_options *o = options ? options : &defaults;
    const struct backend_options b = {.threads = o->threads, .f32 = o->f32, .cpu_limit = o->cpu_limit, .card = o->card};
    const struct backend *backend;
    struct backend_ceilings c;
    *out = (struct qvl_ceilings){0};
    int r = choose_backend(o, &backend, err);
    if (r) return r;
    if (!backend->ceilings) return err_set(err, ERR_MISSING, "device \"%s\" does not measure its limits", backend->name);
    if ((r = backend->ceilings(&b, &c, err))) return r;
    *out = (struct qvl_ceilings){.device = backend->name, .read_bytes = c.read_bytes, .product_flops = c.product_flops};
    return 0;
}

/* The counters of another card; those of the folder, which they share, stay. */
static void add_stats(struct qvl_stats *to, struct qvl_model *m) {
    struct qvl_stats s;
    qvl_model_stats(m, &s);
    to->pages_total += s.pages_total, to->pages_used += s.pages_used, to->prefix_evictions += s.prefix_evictions;
    to->prefix_hit_tokens += s.prefix_hit_tokens, to->prefix_miss_tokens += s.prefix_miss_tokens;
    to->images_encoded += s.images_encoded, to->images_reused += s.images_reused, to->image_cache_bytes += s.image_cache_bytes;
    to->sessions += s.sessions, to->host_hit_tokens += s.host_hit_tokens, to->disk_hit_tokens += s.disk_hit_tokens;
    to->host_pages += s.host_pages, to->host_evictions += s.host_evictions, to->host_bytes += s.host_bytes;
    to->disk_read_bytes += s.disk_read_bytes, to->disk_written_bytes += s.disk_written_bytes, to->disk_recomputed += s.disk_recomputed;
}

void qvl_model_stats(struct qvl_model *m, struct qvl_stats *out) {
    pthread_mutex_lock(&m->lock);
    *out = (struct qvl_stats){
        .page_tokens = BACKEND_PAGE_TOKENS, .pages_total = m->kv.page_limit, .pages_used = m->kv.pages_used,
        .prefix_hit_tokens = m->kv.hit_tokens, .prefix_miss_tokens = m->kv.miss_tokens, .prefix_evictions = m->kv.evicted,
        .image_passes = m->features.passes, .image_seconds = m->features.seconds, .passes = m->passes.count,
        .pass_rows = m->passes.rows, .pass_sequences = m->passes.spans, .pass_seconds = m->passes.seconds, .images_encoded = m->features.encoded, .images_reused = m->features.reused, .image_cache_bytes = m->features.bytes,
        .sessions = __atomic_load_n(&m->sessions, __ATOMIC_RELAXED)};
    if (m->spill) spill_stats(m->spill, out);
    pthread_mutex_unlock(&m->lock);
    for (int i = 1; i < m->replica_count; i++) add_stats(out, m->replicas[i]);
}
