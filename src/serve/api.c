/* The queue and the workers.
 *
 * A handler puts its exchange into the queue and returns; a worker takes it, parses, generates and answers. Workers are started as
 * requests come, up to `parallel`, and stay. One more thread looks at the clock ten times a second. */
#include "serve/api_room.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/clock.h"

enum { WORKER_STACK = 1 << 20 };

uint64_t api_random(struct api *a) {
    pthread_mutex_lock(&a->lock);
    uint64_t id = ++a->next_id;
    pthread_mutex_unlock(&a->lock);
    uint64_t z = a->salt + id * 0x9e3779b97f4a7c15u; /* splitmix64: distinct, and not to be guessed from one's own */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void api_new_id(struct api *a, const char *prefix, char out[48]) { snprintf(out, 48, "%s%016llx", prefix, (unsigned long long)api_random(a)); }

void api_stream_error(struct http_exchange *x, const struct api_fault *f) {
    struct buf b = {0};
    buf_str(&b, "data: {\"error\":{\"message\":");
    buf_json_string(&b, f->err.message, strlen(f->err.message));
    buf_printf(&b, ",\"type\":\"%s\",\"param\":null,\"code\":%d}}\n\n", api_fault_type(f), f->status);
    if (!b.failed) http_write(x, b.data, b.len);
    buf_free(&b);
    http_end(x);
}

/* ---- one request, on a worker ---- */

/* Values of a JSON text, at most: commas, colons and opening brackets outside strings each begin one. */
static int64_t count_values(const char *text, size_t n) {
    int64_t count = 1;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (c == '"') quoted = !quoted;
        else if (quoted) i += c == '\\';
        else count += c == ',' || c == ':' || c == '[' || c == '{';
    }
    return count;
}

static int take_values(struct api_job *job, int64_t values, struct api_fault *f) {
    struct api *a = job->a;
    if (values > API_MAX_VALUES) return api_fail(f, 413, NULL, "the body has more than %d JSON values", API_MAX_VALUES);
    pthread_mutex_lock(&a->lock);
    bool fits = a->values_held + values <= API_ALL_VALUES;
    if (fits) a->values_held += job->values = values;
    pthread_mutex_unlock(&a->lock);
    return fits ? 0 : api_fail(f, 503, NULL, "no room for the body now: the others at work hold too many values");
}

int api_take_pixels(struct api_job *job, int64_t pixels, struct api_fault *f) {
    struct api *a = job->a;
    pthread_mutex_lock(&a->lock);
    bool fits = a->pixels_held + pixels <= API_ALL_PIXELS * a->options.image_pixels;
    if (fits) {
        a->pixels_held += pixels;
        job->pixels += pixels;
    }
    pthread_mutex_unlock(&a->lock);
    return fits ? 0 : api_fail(f, 503, NULL, "no room for the picture now: the requests at work hold too many");
}

static int answer(struct api_job *job, struct arena *arena, struct api_fault *f) {
    static int (*const endpoints[API_ENDPOINTS])(struct api_job *, const struct json *, struct arena *, struct api_fault *) = {
        api_chat, api_completions, api_embeddings, api_tokenize, api_detokenize};
    const struct http_request *r = http_request(job->x);
    struct err err = {0};
    if (take_values(job, count_values(r->body, r->body_bytes), f)) return -1;
    const struct json *body = json_parse(r->body, r->body_bytes, "request body", arena, &err);
    if (!body) return api_fail(f, err.code == ERR_MEMORY ? 500 : 400, NULL, "%s", err.message);
    if (body->type != JSON_OBJECT) return api_fail(f, 400, NULL, "request body: expected a JSON object");
    return endpoints[job->endpoint](job, body, arena, f);
}

static void work_on(struct api_job *job) {
    struct api *a = job->a;
    struct arena arena = {0};
    struct api_fault f = {0};
    int r = answer(job, &arena, &f);
    bool cancelled = __atomic_load_n(&job->cancel, __ATOMIC_RELAXED) && !job->timed_out;
    if (r < 0) http_error(job->x, f.status, api_fault_type(&f), f.param[0] ? f.param : NULL, "%s", f.err.message);
    arena_free(&arena);
    pthread_mutex_lock(&a->lock);
    if (cancelled) a->metrics.cancelled++;
    else if (r) a->metrics.errors[job->endpoint]++;
    else a->metrics.requests[job->endpoint]++;
    histogram_add(&a->metrics.whole, clock_seconds() - job->arrived);
    struct api_job **at = &a->running;
    while (*at != job) at = &(*at)->next_running;
    *at = job->next_running;
    a->values_held -= job->values;
    a->pixels_held -= job->pixels;
    pthread_mutex_unlock(&a->lock);
    free(job);
}

static void *worker(void *user) {
    struct api *a = user;
    pthread_mutex_lock(&a->lock);
    for (;;) {
        while (!a->first && !a->stopping) {
            a->idle++;
            pthread_cond_wait(&a->work, &a->lock);
            a->idle--;
        }
        struct api_job *job = a->first;
        if (!job) break;
        a->first = job->next;
        if (!a->first) a->last = NULL;
        a->waiting--;
        a->working++;
        pthread_mutex_unlock(&a->lock);
        work_on(job);
        pthread_mutex_lock(&a->lock);
        a->working--;
        pthread_cond_broadcast(&a->room);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

/* Ends what has taken too long. */
static void *watch_clock(void *user) {
    struct api *a = user;
    pthread_mutex_lock(&a->lock);
    for (int tick = 0; !a->stopping; tick++) {
        if (tick % 600 == 0) energy_read(&a->energy); /* its counters wrap */
        double now = clock_seconds();
        bool any = false;
        for (struct api_job *j = a->running; j; j = j->next_running) {
            if (__atomic_load_n(&j->cancel, __ATOMIC_RELAXED)) any = true;
            if (now < j->deadline || j->timed_out) continue;
            j->timed_out = any = true;
            __atomic_store_n(&j->cancel, 1, __ATOMIC_RELAXED);
        }
        if (any) pthread_cond_broadcast(&a->room); /* one of them may be waiting for memory */
        pthread_mutex_unlock(&a->lock);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        pthread_mutex_lock(&a->lock);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

/* ---- arrivals, on the service thread ---- */

static void client_left(void *user) {
    struct api_job *job = user;
    __atomic_store_n(&job->cancel, 1, __ATOMIC_RELAXED);
}

/* One more worker, unless there are enough. Lock held. */
static void add_worker(struct api *a) {
    if (a->workers == a->options.parallel || a->idle >= a->waiting) return;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, WORKER_STACK);
    if (pthread_create(&a->threads[a->workers], &attr, worker, a) == 0) a->workers++;
    pthread_attr_destroy(&attr);
}

static void arrive(struct api *a, struct http_exchange *x, enum api_endpoint endpoint) {
    struct api_job *job = calloc(1, sizeof *job);
    char id[48];
    api_new_id(a, "req-", id);
    http_header(x, "x-request-id", id);
    pthread_mutex_lock(&a->lock);
    bool loading = !a->model, full = a->waiting >= a->options.queue || !job || a->stopping;
    if (!loading && !full) {
        double now = clock_seconds();
        *job = (struct api_job){.a = a, .x = x, .endpoint = endpoint, .arrived = now, .deadline = now + a->options.seconds,
                                .next_running = a->running};
        a->running = job;
        if (a->last) a->last->next = job;
        else a->first = job;
        a->last = job;
        a->waiting++;
        http_on_gone(x, client_left, job);
        add_worker(a);
        pthread_cond_signal(&a->work);
    } else if (!loading)
        a->metrics.refused++;
    pthread_mutex_unlock(&a->lock);
    if (!loading && !full) return;
    free(job);
    http_header(x, "retry-after", "1");
    if (loading) http_error(x, 503, "server_error", NULL, "the model is being loaded");
    else http_error(x, 429, "rate_limit_error", NULL, "%d requests are waiting already", a->options.queue);
}

static void on_chat(void *a, struct http_exchange *x) { arrive(a, x, API_CHAT); }
static void on_completions(void *a, struct http_exchange *x) { arrive(a, x, API_COMPLETIONS); }
static void on_embeddings(void *a, struct http_exchange *x) { arrive(a, x, API_EMBEDDINGS); }
static void on_tokenize(void *a, struct http_exchange *x) { arrive(a, x, API_TOKENIZE); }
static void on_detokenize(void *a, struct http_exchange *x) { arrive(a, x, API_DETOKENIZE); }

/* ---- life ---- */

static int add_routes(struct api *a, struct err *err) {
    const struct { const char *method, *path; int flags; http_handler *handler; } routes[] = {
        {"POST", "/v1/chat/completions", 0, on_chat},   {"POST", "/chat/completions", 0, on_chat},
        {"POST", "/v1/completions", 0, on_completions}, {"POST", "/completions", 0, on_completions},
        {"POST", "/v1/embeddings", 0, on_embeddings},   {"POST", "/embeddings", 0, on_embeddings},
        {"POST", "/tokenize", 0, on_tokenize},          {"POST", "/detokenize", 0, on_detokenize},
        {"GET", "/v1/models", 0, api_models},           {"GET", "/v1/models/*", 0, api_models},
        {"GET", "/health", HTTP_PUBLIC, api_health},    {"GET", "/metrics", 0, api_metrics_text},
    };
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (http_route(a->http, routes[i].method, routes[i].path, routes[i].flags, routes[i].handler, a, err)) return err->code;
    return 0;
}

int api_start(struct http_server *http, const struct api_options *options, struct api **out, struct err *err) {
    struct api *a = calloc(1, sizeof *a);
    *out = NULL;
    if (!a) return err_set(err, ERR_MEMORY, "out of memory for the API");
    a->http = http;
    a->options = *options;
    if (!a->options.parallel) a->options.parallel = 256;
    if (!a->options.queue) a->options.queue = 1024;
    if (!a->options.image_pixels) a->options.image_pixels = 64000000;
    if (!a->options.images) a->options.images = 64;
    if (!(a->options.seconds > 0)) a->options.seconds = 600;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->work, NULL);
    pthread_cond_init(&a->room, NULL);
    if (getrandom(&a->salt, sizeof a->salt, GRND_NONBLOCK) != sizeof a->salt) a->salt = (uint64_t)time(NULL) << 20;
    a->model_name = strdup(options->model_name);
    energy_open(&a->energy, NULL);
    a->threads = calloc((size_t)a->options.parallel, sizeof *a->threads);
    struct err ignored;
    int r = a->model_name && a->threads ? 0 : err_set(err, ERR_MEMORY, "out of memory for the API");
    if (!r) r = add_routes(a, err ? err : &ignored);
    if (!r && !(a->clock_runs = pthread_create(&a->clock, NULL, watch_clock, a) == 0))
        r = err_set(err, ERR_MEMORY, "cannot start a thread");
    if (r) { /* routes may lead here: what a server that never answers needs stays */
        a->stopping = true;
        return r;
    }
    *out = a;
    return 0;
}

void api_ready(struct api *a, struct qvl_model *model) {
    struct qvl_stats stats;
    qvl_model_stats(model, &stats);
    pthread_mutex_lock(&a->lock);
    qvl_model_info(model, &a->info);
    a->tokens_total = (int64_t)stats.pages_total * stats.page_tokens;
    a->created = time(NULL);
    a->model = model;
    pthread_mutex_unlock(&a->lock);
}

void api_drain(struct api *a, double seconds) {
    double until = clock_seconds() + seconds;
    http_drain(a->http);
    pthread_mutex_lock(&a->lock);
    while ((a->working || a->waiting) && clock_seconds() < until) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += 50000000;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&a->room, &a->lock, &t);
    }
    for (struct api_job *j = a->running; j; j = j->next_running) __atomic_store_n(&j->cancel, 1, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&a->room);
    pthread_mutex_unlock(&a->lock);
}

void api_stop(struct api *a) {
    if (!a) return;
    pthread_mutex_lock(&a->lock);
    a->stopping = true;
    for (struct api_job *j = a->running; j; j = j->next_running) __atomic_store_n(&j->cancel, 1, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&a->work);
    pthread_cond_broadcast(&a->room);
    int workers = a->workers;
    pthread_mutex_unlock(&a->lock);
    for (int i = 0; i < workers; i++) pthread_join(a->threads[i], NULL);
    if (a->clock_runs) pthread_join(a->clock, NULL);
    a->workers = 0;
    a->clock_runs = false;
}

void api_free(struct api *a) {
    if (!a) return;
    energy_close(&a->energy);
    pthread_cond_destroy(&a->work);
    pthread_cond_destroy(&a->room);
    pthread_mutex_destroy(&a->lock);
    free(a->threads);
    free(a->model_name);
    free(a);
}
