/* What serving costs over the engine itself, and what the server bears. One process: the engine's own figures and those through HTTP
 * on loopback are taken in turns, so that both see the same machine.
 *
 *     build/bench_serve [MODEL] [ROUNDS]
 *
 * 1 overhead   one stream, greedy, a prompt that is in the prefix cache, every token a piece of its own. Engine: times at on_text.
 *              Server: times at which the client has read the event; to the first token from the request's first byte sent. The engine
 *              has one core less than there are, so that the client, which is no part of the server, has one.
 * 2 streams    256 at once, each on its own prompt, sampled with its own seed: every answer must be the one the engine gives alone.
 * 3 idle       1,000 idle connections are held through 2 and answer afterwards; /health is asked all the while. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "http_client.h"
#include "serve/api.h"

enum { TOKENS = 64, STREAMS = 256, STREAM_TOKENS = 32, IDLE = 1000, PROBES = 4000 };

static struct qvl_model *model;
static int port;

static _Noreturn void die(const char *what) {
    fprintf(stderr, "bench serve: %s\n", what);
    exit(1);
}

static int by_size(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }
static double quantile(double *v, int n, double share) {
    qsort(v, (size_t)n, sizeof *v, by_size);
    int rank = (int)ceil(share * n);
    return v[rank ? rank - 1 : 0];
}

/* ---- 1 overhead ---- */

struct times {
    double start, first, last;
    int pieces;
};

static int note(void *user, const char *text, size_t n, bool thinking) {
    struct times *t = user;
    (void)text, (void)n, (void)thinking;
    t->last = clock_seconds();
    if (!t->pieces++) t->first = t->last;
    return 0;
}

static const struct qvl_bias bias = {40, 1e9f}; /* one token again and again: each is a piece */

static void by_engine(struct times *t) {
    struct qvl_session *s;
    struct qvl_result r;
    struct err err;
    *t = (struct times){.start = clock_seconds()};
    struct qvl_generate g = {.sampling.greedy = true, .max_tokens = TOKENS, .no_append = true, .bias = &bias, .bias_count = 1, .on_text = note, .user = t};
    if (qvl_session_new(model, &s, &err) || qvl_session_raw(s, "walk east and then", 18, true, &err) || qvl_generate(s, &g, &r, &err)) die(err.message);
    qvl_result_free(&r);
    qvl_session_free(s);
}

static void by_server(struct http_client *c, struct times *t) {
    static const char body[] = "{\"prompt\":\"walk east and then\",\"temperature\":0,\"logit_bias\":{\"40\":100},\"max_tokens\":64,\"stream\":true}";
    char request[400];
    snprintf(request, sizeof request, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s", sizeof body - 1, body);
    *t = (struct times){.start = clock_seconds()};
    if (!client_say(c, request)) die("the connection was lost");
    char *line;
    while ((line = client_line(c)) && *line) free(line); /* the head */
    free(line);
    for (;;) {
        if (!(line = client_line(c))) die("the stream ended early");
        size_t n = strtoul(line, NULL, 16);
        free(line);
        if (!client_have(c, n + 2)) die("the stream ended early");
        if (n && !memcmp(c->in.data, "data: {", 7) && strstr(c->in.data, "\"finish_reason\":null")) note(t, NULL, 0, false);
        client_take(c, n + 2);
        if (!n) break;
    }
}

static void overhead(int rounds) {
    struct http_client c = client_open(port);
    double *v = calloc((size_t)rounds * 4, sizeof *v), *et = v, *ef = v + rounds, *st = v + 2 * rounds, *sf = v + 3 * rounds;
    struct times e, s;
    if (!v) die("out of memory");
    for (int i = -2; i < rounds; i++) { /* two to warm up */
        by_engine(&e);
        by_server(&c, &s);
        if (e.pieces != TOKENS || s.pieces != TOKENS) die("not every token was a piece");
        if (i < 0) continue;
        et[i] = (e.last - e.first) / (TOKENS - 1) * 1e3, ef[i] = (e.first - e.start) * 1e3;
        st[i] = (s.last - s.first) / (TOKENS - 1) * 1e3, sf[i] = (s.first - s.start) * 1e3;
    }
    client_close(&c);
    double a = quantile(et, rounds, 0.5), b = quantile(st, rounds, 0.5), f = quantile(ef, rounds, 0.5), g = quantile(sf, rounds, 0.5);
    printf("| one stream, median of %d | engine | server | overhead | limit |\n| --- | --- | --- | --- | --- |\n", rounds);
    printf("| ms a token | %.3f | %.3f | %.3f | 0.2 |\n| ms to the first token | %.3f | %.3f | %.3f | 1 |\n", a, b, b - a, f, g, g - f);
    printf("| 10th to 90th percentile, ms a token | %.3f to %.3f | %.3f to %.3f | | |\n", quantile(et, rounds, 0.1), quantile(et, rounds, 0.9),
           quantile(st, rounds, 0.1), quantile(st, rounds, 0.9));
    printf("| 10th to 90th percentile, ms to the first | %.3f to %.3f | %.3f to %.3f | | |\n\n", quantile(ef, rounds, 0.1), quantile(ef, rounds, 0.9),
           quantile(sf, rounds, 0.1), quantile(sf, rounds, 0.9));
    free(v);
}

/* ---- 2 streams ---- */

struct stream {
    int index;
    char *expected;
    struct buf got;
    bool complete;
    double first_ms;
};

static void prompt_of(int index, char out[60]) { snprintf(out, 60, "%d walk %d eat %d", index, index * 7 % 100, index * 13 % 100); }

static char *alone(int index) {
    struct qvl_session *s;
    struct qvl_result r;
    struct err err;
    char prompt[60];
    prompt_of(index, prompt);
    struct qvl_generate g = {.sampling = {.temperature = 1.5f, .seed = (uint64_t)index}, .max_tokens = STREAM_TOKENS, .no_append = true};
    if (qvl_session_new(model, &s, &err) || qvl_session_raw(s, prompt, strlen(prompt), true, &err) || qvl_generate(s, &g, &r, &err)) die(err.message);
    char *text = strdup(r.text);
    qvl_result_free(&r);
    qvl_session_free(s);
    return text;
}

static pthread_barrier_t all_there;
static void *ask(void *user) {
    struct stream *s = user;
    char prompt[60], body[300];
    prompt_of(s->index, prompt);
    snprintf(body, sizeof body, "{\"prompt\":\"%s\",\"temperature\":1.5,\"seed\":%d,\"max_tokens\":%d,\"stream\":true}", prompt, s->index, STREAM_TOKENS);
    pthread_barrier_wait(&all_there); /* all at once */
    double start = clock_seconds();
    struct http_client c = client_open(port);
    client_timeout(&c, 300);
    char request[600];
    snprintf(request, sizeof request, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    client_say(&c, request);
    client_have(&c, 300);
    s->first_ms = (clock_seconds() - start) * 1e3;
    struct http_answer a = client_answer(&c, false);
    s->complete = a.status == 200 && a.complete && strstr(a.body.data, "data: [DONE]");
    for (char *at = a.body.data; at && (at = strstr(at, "\"text\":\"")); at++) { /* the pieces as JSON text */
        at += 8;
        char *end = at;
        while (*end && *end != '"') end += *end == '\\' ? 2 : 1;
        buf_append(&s->got, at, (size_t)(end - at));
    }
    answer_free(&a);
    client_close(&c);
    return NULL;
}

struct health {
    atomic_bool stop;
    double ms[PROBES];
    int count, failed;
};
static void *probe(void *user) {
    struct health *h = user;
    while (!atomic_load(&h->stop) && h->count < PROBES) {
        double start = clock_seconds();
        struct http_answer a = http_ask(port, "GET", "/health", NULL, NULL);
        h->ms[h->count++] = (clock_seconds() - start) * 1e3;
        h->failed += a.status != 200;
        answer_free(&a);
        usleep(5000);
    }
    return NULL;
}

static void streams(void) {
    static struct stream s[STREAMS];
    static struct http_client idle[IDLE];
    static struct health health;
    pthread_t threads[STREAMS], prober;
    int lost = 0, different = 0, dead = 0;
    long bytes = 0;
    for (int i = 0; i < STREAMS; i++) s[i] = (struct stream){.index = i, .expected = alone(i)};
    for (int i = 0; i < IDLE; i++) idle[i] = client_open(port);
    if (pthread_create(&prober, NULL, probe, &health)) die("no thread");
    pthread_barrier_init(&all_there, NULL, STREAMS);
    double start = clock_seconds();
    for (int i = 0; i < STREAMS; i++)
        if (pthread_create(&threads[i], NULL, ask, &s[i])) die("no thread");
    for (int i = 0; i < STREAMS; i++) pthread_join(threads[i], NULL);
    double seconds = clock_seconds() - start, first[STREAMS];
    atomic_store(&health.stop, true);
    pthread_join(prober, NULL);
    for (int i = 0; i < STREAMS; i++) {
        struct buf expected = {0};
        buf_json_string(&expected, s[i].expected, strlen(s[i].expected));
        size_t n = expected.len - 2;
        lost += !s[i].complete;
        different += s[i].complete && (s[i].got.len != n || (n && memcmp(s[i].got.data, expected.data + 1, n)));
        bytes += (long)s[i].got.len;
        first[i] = s[i].first_ms;
        buf_free(&expected);
        buf_free(&s[i].got);
        free(s[i].expected);
    }
    for (int i = 0; i < IDLE; i++) {
        client_say(&idle[i], "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        struct http_answer a = client_answer(&idle[i], false);
        dead += a.status != 200;
        answer_free(&a);
        client_close(&idle[i]);
    }
    printf("| %d streams at once | |\n| --- | --- |\n| lost or cut | %d |\n| not the engine's own answer | %d |\n| seconds | %.2f (%.0f tokens/s at most) |\n"
           "| first piece, median / p99 | %.0f / %.0f ms |\n",
           STREAMS, lost, different, seconds, STREAMS * STREAM_TOKENS / seconds, quantile(first, STREAMS, 0.5), quantile(first, STREAMS, 0.99));
    printf("| idle connections held, of %d | %d |\n| /health meanwhile, %d times: median / p99 / worst | %.2f / %.2f / %.2f ms (limit p99 50), %d failed |\n", IDLE, IDLE - dead,
           health.count, quantile(health.ms, health.count, 0.5), quantile(health.ms, health.count, 0.99), quantile(health.ms, health.count, 1), health.failed);
    if (lost || different || dead || !bytes) die("replies were lost or mixed, or connections dropped");
}

static void load(const char *folder, int threads) {
    struct err err;
    if (qvl_load(folder, &(struct qvl_options){.kv_bytes = (size_t)256 << 20, .threads = threads}, &model, &err)) die(err.message);
}

struct served {
    struct http_server *http;
    struct api *api;
};
static struct served serve(void) {
    struct served s;
    struct err err;
    if (http_start(&(struct http_options){0}, &s.http, &err) || api_start(s.http, &(struct api_options){.model_name = "m"}, &s.api, &err)) die(err.message);
    api_ready(s.api, model);
    port = http_port(s.http);
    return s;
}
static void end(struct served s) {
    api_stop(s.api);
    http_stop(s.http);
    api_free(s.api);
    qvl_unload(model);
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "models/tinywoods-vl";
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct rlimit l;
    if (!getrlimit(RLIMIT_NOFILE, &l)) l.rlim_cur = l.rlim_max, setrlimit(RLIMIT_NOFILE, &l);
    load(folder, cores > 1 ? (int)cores - 1 : 1);
    struct served s = serve();
    overhead(argc > 2 ? atoi(argv[2]) : 50);
    end(s);
    load(folder, 0);
    s = serve();
    streams();
    end(s);
    return 0;
}
