/* A small HTTP and WebSocket client on loopback, for tests of servers. */
#ifndef WS_CLIENT_H
#define WS_CLIENT_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "test.h"

static inline int connect_to(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    return fd;
}

static inline void send_all(int fd, const void *data, size_t n) {
    assert_int_equal(send(fd, data, n, MSG_NOSIGNAL), (ssize_t)n);
}

/* n bytes, or -1 when none come for five seconds or the other side has closed. */
static inline int receive(int fd, void *out, size_t n) {
    for (size_t done = 0; done < n;) {
        struct pollfd p = {fd, POLLIN, 0};
        ssize_t got = poll(&p, 1, 5000) == 1 ? recv(fd, (char *)out + done, n - done, 0) : -1;
        if (got <= 0) return -1;
        done += (size_t)got;
    }
    return 0;
}

/* GET; head gets everything up to the empty line, body the rest. Returns the status. more: header lines, each with CR LF, or "". */
static inline int http_get(int port, const char *path, const char *more, struct buf *head, struct buf *body) {
    int fd = connect_to(port);
    struct buf q = {0};
    buf_printf(&q, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n%s\r\n", path, port, more);
    send_all(fd, q.data, q.len);
    buf_clear(&q);
    char piece[4096];
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, 5000) != 1) fail_msg("no answer to %s", path);
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        if (n <= 0) break;
        buf_append(&q, piece, (size_t)n);
    }
    close(fd);
    buf_char(&q, 0);
    const char *end = strstr(q.data, "\r\n\r\n");
    assert_non_null(end);
    if (head) buf_append(head, q.data, (size_t)(end + 4 - q.data));
    if (body) buf_append(body, end + 4, q.len - 1 - (size_t)(end + 4 - q.data));
    int status = atoi(q.data + 9);
    buf_free(&q);
    return status;
}

static inline int ws_open(int port, const char *path) {
    int fd = connect_to(port);
    char head[2048];
    snprintf(head, sizeof head, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", path, port);
    send_all(fd, head, strlen(head));
    size_t n = 0;
    do {
        assert_true(n + 1 < sizeof head);
        assert_int_equal(receive(fd, head + n++, 1), 0);
        head[n] = 0;
    } while (!strstr(head, "\r\n\r\n"));
    assert_non_null(strstr(head, " 101 "));
    return fd;
}

static inline void ws_send(int fd, bool binary, const void *data, size_t n) {
    uint8_t head[14] = {(uint8_t)(0x80 | (binary ? 2 : 1)), (uint8_t)(0x80 | (n < 126 ? n : n < 65536 ? 126 : 127))};
    size_t at = 2;
    if (n >= 126) for (int i = n < 65536 ? 8 : 56; i >= 0; i -= 8) head[at++] = (uint8_t)((uint64_t)n >> i);
    uint8_t mask[4] = {1, 2, 3, 4}, *masked = malloc(n + 1);
    memcpy(head + at, mask, 4);
    for (size_t i = 0; i < n; i++) masked[i] = ((const uint8_t *)data)[i] ^ mask[i & 3];
    send_all(fd, head, at + 4);
    if (n) send_all(fd, masked, n);
    free(masked);
}

/* The next message into out; its opcode (1 text, 2 binary, 8 close), -1 when nothing comes. */
static inline int ws_receive(int fd, struct buf *out) {
    uint8_t h[2], more[8];
    buf_clear(out);
    if (receive(fd, h, 2)) return -1;
    uint64_t n = h[1] & 127;
    if (n >= 126) {
        int bytes = n == 126 ? 2 : 8;
        n = 0;
        if (receive(fd, more, (size_t)bytes)) return -1;
        for (int i = 0; i < bytes; i++) n = n << 8 | more[i];
    }
    assert_true(buf_reserve(out, n + 1));
    if (n && receive(fd, out->data, n)) return -1;
    out->len = n;
    out->data[n] = 0;
    return h[0] & 15;
}

#endif
