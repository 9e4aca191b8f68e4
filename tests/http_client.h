/* A raw HTTP client for the tests of the server: sends what it is told, well-formed or not, and reads answers. */
#ifndef HTTP_CLIENT_H
#define HTTP_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/buf.h"

struct http_answer {
    int status;       /* 0: the connection ended before an answer */
    struct buf head, body; /* body: out of its chunks */
    bool complete;    /* the body ended as its head said */
};

struct http_client {
    int fd;
    struct buf in;    /* received and not yet taken */
};

static inline void client_timeout(struct http_client *c, double seconds) {
    struct timeval t = {(time_t)seconds, (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
}

static inline struct http_client client_open(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct http_client c = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    int one = 1;
    if (c.fd < 0 || connect(c.fd, (struct sockaddr *)&a, sizeof a)) abort();
    setsockopt(c.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    client_timeout(&c, 20);
    return c;
}

static inline void client_close(struct http_client *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    buf_free(&c->in);
}

static inline bool client_send(struct http_client *c, const void *data, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t w = send(c->fd, (const char *)data + done, n - done, MSG_NOSIGNAL);
        if (w <= 0) return false;
        done += (size_t)w;
    }
    return true;
}
static inline bool client_say(struct http_client *c, const char *text) { return client_send(c, text, strlen(text)); }

/* One more piece into in; false at the end of the connection or of the waiting time. */
static inline bool client_receive(struct http_client *c) {
    char piece[65536];
    ssize_t n = recv(c->fd, piece, sizeof piece, 0);
    if (n > 0) buf_append(&c->in, piece, (size_t)n);
    return n > 0;
}

static inline void client_take(struct http_client *c, size_t n) {
    memmove(c->in.data, c->in.data + n, c->in.len - n);
    c->in.len -= n;
    c->in.data[c->in.len] = 0;
}

static inline bool client_have(struct http_client *c, size_t n) {
    while (c->in.len < n)
        if (!client_receive(c)) return false;
    return true;
}

/* The next line without its end, which is taken; NULL when the connection ends before. */
static inline char *client_line(struct http_client *c) {
    char *end;
    while (!c->in.len || !(end = strstr(c->in.data, "\r\n")))
        if (!client_receive(c)) return NULL;
    size_t n = (size_t)(end - c->in.data);
    char *line = strndup(c->in.data, n);
    client_take(c, n + 2);
    return line;
}

static inline const char *answer_header(const struct http_answer *a, const char *name) {
    static char value[512];
    const char *at = a->head.data ? strcasestr(a->head.data, name) : NULL;
    if (!at) return "";
    at += strlen(name);
    at += strspn(at, ": ");
    snprintf(value, sizeof value, "%.*s", (int)strcspn(at, "\r\n"), at);
    return value;
}

static inline void answer_free(struct http_answer *a) {
    buf_free(&a->head);
    buf_free(&a->body);
}

static inline bool client_chunks(struct http_client *c, struct buf *body) {
    for (;;) {
        char *line = client_line(c);
        if (!line) return false;
        size_t n = strtoul(line, NULL, 16);
        free(line);
        if (!client_have(c, n + 2)) return false;
        buf_append(body, c->in.data, n);
        client_take(c, n + 2);
        if (n == 0) return true;
    }
}

/* Reads one answer. head: it is one to HEAD and has no body. */
static inline struct http_answer client_answer(struct http_client *c, bool head) {
    struct http_answer a = {0};
    char *line = client_line(c);
    if (!line) return a;
    a.status = !strncmp(line, "HTTP/1.1 ", 9) ? atoi(line + 9) : -1;
    do {
        buf_printf(&a.head, "%s\r\n", line);
        free(line);
        line = client_line(c);
    } while (line && *line);
    free(line);
    buf_append(&a.body, "", 0);
    if (head || a.status == 204 || a.status == 304 || a.status < 200) {
        a.complete = true;
    } else if (strcasestr(a.head.data, "transfer-encoding: chunked")) {
        a.complete = client_chunks(c, &a.body);
    } else if (strcasestr(a.head.data, "content-length:")) {
        size_t n = strtoul(answer_header(&a, "content-length"), NULL, 10);
        a.complete = client_have(c, n);
        buf_append(&a.body, c->in.data, c->in.len < n ? c->in.len : n);
        client_take(c, c->in.len < n ? c->in.len : n);
    } else {
        while (client_receive(c)) {}
        buf_append(&a.body, c->in.data, c->in.len);
        client_take(c, c->in.len);
        a.complete = true;
    }
    return a;
}

/* Waits for the end of the connection; false when it is still open after the waiting time. */
static inline bool client_ended(struct http_client *c, double seconds) {
    char piece[4096];
    client_timeout(c, seconds);
    for (;;) {
        ssize_t n = recv(c->fd, piece, sizeof piece, 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET)) return true;
        if (n < 0) return false;
    }
}

/* One request on a connection of its own. headers: lines with their ends, or NULL. body: NULL for none. */
static inline struct http_answer http_ask(int port, const char *method, const char *path, const char *headers, const char *body) {
    struct http_client c = client_open(port);
    struct buf b = {0};
    buf_printf(&b, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n%s", method, path, port, headers ? headers : "");
    if (body) buf_printf(&b, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
    buf_str(&b, "\r\n");
    if (body) buf_str(&b, body);
    client_send(&c, b.data, b.len);
    struct http_answer a = client_answer(&c, !strcmp(method, "HEAD"));
    buf_free(&b);
    client_close(&c);
    return a;
}

#endif
