/* Answers. Any thread may give one: it sends what the socket takes at once, so that a token costs no change of thread; what is
 * left waits for the service thread. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "serve/http_room.h"

static const char *status_text(int status) {
    static const struct { int status; const char *text; } known[] = {
        {101, "Switching Protocols"}, {200, "OK"}, {204, "No Content"}, {206, "Partial Content"}, {304, "Not Modified"},
        {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"}, {404, "Not Found"}, {405, "Method Not Allowed"},
        {408, "Request Timeout"}, {409, "Conflict"}, {413, "Content Too Large"}, {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"}, {422, "Unprocessable Content"}, {426, "Upgrade Required"}, {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"}, {500, "Internal Server Error"}, {501, "Not Implemented"},
        {503, "Service Unavailable"}, {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].status == status) return known[i].text;
    return "Status";
}

/* ---- the socket: connection's lock held ---- */

void conn_watch(struct http_conn *c) {
    if (c->fd < 0) return;
    struct epoll_event e = {.events = EPOLLRDHUP | (c->wants_read ? EPOLLIN : 0) | (c->wants_write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(c->s->poll, EPOLL_CTL_MOD, c->fd, &e);
}

int conn_flush(struct http_conn *c) {
    size_t before = c->sent;
    while (c->fd >= 0 && c->sent < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (n <= 0) return -1;
        c->sent += (size_t)n;
        atomic_fetch_add(&c->s->bytes_out, (unsigned long long)n);
    }
    if (c->sent != before) {
        c->progress = clock_seconds();
        pthread_cond_broadcast(&c->room);
    }
    if (c->sent == c->out.len) {
        if (c->out.cap > 256 << 10) buf_free(&c->out);
        else buf_clear(&c->out);
        c->sent = 0;
    } else if (c->sent > STREAM_WAITING) { /* what is gone makes room */
        memmove(c->out.data, c->out.data + c->sent, c->out.len - c->sent);
        c->out.len -= c->sent;
        c->sent = 0;
    }
    bool waiting = c->out.len > 0;
    if (waiting != c->wants_write) {
        c->wants_write = waiting;
        conn_watch(c);
    }
    return 0;
}

void conn_send(struct http_conn *c, const void *data, size_t bytes) {
    if (c->fd < 0) return;
    if (c->out.len == 0) c->progress = clock_seconds();
    buf_append(&c->out, data, bytes);
    if (c->out.failed || conn_flush(c)) shutdown(c->fd, SHUT_RDWR); /* the service thread sees the end and closes */
}

void conn_kick(struct http_conn *c) {
    struct http_server *s = c->s;
    pthread_mutex_lock(&s->kick_lock);
    if (!c->kicked) {
        c->kicked = true;
        c->next_kicked = s->kicked;
        s->kicked = c;
    }
    pthread_mutex_unlock(&s->kick_lock);
    uint64_t one = 1;
    if (write(s->event, &one, sizeof one) < 0) return; /* the counter is full: it wakes all the same */
}

void exchange_reset(struct http_exchange *x) {
    arena_free(&x->strings);
    buf_free(&x->body);
    buf_free(&x->headers);
    *x = (struct http_exchange){.c = x->c};
}

void conn_free(struct http_conn *c) {
    exchange_reset(&c->x);
    buf_free(&c->out);
    buf_free(&c->in);
    buf_free(&c->message);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->room);
    free(c);
}

/* ---- the door ---- */

const struct http_request *http_request(const struct http_exchange *x) { return &x->request; }

void http_header(struct http_exchange *x, const char *name, const char *value) {
    pthread_mutex_lock(&x->c->lock);
    buf_printf(&x->headers, "%s: ", name);
    for (const char *p = value; *p; p++)
        if ((unsigned char)*p >= 32 && *p != 127) buf_char(&x->headers, *p);
    buf_str(&x->headers, "\r\n");
    pthread_mutex_unlock(&x->c->lock);
}

/* The head of an answer. Connection's lock held. */
static void build_head(struct http_exchange *x, struct buf *h, int status, const char *content_type) {
    const char *cors = x->c->s->cors_origin;
    buf_printf(h, "HTTP/1.1 %d %s\r\nserver: pmd-agent\r\nconnection: %s\r\n", status, status_text(status),
               x->close ? "close" : "keep-alive");
    if (content_type) buf_printf(h, "content-type: %s\r\nx-content-type-options: nosniff\r\n", content_type);
    if (cors)
        buf_printf(h, "access-control-allow-origin: %s\r\n%saccess-control-expose-headers: x-request-id\r\n", cors,
                   strcmp(cors, "*") ? "vary: origin\r\n" : "");
    if (x->headers.len) buf_append(h, x->headers.data, x->headers.len);
    x->begun = true;
}

/* Gives x back: the connection waits for its next request, or ends. Connection's lock held, released here. */
static void give_back(struct http_exchange *x) {
    struct http_conn *c = x->c;
    bool was_held = x->held;
    x->held = false;
    x->on_gone = NULL;
    if (was_held) atomic_fetch_sub(&c->s->pending, 1);
    /* A handler that answers at once needs no kick: its caller looks after it has returned. */
    if (was_held && !(pthread_equal(pthread_self(), c->s->thread) && c->dispatching)) conn_kick(c);
    pthread_mutex_unlock(&c->lock);
}

void http_respond(struct http_exchange *x, int status, const char *content_type, const void *data, size_t bytes) {
    bool none = status == 204 || status == 304;
    struct buf h = {0};
    pthread_mutex_lock(&x->c->lock);
    if (x->c->fd >= 0) {
        build_head(x, &h, status, none ? NULL : content_type);
        if (!none) buf_printf(&h, "content-length: %zu\r\n", bytes);
        buf_str(&h, "\r\n");
        if (!none && !x->bodiless) buf_append(&h, data, bytes);
        if (h.failed) shutdown(x->c->fd, SHUT_RDWR);
        else conn_send(x->c, h.data, h.len);
    }
    buf_free(&h);
    give_back(x);
}

void http_error(struct http_exchange *x, int status, const char *type, const char *param, const char *format, ...) {
    char message[1400];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    struct buf b = {0};
    buf_str(&b, "{\"error\":{\"message\":");
    buf_json_string(&b, message, strlen(message));
    buf_str(&b, ",\"type\":");
    buf_json_string(&b, type, strlen(type));
    buf_str(&b, ",\"param\":");
    if (param) buf_json_string(&b, param, strlen(param));
    else buf_str(&b, "null");
    buf_printf(&b, ",\"code\":%d}}", status);
    if (b.failed) http_respond(x, 500, "application/json", "{}", 2);
    else http_respond(x, status, "application/json", b.data, b.len);
    buf_free(&b);
}

void http_begin(struct http_exchange *x, int status, const char *content_type) {
    struct buf h = {0};
    pthread_mutex_lock(&x->c->lock);
    if (x->c->fd >= 0) {
        x->chunked = !x->head.http10;
        x->close = x->close || x->head.http10; /* the end of the connection is the end of the answer */
        build_head(x, &h, status, content_type);
        buf_printf(&h, "cache-control: no-cache\r\n%s\r\n", x->chunked ? "transfer-encoding: chunked\r\n" : "");
        if (h.failed) shutdown(x->c->fd, SHUT_RDWR);
        else conn_send(x->c, h.data, h.len);
    }
    buf_free(&h);
    pthread_mutex_unlock(&x->c->lock);
}

int http_write(struct http_exchange *x, const void *data, size_t bytes) {
    struct http_conn *c = x->c;
    char size[24];
    pthread_mutex_lock(&c->lock);
    if (!pthread_equal(pthread_self(), c->s->thread)) /* a stalled client is dropped in time */
        while (c->fd >= 0 && c->out.len - c->sent > STREAM_WAITING) pthread_cond_wait(&c->room, &c->lock);
    int r = c->fd >= 0 ? 0 : -1;
    if (!r && bytes && !x->bodiless) {
        if (c->out.len == 0) c->progress = clock_seconds(); /* waiting begins now */
        if (x->chunked) buf_append(&c->out, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", bytes));
        buf_append(&c->out, data, bytes);
        conn_send(c, "\r\n", x->chunked ? 2 : 0);
    }
    pthread_mutex_unlock(&c->lock);
    return r;
}

void http_end(struct http_exchange *x) {
    pthread_mutex_lock(&x->c->lock);
    if (x->chunked && !x->bodiless) conn_send(x->c, "0\r\n\r\n", 5);
    give_back(x);
}

bool http_gone(const struct http_exchange *x) {
    pthread_mutex_lock(&x->c->lock);
    bool gone = x->c->fd < 0;
    pthread_mutex_unlock(&x->c->lock);
    return gone;
}

void http_on_gone(struct http_exchange *x, void (*gone)(void *user), void *user) {
    pthread_mutex_lock(&x->c->lock);
    bool now = x->c->fd < 0;
    x->on_gone = now ? NULL : gone;
    x->gone_user = user;
    pthread_mutex_unlock(&x->c->lock);
    if (now && gone) gone(user);
}
