/* Bytes of a client. First byte even: a head and a chunked body through the parser, which must not depend on where the bytes are
 * cut. Odd: through a whole server on loopback, with a handler that echoes and a WebSocket that does. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/http.h"
#include "serve/http_parse.h"

static void parse(const char *data, size_t n) {
    struct arena arena = {0};
    struct http_head head;
    const char *why = NULL;
    size_t length = http_head_length(data, n), used, step = n ? (unsigned char)data[0] % 7 + 1 : 1;
    if (length && http_head_parse(data, length, &arena, &head, &why) && !why) abort();
    struct http_chunks whole = {0}, cut = {0};
    struct buf a = {0}, b = {0};
    int r = http_chunks_take(&whole, data, n, &used, &a, 1 << 16), s = 0;
    for (size_t at = 0; at < n && !s;) {
        size_t k = n - at < step ? n - at : step, took;
        s = http_chunks_take(&cut, data + at, k, &took, &b, 1 << 16);
        at += took;
        if (s == 1 && at != used) abort();
    }
    if (r != s || (r == 1 && (a.len != b.len || (a.len && memcmp(a.data, b.data, a.len))))) abort();
    buf_free(&a);
    buf_free(&b);
    arena_free(&arena);
}

static struct http_ws *live;
static void echo(void *user, struct http_exchange *x) {
    (void)user;
    http_respond(x, 200, "text/plain", http_request(x)->body, http_request(x)->body_bytes);
}
static void message(void *user, uint64_t client, const char *data, size_t n, bool binary) {
    (void)user;
    http_ws_send(live, client, binary, 0, data, n);
}

static int start(void) {
    static struct http_server *s;
    static const char *const key = "k";
    struct http_options o = {.max_body = 1 << 16, .api_keys = &key, .api_key_count = 1, .cors_origin = "http://a"};
    struct http_ws_options w = {.path = "/l", .flags = HTTP_PUBLIC, .max_message = 4096, .message = message};
    struct err err;
    if (http_start(&o, &s, &err) || http_route(s, "GET", "/e*", HTTP_PUBLIC, echo, NULL, &err) ||
        http_route(s, "POST", "/e", HTTP_PUBLIC, echo, NULL, &err) || http_route(s, "GET", "/k", 0, echo, NULL, &err) ||
        http_static(s, "/s", HTTP_PUBLIC, "text/html", "gzip", "abc", 3, &err) || http_websocket(s, &w, &live, &err))
        abort();
    return http_port(s);
}

static void send_to_server(const char *data, size_t n) {
    static int port;
    if (!port) port = start();
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct linger reset = {1, 0}; /* no port stays in TIME_WAIT */
    char piece[4096];
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (connect(fd, (struct sockaddr *)&a, sizeof a)) abort();
    if (send(fd, data, n, MSG_NOSIGNAL) >= 0 && !shutdown(fd, SHUT_WR))
        while (recv(fd, piece, sizeof piece, 0) > 0) {}
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    char *copy = malloc(size); /* its own block: reading past the end is seen */
    memcpy(copy, data + 1, size - 1);
    (data[0] & 1 ? send_to_server : parse)(copy, size - 1);
    free(copy);
    return 0;
}
