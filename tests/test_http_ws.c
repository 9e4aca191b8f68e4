/* WebSockets of the HTTP core: handshake, frames, what breaks the protocol, and clients that do not read. */
#include "test.h"

#include <stdatomic.h>

#include "base/clock.h"
#include "http_client.h"
#include "serve/http.h"

static struct http_server *server;
static int port;
static struct http_ws *live;
static atomic_int ws_opened, ws_closed;

static void ws_open(void *user, uint64_t client, const struct http_request *r) { (void)user, (void)client, (void)r, atomic_fetch_add(&ws_opened, 1); }
static void ws_close(void *user, uint64_t client) { (void)user, (void)client, atomic_fetch_add(&ws_closed, 1); }
static void ws_message(void *user, uint64_t client, const char *data, size_t n, bool binary) {
    (void)user;
    http_ws_send(live, client, binary, 0, data, n);
}

static int setup(void **state) {
    struct http_options o = {.stall_seconds = 3};
    struct http_ws_options w = {.path = "/live", .max_message = 1000, .queue_bytes = 4096, .opened = ws_open, .closed = ws_close,
                                .message = ws_message};
    struct err err;
    (void)state;
    if (http_start(&o, &server, &err) || http_websocket(server, &w, &live, &err)) return -1;
    port = http_port(server);
    return 0;
}
static int teardown(void **state) {
    (void)state;
    http_stop(server);
    return 0;
}

static void wait_for(atomic_int *what, int value, double seconds) {
    for (double until = clock_seconds() + seconds; atomic_load(what) < value && clock_seconds() < until;) usleep(5000);
    assert_true(atomic_load(what) >= value);
}

static struct http_client ws_connect(const char *more) {
    struct http_client c = client_open(port);
    char request[400];
    snprintf(request, sizeof request, "GET /live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n", more);
    client_say(&c, request);
    return c;
}

static void ws_send(struct http_client *c, int first, const void *data, size_t n) {
    unsigned char head[14] = {(unsigned char)first};
    size_t k = 2;
    head[1] = (unsigned char)(0x80 | (n < 126 ? n : 126));
    if (n >= 126) head[2] = (unsigned char)(n >> 8), head[3] = (unsigned char)n, k = 4;
    memcpy(head + k, "mask", 4);
    struct buf b = {0};
    buf_append(&b, head, k + 4);
    for (size_t i = 0; i < n; i++) buf_char(&b, (char)(((const char *)data)[i] ^ "mask"[i & 3]));
    client_send(c, b.data, b.len);
    buf_free(&b);
}

/* The next frame's first byte, its payload in out; -1 at the end. */
static int ws_read(struct http_client *c, struct buf *out) {
    buf_clear(out);
    if (!client_have(c, 2)) return -1;
    size_t n = (unsigned char)c->in.data[1], head = 2;
    if (n == 126) {
        if (!client_have(c, 4)) return -1;
        n = (size_t)(unsigned char)c->in.data[2] << 8 | (unsigned char)c->in.data[3];
        head = 4;
    }
    if (!client_have(c, head + n)) return -1;
    int first = (unsigned char)c->in.data[0];
    buf_append(out, c->in.data + head, n);
    client_take(c, head + n);
    return first;
}

static void test_websocket(void **state) {
    (void)state;
    struct buf b = {0};
    struct http_client c = ws_connect("Origin: http://localhost\r\n");
    struct http_answer a = client_answer(&c, true);
    assert_int_equal(a.status, 101);
    assert_string_equal(answer_header(&a, "sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); /* RFC 6455's example */
    answer_free(&a);
    ws_send(&c, 0x81, "hello", 5);
    assert_int_equal(ws_read(&c, &b), 0x81);
    assert_string_equal(b.data, "hello");
    ws_send(&c, 0x02, "\0\1", 2); /* in pieces, with a ping between them */
    ws_send(&c, 0x89, "p", 1);
    ws_send(&c, 0x80, "\2", 1);
    assert_int_equal(ws_read(&c, &b), 0x8a);
    assert_int_equal(ws_read(&c, &b), 0x82);
    assert_memory_equal(b.data, "\0\1\2", 3);
    ws_send(&c, 0x88, "\x03\xe8", 2);
    assert_int_equal(ws_read(&c, &b), 0x88);
    assert_memory_equal(b.data, "\x03\xe8", 2);
    assert_true(client_ended(&c, 6));
    client_close(&c);
    buf_free(&b);
}

/* Sends these bytes after the handshake; the code of the server's close frame. */
static int ws_close_code(const void *bytes, size_t n) {
    struct buf b = {0};
    struct http_client c = ws_connect("");
    struct http_answer a = client_answer(&c, true);
    assert_int_equal(a.status, 101);
    answer_free(&a);
    client_send(&c, bytes, n);
    int first;
    while ((first = ws_read(&c, &b)) >= 0 && first != 0x88) {}
    int code = first == 0x88 && b.len >= 2 ? (unsigned char)b.data[0] << 8 | (unsigned char)b.data[1] : -1;
    client_close(&c);
    buf_free(&b);
    return code;
}

static void test_websocket_violations(void **state) {
    (void)state;
    assert_int_equal(ws_close_code("\x81\x01x", 3), 1002);                      /* no mask */
    assert_int_equal(ws_close_code("\xc1\x81mask\x15", 7), 1002);               /* reserved bit */
    assert_int_equal(ws_close_code("\x83\x80mask", 6), 1002);                   /* unknown kind */
    assert_int_equal(ws_close_code("\x09\x80mask", 6), 1002);                   /* a ping in pieces */
    assert_int_equal(ws_close_code("\x80\x80mask", 6), 1002);                   /* the rest of nothing */
    assert_int_equal(ws_close_code("\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffmask", 14), 1009);
    assert_int_equal(ws_close_code("\x82\xfe\x03\xe9mask", 8), 1009);           /* 1,001 bytes: before they come */
    assert_int_equal(ws_close_code("\x81\x81mask\x92", 7), 1007);               /* no UTF-8 */
    struct http_answer a = http_ask(port, "GET", "/live", NULL, NULL);
    assert_int_equal(a.status, 426);
    answer_free(&a);
    struct http_client c = ws_connect("Origin: https://evil.example\r\n");
    a = client_answer(&c, false);
    assert_int_equal(a.status, 403);
    answer_free(&a);
    client_close(&c);
    wait_for(&ws_closed, atomic_load(&ws_opened), 6);
}

/* A client that does not read: of a stream of frames the newest waits, other messages close it when they are too many. */
static void test_websocket_queue(void **state) {
    (void)state;
    static char data[1000];
    struct http_client c = ws_connect("");
    struct http_answer a = client_answer(&c, true);
    assert_int_equal(a.status, 101);
    answer_free(&a);
    int closed = atomic_load(&ws_closed);
    for (int i = 0; i < 50000; i++) assert_int_equal(http_ws_send(live, 0, true, 1, data, sizeof data), 1);
    assert_int_equal(atomic_load(&ws_closed), closed);
    int sent = 0;
    while (sent < 50000 && http_ws_send(live, 0, true, 0, data, sizeof data) == 1) sent++;
    assert_true(sent < 50000);
    assert_int_equal(http_ws_clients(live) <= 1, 1);
    client_close(&c);
    wait_for(&ws_closed, closed + 1, 8);
}

static long resident_bytes(void) {
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%*s %ld", &pages) != 1) abort();
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* Pings without end, no pong read: their answers are not piled up. */
static void test_ping_flood(void **state) {
    (void)state;
    struct http_client c = ws_connect("");
    struct http_answer a = client_answer(&c, true);
    struct buf pings = {0};
    struct timeval t = {.tv_sec = 2};
    int small = 4096;
    assert_int_equal(a.status, 101);
    answer_free(&a);
    setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    setsockopt(c.fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
    for (int i = 0; i < 8000; i++) {
        char frame[131] = "\x89\xfdmask"; /* 125 bytes */
        buf_append(&pings, frame, sizeof frame);
    }
    long before = resident_bytes();
    for (int i = 0; i < 60 && client_send(&c, pings.data, pings.len); i++)
        assert_true(resident_bytes() - before < 16 << 20); /* of 60 MB */
    buf_free(&pings);
    int closed = atomic_load(&ws_closed);
    client_close(&c);
    wait_for(&ws_closed, closed ? closed : 1, 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_websocket),
        cmocka_unit_test(test_websocket_violations),
        cmocka_unit_test(test_websocket_queue),
        cmocka_unit_test(test_ping_flood),
    };
    return cmocka_run_group_tests_name("http_ws", tests, setup, teardown);
}
