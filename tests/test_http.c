/* The HTTP core, spoken to through raw sockets: what it takes, what it refuses and with which status, and that neither slow, silent,
 * greedy nor malformed clients hold anything for long. */
#include "test.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "http_client.h"
#include "serve/api_room.h"
#include "serve/http.h"

static struct http_server *server;
static int port;
static atomic_int handled, gone_calls;

/* ---- handlers ---- */

static void echo(void *user, struct http_exchange *x) {
    const struct http_request *r = http_request(x);
    (void)user;
    atomic_fetch_add(&handled, 1);
    struct buf b = {0};
    buf_printf(&b, "%s %s ?%s [%zu] ", r->method, r->path, r->query, r->body_bytes);
    buf_append(&b, r->body, r->body_bytes < 64 ? r->body_bytes : 64);
    http_respond(x, 200, "text/plain", b.data, b.len);
    buf_free(&b);
}

static void big(void *user, struct http_exchange *x) {
    (void)user;
    static char data[100000];
    memset(data, 'b', sizeof data);
    http_respond(x, 200, "text/plain", data, sizeof data);
}

/* Answers later, from another thread: waits as many milliseconds as the query says. */
static void *answer_late(void *arg) {
    struct http_exchange *x = arg;
    char ms[16] = "0";
    http_query(http_request(x), "ms", ms, sizeof ms);
    for (int i = atoi(ms) / 10; i > 0 && !http_gone(x); i--) usleep(10000);
    http_respond(x, 200, "text/plain", "late", 4);
    return NULL;
}
static void on_gone(void *user) { (void)user, atomic_fetch_add(&gone_calls, 1); }
static void late(void *user, struct http_exchange *x) {
    pthread_t t;
    (void)user;
    http_on_gone(x, on_gone, NULL);
    if (pthread_create(&t, NULL, answer_late, x)) abort();
    pthread_detach(t);
}

/* Streams numbered lines until the client leaves or the query's count is reached. */
static void *stream_lines(void *arg) {
    struct http_exchange *x = arg;
    char n[16] = "10", line[1024];
    http_query(http_request(x), "n", n, sizeof n);
    http_begin(x, 200, "text/event-stream");
    for (int i = 0; i < atoi(n); i++) {
        memset(line, '.', sizeof line);
        int k = snprintf(line, sizeof line, "%d", i);
        line[k] = ' ';
        line[sizeof line - 1] = '\n';
        if (http_write(x, line, sizeof line)) break;
    }
    http_end(x);
    return NULL;
}
static void stream(void *user, struct http_exchange *x) {
    pthread_t t;
    (void)user;
    http_on_gone(x, on_gone, NULL);
    if (pthread_create(&t, NULL, stream_lines, x)) abort();
    pthread_detach(t);
}

static int start(const struct http_options *o, struct http_server **out) {
    struct err err = {0};
    if (http_start(o, out, &err)) return print_error("%s\n", err.message), -1;
    http_route(*out, "GET", "/echo", 0, echo, NULL, &err);
    http_route(*out, "POST", "/echo", 0, echo, NULL, &err);
    http_route(*out, "GET", "/tree/*", 0, echo, NULL, &err);
    http_route(*out, "GET", "/open", HTTP_PUBLIC, echo, NULL, &err);
    http_route(*out, "GET", "/big", 0, big, NULL, &err);
    http_route(*out, "GET", "/late", 0, late, NULL, &err);
    http_route(*out, "GET", "/stream", 0, stream, NULL, &err);
    return http_static(*out, "/page", 0, "text/html", NULL, "<p>page</p>", 11, &err);
}

static int setup(void **state) {
    struct http_options o = {.max_body = 100000, .receive_seconds = 1, .idle_seconds = 2, .stall_seconds = 1, .max_connections = 64};
    (void)state;
    if (start(&o, &server)) return -1;
    port = http_port(server);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    for (int i = 0; i < 500 && http_pending(server); i++) usleep(10000);
    int left = http_pending(server);
    http_stop(server);
    return left;
}

/* Status of the answer to these bytes, sent on a connection of their own. */
static int status_of(const char *bytes, size_t n) {
    struct http_client c = client_open(port);
    client_send(&c, bytes, n);
    struct http_answer a = client_answer(&c, false);
    int status = a.status;
    if (status >= 400) assert_non_null(strstr(a.body.data, "\"error\":{\"message\":\""));
    answer_free(&a);
    client_close(&c);
    return status;
}
#define STATUS(text) status_of(text, sizeof(text) - 1)

static void wait_for(atomic_int *what, int value, double seconds) {
    for (double until = clock_seconds() + seconds; atomic_load(what) < value && clock_seconds() < until;) usleep(5000);
    assert_true(atomic_load(what) >= value);
}

/* ---- requests ---- */

static void test_requests(void **state) {
    (void)state;
    struct http_answer a = http_ask(port, "GET", "/echo?a=1%20b", NULL, NULL);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body.data, "GET /echo ?a=1%20b [0] ");
    assert_string_equal(answer_header(&a, "connection"), "close");
    answer_free(&a);
    a = http_ask(port, "POST", "/echo", NULL, "{\"x\":1}");
    assert_string_equal(a.body.data, "POST /echo ? [7] {\"x\":1}");
    answer_free(&a);
    a = http_ask(port, "GET", "/tree/a%2Fb", NULL, NULL);
    assert_string_equal(a.body.data, "GET /tree/a/b ? [0] ");
    answer_free(&a);
    a = http_ask(port, "HEAD", "/echo", NULL, NULL);
    assert_int_equal(a.status, 200);
    assert_string_equal(answer_header(&a, "content-length"), "17");
    answer_free(&a);
    a = http_ask(port, "OPTIONS", "/echo", NULL, NULL);
    assert_int_equal(a.status, 204);
    assert_string_equal(answer_header(&a, "allow"), "GET, HEAD, POST, OPTIONS");
    answer_free(&a);
    a = http_ask(port, "GET", "/nowhere", NULL, NULL);
    assert_int_equal(a.status, 404);
    answer_free(&a);
    a = http_ask(port, "DELETE", "/echo", NULL, NULL);
    assert_int_equal(a.status, 405);
    answer_free(&a);
}

static void test_static_page_is_cached(void **state) {
    (void)state;
    char header[80];
    struct http_answer a = http_ask(port, "GET", "/page", NULL, NULL);
    assert_string_equal(a.body.data, "<p>page</p>");
    snprintf(header, sizeof header, "If-None-Match: %s\r\n", answer_header(&a, "etag"));
    answer_free(&a);
    a = http_ask(port, "GET", "/page", header, NULL);
    assert_int_equal(a.status, 304);
    answer_free(&a);
}

static void test_keep_alive_and_pipelining(void **state) {
    (void)state;
    struct http_client c = client_open(port);
    /* The second request is sent ahead of the first's pending answer, and the third ahead of both. */
    client_say(&c, "GET /late?ms=100 HTTP/1.1\r\nHost: localhost\r\n\r\n"
                   "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\none"
                   "\r\nPOST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
                   "1;note=\"x\"\r\nt\r\n2\r\nwo\r\n0\r\nTrailer: yes\r\n\r\n");
    static const char *const expected[] = {"late", "POST /echo ? [3] one", "POST /echo ? [3] two"};
    for (int i = 0; i < 3; i++) {
        struct http_answer a = client_answer(&c, false);
        assert_int_equal(a.status, 200);
        assert_string_equal(a.body.data, expected[i]);
        answer_free(&a);
    }
    client_close(&c);
}

static void test_bytes_one_by_one(void **state) {
    (void)state;
    static const char request[] = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    struct http_client c = client_open(port);
    for (size_t i = 0; i < sizeof request - 1; i++) {
        client_send(&c, request + i, 1);
        if (i % 8 == 0) usleep(1000);
    }
    struct http_answer a = client_answer(&c, false);
    assert_string_equal(a.body.data, "POST /echo ? [5] hello");
    answer_free(&a);
    client_close(&c);
}

static void test_expect_continue(void **state) {
    (void)state;
    struct http_client c = client_open(port);
    client_say(&c, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    struct http_answer a = client_answer(&c, false);
    assert_int_equal(a.status, 100);
    answer_free(&a);
    client_say(&c, "ok");
    a = client_answer(&c, false);
    assert_string_equal(a.body.data, "POST /echo ? [2] ok");
    answer_free(&a);
    client_close(&c);
}

static void test_http10(void **state) {
    (void)state;
    struct http_client c = client_open(port);
    client_say(&c, "GET /stream?n=3 HTTP/1.0\r\n\r\n");
    struct http_answer a = client_answer(&c, false); /* no chunks: the end of the connection is the end of the answer */
    assert_int_equal(a.status, 200);
    assert_null(strcasestr(a.head.data, "chunked"));
    assert_int_equal(a.body.len, 3 * 1024);
    answer_free(&a);
    client_close(&c);
}

static void test_malformed_heads(void **state) {
    (void)state;
    static const struct { const char *text; int status; } cases[] = {
        {"GET /echo HTTP/1.1\r\n\r\n", 400},                                        /* no Host */
        {"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
        {"GET /echo HTTP/2.0\r\nHost: localhost\r\n\r\n", 505},
        {"GET /echo HTTP/1.1 \r\nHost: localhost\r\n\r\n", 400},
        {"GET  /echo HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
        {"GET echo HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
        {"G@T /echo HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
        {"\x16\x03\x01\x02\r\n\r\n", 400},                                          /* TLS */
        {"GET /a%00b HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
        {"GET /a%0d%0ab HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},
        {"GET /a%ffb HTTP/1.1\r\nHost: localhost\r\n\r\n", 400},                    /* no UTF-8 */
        {"GET /echo HTTP/1.1\r\nHost: localhost\r\nX: a\rb\r\n\r\n", 400},
        {"GET /echo HTTP/1.1\nHost: localhost\r\n\r\n", 400},                       /* bare line feed */
        {"GET /echo HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n", 400},
        {"GET /echo HTTP/1.1\r\nHost : localhost\r\n\r\n", 400},
        {"GET /echo HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: +1\r\n\r\na", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1,1\r\n\r\na", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
        {"POST /echo HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n", 400},
        {"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 413},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status = status_of(cases[i].text, strlen(cases[i].text));
        if (status != cases[i].status) print_error("case %zu: %s\n", i, cases[i].text);
        assert_int_equal(status, cases[i].status);
    }
    assert_int_equal(STATUS("GET /echo HTTP/1.1\r\nHost: local\0host\r\n\r\n"), 400);
}

static void test_limits(void **state) {
    (void)state;
    struct buf b = {0};
    buf_str(&b, "GET /echo HTTP/1.1\r\nHost: localhost\r\nX: ");
    for (int i = 0; i < 40000; i++) buf_char(&b, 'x');
    assert_int_equal(status_of(b.data, b.len), 431); /* without its end: no waiting for it */
    buf_clear(&b);
    buf_str(&b, "GET /echo HTTP/1.1\r\nHost: localhost\r\n");
    for (int i = 0; i < 100; i++) buf_printf(&b, "X-%d: y\r\n", i);
    buf_str(&b, "\r\n");
    assert_int_equal(status_of(b.data, b.len), 431);
    assert_int_equal(STATUS("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100001\r\n\r\n"), 413);
    buf_clear(&b);
    buf_str(&b, "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 11; i++) {
        buf_str(&b, "2710\r\n"); /* 10,000 */
        for (int k = 0; k < 10000; k++) buf_char(&b, 'c');
        buf_str(&b, "\r\n");
    }
    int before = atomic_load(&handled);
    assert_int_equal(status_of(b.data, b.len), 413);
    assert_int_equal(atomic_load(&handled), before);
    buf_free(&b);
}

/* ---- clients that keep us waiting ---- */

static void test_slow_clients(void **state) {
    (void)state;
    struct http_client head = client_open(port), body = client_open(port), silent = client_open(port), half = client_open(port);
    double start = clock_seconds();
    client_say(&head, "GET /echo HTTP/1.1\r\nHost:");
    client_say(&body, "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nonly this");
    client_say(&half, "\r\n"); /* an empty line is no request */
    for (int i = 0; i < 8; i++) { /* a byte now and then does not help */
        usleep(150000);
        client_say(&head, "x");
        client_say(&body, "x");
    }
    struct http_answer a = client_answer(&head, false), b = client_answer(&body, false);
    assert_int_equal(a.status, 408);
    assert_int_equal(b.status, 408);
    assert_true(clock_seconds() - start < 4);
    assert_true(client_ended(&head, 5) && client_ended(&body, 5));
    assert_true(client_ended(&silent, 5) && client_ended(&half, 5)); /* idle_seconds */
    assert_true(clock_seconds() - start < 6);
    answer_free(&a);
    answer_free(&b);
    client_close(&head);
    client_close(&body);
    client_close(&silent);
    client_close(&half);
}

/* Thousands of requests, no answer read: the server stops reading instead of keeping the answers in memory, and goes on when they
 * are taken. */
static void test_pipelining_without_reading(void **state) {
    (void)state;
    struct http_client c = client_open(port);
    static const char request[] = "GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n";
    int small = 65536, sent = 0;
    struct timeval t = {.tv_usec = 200000};
    struct http_counts before, after;
    setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
    http_count(server, &before);
    while (sent < 400 && client_send(&c, request, sizeof request - 1)) sent++;
    usleep(200000);
    http_count(server, &after);
    assert_true(after.requests - before.requests < 200); /* 200 answers would be 20 MB */
    for (int i = 0; i < sent; i++) {
        struct http_answer a = client_answer(&c, false);
        if (a.status != 200 || a.body.len != 100000) print_error("answer %d of %d\n", i, sent);
        assert_int_equal(a.status, 200);
        assert_int_equal(a.body.len, 100000);
        answer_free(&a);
    }
    client_close(&c);
}

/* A stream whose client takes nothing: dropped after stall_seconds, and the thread that writes is let go. */
static void test_stalled_stream(void **state) {
    (void)state;
    struct http_client c = client_open(port);
    int gone = atomic_load(&gone_calls), small = 4096;
    setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    client_say(&c, "GET /stream?n=100000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wait_for(&gone_calls, gone + 1, 8);
    for (int i = 0; i < 200 && http_pending(server); i++) usleep(10000);
    assert_int_equal(http_pending(server), 0);
    client_close(&c);
}

static void test_stream_is_whole(void **state) {
    (void)state;
    struct http_answer a = http_ask(port, "GET", "/stream?n=5000", NULL, NULL);
    assert_int_equal(a.status, 200);
    assert_true(a.complete);
    assert_int_equal(a.body.len, 5000 * 1024);
    for (int i = 0; i < 5000; i++) assert_int_equal(atoi(a.body.data + (size_t)i * 1024), i);
    answer_free(&a);
}

static void test_disconnect_is_noticed(void **state) {
    (void)state;
    struct http_client c = client_open(port), d = client_open(port);
    int gone = atomic_load(&gone_calls);
    client_say(&c, "GET /late?ms=60000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client_say(&d, "GET /stream?n=1000000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_true(client_have(&d, 2000));
    usleep(50000);
    client_close(&c);
    client_close(&d);
    wait_for(&gone_calls, gone + 2, 2);
    for (int i = 0; i < 200 && http_pending(server); i++) usleep(10000);
    assert_int_equal(http_pending(server), 0);
}

static void test_connection_limit(void **state) {
    (void)state;
    struct http_client c[80];
    for (int i = 0; i < 80; i++) c[i] = client_open(port);
    struct http_answer a = client_answer(&c[79], false);
    assert_int_equal(a.status, 503);
    answer_free(&a);
    for (int i = 0; i < 80; i++) client_close(&c[i]);
    struct http_counts n;
    for (int i = 0; i < 200 && (http_count(server, &n), n.connections); i++) usleep(10000);
    assert_int_equal(n.connections, 0);
    assert_true(n.refused >= 16);
    a = http_ask(port, "GET", "/echo", NULL, NULL);
    assert_int_equal(a.status, 200);
    answer_free(&a);
}

/* ---- who may ask ---- */

static int status_with(int at, const char *path, const char *headers) {
    struct http_answer a = http_ask(at, "GET", path, headers, NULL);
    int status = a.status;
    answer_free(&a);
    return status;
}

static void test_hosts_and_origins(void **state) {
    (void)state;
    char own[100];
    snprintf(own, sizeof own, "Origin: http://127.0.0.1:%d\r\n", port);
    assert_int_equal(status_with(port, "/echo", own), 200);
    assert_int_equal(status_with(port, "/echo", "Origin: https://evil.example\r\n"), 403);
    assert_int_equal(status_with(port, "/echo", "Origin: null\r\n"), 403);
    assert_int_equal(status_with(port, "/open", "Origin: https://evil.example\r\n"), 403);
    static const char *const names[] = {"evil.example", "127.0.0.1.evil.example", "127.evil", "localhost.evil.example", "169.254.169.254"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) { /* DNS rebinding */
        char request[200];
        snprintf(request, sizeof request, "GET /echo HTTP/1.1\r\nHost: %s\r\nOrigin: http://%s\r\n\r\n", names[i], names[i]);
        assert_int_equal(status_of(request, strlen(request)), 403);
    }
    assert_int_equal(STATUS("GET /echo HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"), 200);
}

static void test_keys(void **state) {
    (void)state;
    static const char *const keys[] = {"sesame", "other-key"};
    struct http_options o = {.api_keys = keys, .api_key_count = 2, .cors_origin = "https://app.example"};
    struct http_server *s;
    assert_int_equal(start(&o, &s), 0);
    int p = http_port(s);
    struct http_answer a = http_ask(p, "GET", "/echo", NULL, NULL);
    assert_int_equal(a.status, 401);
    assert_non_null(strstr(a.body.data, "\"type\":\"authentication_error\""));
    assert_string_equal(answer_header(&a, "www-authenticate"), "Bearer");
    assert_string_equal(answer_header(&a, "access-control-allow-origin"), "https://app.example"); /* pages can read the error */
    answer_free(&a);
    static const char *const wrong[] = {"Authorization: Bearer sesam\r\n", "Authorization: Bearer sesamesesame\r\n", "Authorization: Bearer \r\n",
                                        "Authorization: Basic sesame\r\n", "Authorization: Bearer other-keY\r\n", "X-Api-Key: \r\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_int_equal(status_with(p, "/echo", wrong[i]), 401);
    assert_int_equal(status_with(p, "/echo", "Authorization: Bearer sesame\r\n"), 200);
    assert_int_equal(status_with(p, "/echo", "authorization: bearer other-key\r\n"), 200);
    assert_int_equal(status_with(p, "/echo", "X-Api-Key: sesame\r\n"), 200);
    assert_int_equal(status_with(p, "/echo?key=sesame", NULL), 200);
    assert_int_equal(status_with(p, "/echo?key=sesam", NULL), 401);
    assert_int_equal(status_with(p, "/open", NULL), 200);
    a = http_ask(p, "OPTIONS", "/echo", "Origin: https://app.example\r\nAccess-Control-Request-Headers: authorization\r\n", NULL);
    assert_int_equal(a.status, 204); /* a preflight carries no key */
    assert_string_equal(answer_header(&a, "access-control-allow-headers"), "authorization");
    answer_free(&a);
    http_drain(s);
    assert_int_equal(status_with(p, "/echo", "X-Api-Key: sesame\r\n"), 503);
    assert_int_equal(status_with(p, "/open", NULL), 200);
    http_stop(s);
}

static void test_bad_options(void **state) {
    (void)state;
    struct http_server *s;
    struct err err = {0};
    assert_int_not_equal(http_start(&(struct http_options){.host = "example.org"}, &s, &err), 0);
    assert_non_null(strstr(err.message, "'example.org' is no IP address"));
    assert_int_not_equal(http_start(&(struct http_options){.port = port}, &s, &err), 0);
    assert_non_null(strstr(err.message, "Address already in use"));
    assert_int_equal(http_start(&(struct http_options){.port = port, .port_tries = 10}, &s, &err), 0);
    assert_true(http_port(s) > port);
    http_stop(s);
    const char *empty = "";
    assert_int_not_equal(http_start(&(struct http_options){.api_keys = &empty, .api_key_count = 1}, &s, &err), 0);
}

/* ---- addresses that pictures may be fetched from ---- */

static bool is_public(const char *text) {
    struct sockaddr_in four = {.sin_family = AF_INET};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &four.sin_addr) == 1) return address_is_public((struct sockaddr *)&four);
    assert_int_equal(inet_pton(AF_INET6, text, &six.sin6_addr), 1);
    return address_is_public((struct sockaddr *)&six);
}

static void test_public_addresses(void **state) {
    (void)state;
    static const char *const inside[] = {
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.255.255", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8",
        "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b:1::1", "fe80::1",
        "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "2001::1", "2002:7f00:1::", "2002:a00:1::1"};
    static const char *const outside[] = {"1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1",
                                          "223.255.255.255", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"};
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++)
        if (is_public(inside[i])) fail_msg("%s counts as public", inside[i]);
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        if (!is_public(outside[i])) fail_msg("%s does not count as public", outside[i]);
}

/* Our own server stands for the service that a URL must not reach; nothing of the request may arrive. */
static void test_fetch_refuses_loopback(void **state) {
    (void)state;
    char url[100];
    struct err err;
    struct http_counts before, after;
    http_count(server, &before);
    static const char *const forms[] = {"http://127.0.0.1:%d/echo", "http://localhost:%d/echo", "http://[::ffff:127.0.0.1]:%d/echo",
                                        "http://0x7f000001:%d/echo", "http://2130706433:%d/echo", "http://user@127.1:%d/echo"};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct buf b = {0};
        snprintf(url, sizeof url, forms[i], port);
        assert_int_not_equal(image_fetch(url, 1 << 20, NULL, &b, &err), 0);
        if (!strstr(err.message, "not public")) fail_msg("%s: %s", url, err.message);
        assert_int_equal(b.len, 0);
        buf_free(&b);
    }
    static const char *const schemes[] = {"file:///etc/passwd", "ftp://8.8.8.8/x", "gopher://8.8.8.8/x", "dict://8.8.8.8/x"};
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        struct buf b = {0};
        assert_int_not_equal(image_fetch(schemes[i], 1 << 20, NULL, &b, &err), 0);
        assert_int_equal(b.len, 0);
        buf_free(&b);
    }
    http_count(server, &after);
    assert_int_equal(after.accepted, before.accepted);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_static_page_is_cached),
        cmocka_unit_test(test_keep_alive_and_pipelining),
        cmocka_unit_test(test_bytes_one_by_one),
        cmocka_unit_test(test_expect_continue),
        cmocka_unit_test(test_http10),
        cmocka_unit_test(test_malformed_heads),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_slow_clients),
        cmocka_unit_test(test_pipelining_without_reading),
        cmocka_unit_test(test_stalled_stream),
        cmocka_unit_test(test_stream_is_whole),
        cmocka_unit_test(test_disconnect_is_noticed),
        cmocka_unit_test(test_connection_limit),
        cmocka_unit_test(test_hosts_and_origins),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_public_addresses),
        cmocka_unit_test(test_fetch_refuses_loopback),
    };
    return cmocka_run_group_tests_name("http", tests, setup, teardown);
}
