/* /metrics in Prometheus' text format. Own names, and beside them those that dashboards of llama.cpp and vLLM ask for, where ours
 * measure the same thing. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "serve/api_room.h"

static const double bounds[HISTOGRAM_BOUNDS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60};

void histogram_add(struct histogram *h, double seconds) {
    int i = 0;
    while (i < HISTOGRAM_BOUNDS && seconds > bounds[i]) i++;
    h->count[i]++;
    h->sum += seconds;
}

static void value(struct buf *b, const char *name, const char *type, const char *help, double v) {
    buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n%s %.15g\n", name, help, name, type, name, v);
}

static void histogram(struct buf *b, const char *name, const char *help, const struct histogram *h) {
    uint64_t sum = 0;
    buf_printf(b, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    for (int i = 0; i < HISTOGRAM_BOUNDS; i++) {
        sum += h->count[i];
        buf_printf(b, "%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], (unsigned long long)sum);
    }
    sum += h->count[HISTOGRAM_BOUNDS];
    buf_printf(b, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %.9g\n%s_count %llu\n", name, (unsigned long long)sum, name, h->sum, name,
               (unsigned long long)sum);
}

static double resident_bytes(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static void write_requests(struct buf *b, const struct api_metrics *m) {
    static const char *const names[API_ENDPOINTS] = {"chat_completions", "completions", "embeddings", "tokenize", "detokenize"};
    buf_str(b, "# HELP pmd_requests_total Requests answered, by endpoint\n# TYPE pmd_requests_total counter\n");
    for (int i = 0; i < API_ENDPOINTS; i++)
        buf_printf(b, "pmd_requests_total{endpoint=\"%s\",result=\"ok\"} %llu\npmd_requests_total{endpoint=\"%s\",result=\"error\"} %llu\n",
                   names[i], (unsigned long long)m->requests[i], names[i], (unsigned long long)m->errors[i]);
    value(b, "pmd_requests_cancelled_total", "counter", "Requests whose client left", (double)m->cancelled);
    value(b, "pmd_requests_refused_total", "counter", "Requests turned away because the queue was full", (double)m->refused);
}

/* The levels below the device. */
static void write_levels(struct buf *b, const struct qvl_stats *s) {
    value(b, "pmd_host_cache_hit_tokens_total", "counter", "Prompt tokens taken from pages in host memory", (double)s->host_hit_tokens);
    value(b, "pmd_host_cache_bytes", "gauge", "Pages kept in host memory", (double)s->host_bytes);
    value(b, "pmd_host_cache_evictions_total", "counter", "Pages dropped from host memory", (double)s->host_evictions);
    value(b, "pmd_disk_cache_hit_tokens_total", "counter", "Prompt tokens read from spill files", (double)s->disk_hit_tokens);
    value(b, "pmd_disk_cache_files", "gauge", "Spill files", (double)s->disk_files);
    value(b, "pmd_disk_cache_bytes", "gauge", "Spill files", (double)s->disk_bytes);
    value(b, "pmd_disk_cache_evictions_total", "counter", "Spill files evicted", (double)s->disk_evictions);
    value(b, "pmd_disk_cache_read_bytes_total", "counter", "Read from spill files", (double)s->disk_read_bytes);
    value(b, "pmd_disk_cache_written_bytes_total", "counter", "Written to spill files", (double)s->disk_written_bytes);
    value(b, "pmd_disk_cache_recomputed_total", "counter", "Prompts computed because the disk would be slower",
          (double)s->disk_recomputed);
    value(b, "pmd_disk_cache_read_bytes_per_second", "gauge", "Measured", s->disk_read_bytes_per_second);
    value(b, "pmd_prefill_tokens_per_second", "gauge", "Measured by the prompt cache", s->compute_tokens_per_second);
    buf_str(b, "# HELP pmd_disk_cache_drops_total Spill files or pages dropped, by reason\n# TYPE pmd_disk_cache_drops_total counter\n");
    for (int i = 0; i < QVL_SPILL_DROPS; i++)
        buf_printf(b, "pmd_disk_cache_drops_total{reason=\"%s\"} %lld\n", qvl_spill_drop_name(i), (long long)s->disk_drops[i]);
}

static void write_model(struct buf *b, const struct qvl_stats *s, const struct qvl_info *info) {
    double used = s->pages_total ? (double)s->pages_used / s->pages_total : 0;
    value(b, "pmd_kv_cache_usage_ratio", "gauge", "KV pages in use, prefix cache included, of all", used);
    value(b, "pmd_kv_pages", "gauge", "KV pages there are", s->pages_total);
    value(b, "pmd_prefix_cache_hit_tokens_total", "counter", "Prompt tokens found in the prefix cache (memory)", (double)s->prefix_hit_tokens);
    value(b, "pmd_prefix_cache_miss_tokens_total", "counter", "Prompt tokens that had to be computed", (double)s->prefix_miss_tokens);
    value(b, "pmd_prefix_cache_evictions_total", "counter", "Pages dropped from the prefix cache", (double)s->prefix_evictions);
    write_levels(b, s);
    value(b, "pmd_images_encoded_total", "counter", "Pictures encoded", (double)s->images_encoded);
    value(b, "pmd_image_cache_hits_total", "counter", "Pictures whose features were kept", (double)s->images_reused);
    value(b, "pmd_image_cache_bytes", "gauge", "Features of pictures kept", (double)s->image_cache_bytes);
    value(b, "pmd_model_memory_bytes", "gauge", "Memory of the model beyond its mapped files", (double)info->memory_bytes);
    value(b, "pmd_model_weight_bytes", "gauge", "Weights of the checkpoint", (double)info->weight_bytes);
    value(b, "pmd_model_load_seconds", "gauge", "Time the model took to load", info->load_seconds);
    value(b, "pmd_model_loads_total", "counter", "Models loaded", 1);
    value(b, "kv_cache_usage_ratio", "gauge", "As llama.cpp names it", used);
    value(b, "kv_cache_usage_perc", "gauge", "As vLLM names it (0 to 1)", used);
    value(b, "prefix_cache_queries", "counter", "Tokens looked up (vLLM's name)", (double)(s->prefix_hit_tokens + s->prefix_miss_tokens));
    value(b, "prefix_cache_hits", "counter", "Tokens found (vLLM's name)", (double)s->prefix_hit_tokens);
}

void api_metrics_text(void *api, struct http_exchange *x) {
    struct api *a = api;
    struct http_counts h;
    struct qvl_stats stats;
    struct buf b = {0};
    http_count(a->http, &h);
    pthread_mutex_lock(&a->lock);
    struct api_metrics m = a->metrics;
    int waiting = a->waiting, working = a->working;
    struct qvl_model *model = a->model;
    double joules = energy_read(&a->energy);
    pthread_mutex_unlock(&a->lock);
    write_requests(&b, &m);
    value(&b, "pmd_prompt_tokens_total", "counter", "Prompt tokens", (double)m.prompt_tokens);
    value(&b, "pmd_prompt_tokens_cached_total", "counter", "Of these, taken from the prefix cache", (double)m.cached_tokens);
    value(&b, "pmd_generated_tokens_total", "counter", "Tokens generated", (double)m.generated_tokens);
    histogram(&b, "pmd_time_to_first_token_seconds", "Start of generation to the first token", &m.first_token);
    histogram(&b, "pmd_inter_token_seconds", "Between two tokens of an answer", &m.between_tokens);
    histogram(&b, "pmd_request_seconds", "Arrival of a request to its answer's end", &m.whole);
    value(&b, "pmd_requests_running", "gauge", "Requests being worked on", working);
    value(&b, "pmd_requests_waiting", "gauge", "Requests in the queue", waiting);
    value(&b, "pmd_connections", "gauge", "Connections open", h.connections);
    value(&b, "pmd_websockets", "gauge", "Of these, WebSockets", h.websockets);
    value(&b, "pmd_connections_refused_total", "counter", "Connections over the limit", (double)h.refused);
    value(&b, "pmd_received_bytes_total", "counter", "Bytes of bodies received", (double)h.bytes_in);
    value(&b, "pmd_sent_bytes_total", "counter", "Bytes sent", (double)h.bytes_out);
    value(&b, "pmd_resident_bytes", "gauge", "Resident memory of the process", resident_bytes());
    if (isfinite(joules)) value(&b, "pmd_energy_joules_total", "counter", "Energy of the processor since the start, by its own counters", joules);
    value(&b, "pmd_ready", "gauge", "1 when the model is loaded", model != NULL);
    if (model) {
        qvl_model_stats(model, &stats);
        write_model(&b, &stats, &a->info);
    }
    value(&b, "prompt_tokens_total", "counter", "As llama.cpp names it", (double)m.prompt_tokens);
    value(&b, "tokens_predicted_total", "counter", "As llama.cpp names it", (double)m.generated_tokens);
    value(&b, "prompt_tokens_seconds", "gauge", "Prompt tokens a second (llama.cpp's name)",
          m.prompt_seconds > 0 ? (double)m.prompt_tokens / m.prompt_seconds : 0);
    value(&b, "predicted_tokens_seconds", "gauge", "Generated tokens a second of one answer (llama.cpp's name)",
          m.generate_seconds > 0 ? (double)m.generated_tokens / m.generate_seconds : 0);
    value(&b, "requests_processing", "gauge", "As llama.cpp names it", working);
    value(&b, "requests_deferred", "gauge", "As llama.cpp names it", waiting);
    value(&b, "num_requests_running", "gauge", "As vLLM names it", working);
    value(&b, "num_requests_waiting", "gauge", "As vLLM names it", waiting);
    histogram(&b, "time_to_first_token_seconds", "As vLLM names it", &m.first_token);
    if (b.failed) http_error(x, 500, "server_error", NULL, "out of memory");
    else http_respond(x, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
    buf_free(&b);
}
