/* Many requests at once: nothing lost or mixed, the queue's bound, cancelling, time limits, draining. */
#include "test.h"

#include <pthread.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "serve_server.h"

static struct qvl_model *model;

static int setup(void **state) {
    struct rlimit l;
    (void)state;
    if (!getrlimit(RLIMIT_NOFILE, &l)) { /* both ends of 1,000 connections */
        l.rlim_cur = l.rlim_max;
        setrlimit(RLIMIT_NOFILE, &l);
    }
    model = serve_load();
    return 0;
}
static int teardown(void **state) {
    (void)state;
    qvl_unload(model);
    return 0;
}

static void start(struct serve_server *s, const struct api_options *o) {
    serve_start(s, &(struct http_options){0}, o);
    api_ready(s->api, model);
}

/* A long answer: token 40 again and again, as far as the context goes. */
#define LONG "\"prompt\":\"walk\",\"temperature\":0,\"logit_bias\":{\"40\":100},\"max_tokens\":4000"

static struct http_client send_post(int port, const char *path, const char *body) {
    struct http_client c = client_open(port);
    struct buf b = {0};
    buf_printf(&b, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s", path, strlen(body), body);
    client_send(&c, b.data, b.len);
    buf_free(&b);
    return c;
}

static bool wait_metric(int port, const char *name, double value, double seconds) {
    for (double until = clock_seconds() + seconds; clock_seconds() < until; usleep(5000))
        if (metric(port, name) == value) return true;
    return false;
}

/* ---- streams at once ---- */

enum { STREAMS = 48, TOKENS = 24 };
struct one {
    int port, index;
    bool stream;
    struct buf text;
    long tokens;
};

static void *ask_one(void *user) {
    struct one *o = user;
    static const char *const words[] = {"walk", "eat", "hit", "throw", "wait", "stairs"};
    char body[300];
    snprintf(body, sizeof body,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"%s %d\"}],\"max_tokens\":%d,\"temperature\":20,\"seed\":%d%s}", words[o->index % 6],
             o->index, TOKENS, o->index, o->stream ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "");
    struct reply r = reply_to(o->port, "POST", "/v1/chat/completions", body);
    if (r.status == 200 && !o->stream) {
        buf_str(&o->text, text_at(r.json, "choices.0.message.content"));
        o->tokens = number_at(r.json, "usage.completion_tokens");
    } else if (r.status == 200) {
        const struct json **e = calloc(MAX_EVENTS, sizeof *e);
        bool done;
        int n = stream_events(&r, e, &done);
        for (int i = 0; i < n; i++) buf_str(&o->text, json_as_string(json_at(e[i], "choices.0.delta.content"), ""));
        o->tokens = done ? number_at(e[n - 1], "usage.completion_tokens") : -1;
        free(e);
    }
    reply_free(&r);
    return NULL;
}

/* Sampled with a seed, each on its own prompt: the answer at 48 at once, streamed, is to the byte the answer alone, whole. */
static void test_streams_are_not_mixed(void **state) {
    (void)state;
    struct serve_server s;
    start(&s, &(struct api_options){0});
    static struct one alone[STREAMS], together[STREAMS];
    pthread_t threads[STREAMS];
    for (int i = 0; i < STREAMS; i++) {
        together[i] = (struct one){.port = s.port, .index = i, .stream = true};
        if (pthread_create(&threads[i], NULL, ask_one, &together[i])) abort();
    }
    for (int i = 0; i < STREAMS; i++) pthread_join(threads[i], NULL);
    int different = 0;
    for (int i = 0; i < STREAMS; i++) {
        alone[i] = (struct one){.port = s.port, .index = i};
        ask_one(&alone[i]);
        assert_true(together[i].tokens > 0);
        assert_int_equal(alone[i].tokens, together[i].tokens);
        assert_string_equal(alone[i].text.data ? alone[i].text.data : "", together[i].text.data ? together[i].text.data : "");
        different += i && strcmp(alone[i].text.data ? alone[i].text.data : "", alone[0].text.data ? alone[0].text.data : "") != 0;
    }
    assert_true(different > STREAMS / 2); /* else nothing was shown */
    for (int i = 0; i < STREAMS; i++) buf_free(&alone[i].text), buf_free(&together[i].text);
    serve_stop(&s);
}

/* ---- leaving ---- */

static void test_disconnect_frees_the_slot(void **state) {
    (void)state;
    struct serve_server s;
    start(&s, &(struct api_options){.parallel = 2});
    static const char *const bodies[] = {"{" LONG ",\"stream\":true}", "{" LONG "}", "{" LONG ",\"n\":3}"};
    for (int i = 0; i < 3; i++) {
        struct http_client c = send_post(s.port, "/v1/completions", bodies[i]);
        if (i == 0) assert_true(client_have(&c, 500));
        else assert_true(wait_metric(s.port, "pmd_requests_running", 1, 5));
        usleep(20000);
        double left = clock_seconds();
        client_close(&c);
        assert_true(wait_metric(s.port, "pmd_requests_running", 0, 2));
        double took = clock_seconds() - left;
        if (took > 0.5) fail_msg("the slot was free after %.0f ms", took * 1e3);
        assert_true(wait_metric(s.port, "pmd_requests_cancelled_total", i + 1, 1));
    }
    struct reply r = reply_to(s.port, "POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":2}");
    assert_int_equal(r.status, 200);
    reply_free(&r);
    for (int i = 0; i < 200 && http_pending(s.http); i++) usleep(5000); /* the answer comes a moment before */
    assert_int_equal(http_pending(s.http), 0);
    serve_stop(&s);
}

static void test_queue_is_bounded(void **state) {
    (void)state;
    struct serve_server s;
    start(&s, &(struct api_options){.parallel = 1, .queue = 2});
    struct http_client c[3];
    for (int i = 0; i < 3; i++) {
        c[i] = send_post(s.port, "/v1/completions", "{" LONG ",\"stream\":true}");
        if (i == 0) assert_true(client_have(&c[0], 500));
    }
    assert_true(wait_metric(s.port, "pmd_requests_waiting", 2, 5));
    struct reply r = reply_to(s.port, "POST", "/v1/completions", "{\"prompt\":\"a\"}");
    assert_int_equal(r.status, 429);
    assert_string_equal(text_at(r.json, "error.type"), "rate_limit_error");
    assert_string_equal(answer_header(&r.raw, "retry-after"), "1");
    reply_free(&r);
    assert_int_equal((int)metric(s.port, "pmd_requests_refused_total"), 1);
    for (int i = 0; i < 3; i++) client_close(&c[i]);
    assert_true(wait_metric(s.port, "pmd_requests_waiting", 0, 5));
    r = reply_to(s.port, "POST", "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":1}");
    assert_int_equal(r.status, 200);
    reply_free(&r);
    serve_stop(&s);
}

static void test_time_limit(void **state) {
    (void)state;
    struct serve_server s;
    start(&s, &(struct api_options){.seconds = 0.2});
    struct reply r = reply_to(s.port, "POST", "/v1/completions", "{" LONG "}");
    assert_int_equal(r.status, 503);
    assert_non_null(strstr(text_at(r.json, "error.message"), "took more than 0.2 s"));
    reply_free(&r);
    struct http_client c = send_post(s.port, "/v1/completions", "{" LONG ",\"stream\":true}"); /* begun: the error is an event */
    struct http_answer a = client_answer(&c, false);
    assert_int_equal(a.status, 200);
    assert_true(a.complete);
    assert_non_null(strstr(a.body.data, "data: {\"error\":{\"message\":\"the answer took more than 0.2 s\",\"type\":\"server_error\""));
    assert_null(strstr(a.body.data, "[DONE]"));
    answer_free(&a);
    client_close(&c);
    serve_stop(&s);
}

static void *drain(void *user) {
    api_drain(user, 120);
    return NULL;
}

static void test_drain_finishes_what_is_under_way(void **state) {
    (void)state;
    struct serve_server s;
    pthread_t t;
    start(&s, &(struct api_options){0});
    struct http_client c = send_post(s.port, "/v1/completions", "{\"prompt\":\"walk\",\"logit_bias\":{\"40\":100},\"max_tokens\":500,\"stream\":true}");
    client_timeout(&c, 120);
    assert_true(client_have(&c, 500));
    http_drain(s.http); /* as api_drain does first */
    assert_int_equal(pthread_create(&t, NULL, drain, s.api), 0);
    struct reply r = reply_to(s.port, "POST", "/v1/completions", "{\"prompt\":\"a\"}");
    assert_int_equal(r.status, 503);
    reply_free(&r);
    struct http_answer a = client_answer(&c, false);
    assert_true(a.complete);
    assert_non_null(strstr(a.body.data, "\"finish_reason\":\"length\""));
    assert_non_null(strstr(a.body.data, "data: [DONE]"));
    pthread_join(t, NULL);
    answer_free(&a);
    client_close(&c);
    serve_stop(&s);
}

/* The end while requests are at work and waiting: all are answered or dropped, nothing hangs. */
static void test_stop_in_the_middle(void **state) {
    (void)state;
    struct serve_server s;
    start(&s, &(struct api_options){.parallel = 2});
    struct http_client c[6];
    for (int i = 0; i < 6; i++) c[i] = send_post(s.port, "/v1/completions", i % 2 ? "{" LONG "}" : "{" LONG ",\"stream\":true}");
    assert_true(wait_metric(s.port, "pmd_requests_running", 2, 5));
    double start_time = clock_seconds();
    serve_stop(&s);
    assert_true(clock_seconds() - start_time < 2);
    for (int i = 0; i < 6; i++) client_close(&c[i]);
}

/* /health answers while the model is busy, and idle connections cost nothing. */
static void test_health_under_load(void **state) {
    (void)state;
    struct serve_server s;
    start(&s, &(struct api_options){0});
    struct http_client busy[8];
    static struct http_client idle[1000];
    double worst = 0;
    for (int i = 0; i < 1000; i++) idle[i] = client_open(s.port);
    for (int i = 0; i < 8; i++) busy[i] = send_post(s.port, "/v1/completions", "{\"prompt\":\"walk\",\"logit_bias\":{\"40\":100},\"max_tokens\":1200,\"stream\":true}"); /* all fit into the pages */
    assert_true(client_have(&busy[7], 500));
    for (int i = 0; i < 100; i++) {
        double before = clock_seconds();
        struct http_answer a = http_ask(s.port, "GET", "/health", NULL, NULL);
        assert_int_equal(a.status, 200);
        answer_free(&a);
        if (clock_seconds() - before > worst) worst = clock_seconds() - before;
    }
    assert_true(worst < 2); /* figures: bench/results/serve.md */
    for (int i = 0; i < 1000; i += 111) {
        client_say(&idle[i], "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        struct http_answer a = client_answer(&idle[i], false);
        assert_int_equal(a.status, 200);
        answer_free(&a);
    }
    for (int i = 0; i < 1000; i++) client_close(&idle[i]);
    for (int i = 0; i < 8; i++) client_close(&busy[i]);
    serve_stop(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_are_not_mixed),
        cmocka_unit_test(test_disconnect_frees_the_slot),
        cmocka_unit_test(test_queue_is_bounded),
        cmocka_unit_test(test_time_limit),
        cmocka_unit_test(test_drain_finishes_what_is_under_way),
        cmocka_unit_test(test_stop_in_the_middle),
        cmocka_unit_test(test_health_under_load),
    };
    return cmocka_run_group_tests_name("serve_load", tests, setup, teardown);
}
