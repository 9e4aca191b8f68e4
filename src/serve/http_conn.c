/* One connection: bytes to requests, requests to handlers, in order. Runs on the service thread.
 *
 * A request is turned down before its body is read wherever that is possible. The connection ends then, but not at once: closing a
 * socket with unread bytes makes the kernel drop the answer, so what still comes is read and thrown away for a moment. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "serve/http_room.h"

enum { LINGER_SECONDS = 2, BODY_BYTES_PER_SECOND = 64 << 10 };

int conn_new(struct http_server *s, int fd, const char *peer) {
    struct http_conn *c = calloc(1, sizeof *c);
    if (!c) return -1;
    *c = (struct http_conn){.s = s, .fd = fd, .wants_read = true, .since = clock_seconds(), .next = s->connections};
    c->self = &s->connections;
    c->x.c = c;
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->room, NULL);
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
    if (epoll_ctl(s->poll, EPOLL_CTL_ADD, fd, &e)) {
        conn_free(c);
        return -1;
    }
    if (c->next) c->next->self = &c->next;
    s->connections = c;
    atomic_fetch_add(&s->open, 1);
    return 0;
}

void conn_close(struct http_conn *c) {
    struct http_server *s = c->s;
    if (c->state == CONN_CLOSED) return;
    if (c->ws) ws_forget(c);
    *c->self = c->next;
    if (c->next) c->next->self = c->self;
    atomic_fetch_sub(&s->open, 1);
    atomic_fetch_sub(&s->bodies_held, c->held_bytes);
    c->held_bytes = 0;
    pthread_mutex_lock(&c->lock);
    epoll_ctl(s->poll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->fd = -1;
    c->state = CONN_CLOSED;
    if (c->x.held && c->x.on_gone) c->x.on_gone(c->x.gone_user);
    c->x.on_gone = NULL;
    pthread_cond_broadcast(&c->room);
    if (!c->x.held) conn_kick(c); /* freed when the events at hand are done with; else when its exchange is given back */
    pthread_mutex_unlock(&c->lock);
}

/* ---- requests ---- */

/* The answer is given: on to the next request, or to the end. False: the connection is over. */
static bool finish(struct http_conn *c) {
    atomic_fetch_sub(&c->s->bodies_held, c->held_bytes);
    c->held_bytes = 0;
    pthread_mutex_lock(&c->lock);
    bool close = c->x.close, waiting = c->out.len > 0;
    c->since = clock_seconds();
    if (close) {
        if (!waiting) shutdown(c->fd, SHUT_WR);
        c->state = CONN_LINGER;
        buf_clear(&c->in);
    } else {
        exchange_reset(&c->x);
        c->state = CONN_HEAD;
    }
    if (!c->wants_read) {
        c->wants_read = true;
        conn_watch(c);
    }
    pthread_mutex_unlock(&c->lock);
    return true;
}

static void refuse(struct http_conn *c, int status, const char *why) {
    c->x.close = true;
    http_error(&c->x, status, status >= 500 ? "server_error" : "invalid_request_error", NULL, "%s", why);
    finish(c);
}

static void dispatch(struct http_conn *c) {
    struct http_exchange *x = &c->x;
    if (x->body.len) x->request.body = x->body.data;
    x->request.body_bytes = x->body.len;
    x->close = x->head.close;
    pthread_mutex_lock(&c->lock);
    c->state = CONN_WORK;
    x->held = true;
    atomic_fetch_add(&c->s->pending, 1);
    pthread_mutex_unlock(&c->lock);
    c->dispatching = true;
    x->route->handler(x->route->user, x);
    c->dispatching = false;
}

/* A head is complete. */
static void take_head(struct http_conn *c, size_t n) {
    struct http_exchange *x = &c->x;
    struct http_server *s = c->s;
    const char *why;
    exchange_reset(x);
    int status = http_head_parse(c->in.data, n, &x->strings, &x->head, &why);
    memmove(c->in.data, c->in.data + n, c->in.len - n);
    c->in.len -= n;
    atomic_fetch_add(&s->requests, 1);
    if (status) {
        refuse(c, status, why);
        return;
    }
    const struct http_head *h = &x->head;
    x->request = (struct http_request){
        .method = h->method, .path = h->path, .query = h->query, .content_type = http_head_field(h, "content-type"),
        .user_agent = http_head_field(h, "user-agent"), .range = http_head_field(h, "range"),
        .if_none_match = http_head_field(h, "if-none-match"), .peer = c->peer, .body = ""};
    x->bodiless = !strcmp(h->method, "HEAD");
    x->chunked_body = h->chunked;
    x->length = (size_t)h->length;
    x->close = true; /* as long as there is a body to come */
    bool body = h->chunked || h->length > 0;
    if (!body) x->close = h->close;
    if (x->length > s->max_body) {
        http_error(x, 413, "invalid_request_error", NULL, "the body has %zu bytes, at most %zu are taken", x->length, s->max_body);
        finish(c);
        return;
    }
    if (!body && ws_upgrade(c)) {
        if (c->state != CONN_WEBSOCKET) finish(c);
        return;
    }
    if (!(x->route = http_admit(s, x))) {
        finish(c);
        return;
    }
    c->since = clock_seconds();
    if (!body) {
        dispatch(c);
        return;
    }
    c->state = CONN_BODY;
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (http_value_has(http_head_field(h, "expect"), "100-continue") && !h->http10) {
        pthread_mutex_lock(&c->lock);
        conn_send(c, go_on, sizeof go_on - 1);
        pthread_mutex_unlock(&c->lock);
    }
}

static void take_body(struct http_conn *c) {
    struct http_exchange *x = &c->x;
    struct http_server *s = c->s;
    size_t used = 0, before = x->body.len;
    int r;
    if (x->chunked_body) {
        r = http_chunks_take(&x->chunks, c->in.data, c->in.len, &used, &x->body, s->max_body);
    } else {
        used = c->in.len < x->length - x->body.len ? c->in.len : x->length - x->body.len;
        buf_append(&x->body, c->in.data, used);
        r = x->body.len == x->length;
    }
    memmove(c->in.data, c->in.data + used, c->in.len - used);
    c->in.len -= used;
    atomic_fetch_add(&s->bytes_in, used);
    size_t grown = x->body.len - before;
    c->held_bytes += grown;
    size_t all = atomic_fetch_add(&s->bodies_held, grown) + grown;
    if (x->body.failed) refuse(c, 503, "no memory for the body now");
    else if (all > 8 * s->max_body) refuse(c, 503, "no room for the body now: too many others are held");
    else if (r == -1) refuse(c, 400, "the body is not in chunks as Transfer-Encoding says");
    else if (r == -2) refuse(c, 413, "the body is longer than this server takes");
    else if (r == 1) dispatch(c);
}

static void stop_reading(struct http_conn *c) {
    pthread_mutex_lock(&c->lock);
    c->wants_read = false; /* what is sent ahead waits in the socket */
    conn_watch(c);
    pthread_mutex_unlock(&c->lock);
}

void conn_advance(struct http_conn *c) {
    for (;;) {
        pthread_mutex_lock(&c->lock);
        bool held = c->x.held, behind = c->out.len - c->sent > ANSWERS_WAITING;
        enum conn_state state = c->state;
        pthread_mutex_unlock(&c->lock);
        if (state == CONN_WORK) {
            if (held) return;
            finish(c);
        } else if (state == CONN_HEAD && behind) {
            c->paused = true;
            stop_reading(c);
            return;
        } else if (state == CONN_HEAD) {
            size_t skip = 0; /* empty lines before a request are allowed */
            while (skip + 1 < c->in.len && c->in.data[skip] == '\r' && c->in.data[skip + 1] == '\n') skip += 2;
            if (skip) {
                memmove(c->in.data, c->in.data + skip, c->in.len - skip);
                c->in.len -= skip;
            }
            size_t n = c->in.len ? http_head_length(c->in.data, c->in.len) : 0;
            if (n > HEAD_MAX_BYTES || (n == 0 && c->in.len > HEAD_MAX_BYTES)) refuse(c, 431, "the head has more than 32 KiB");
            else if (n == 0) return;
            else take_head(c, n);
        } else if (state == CONN_BODY) {
            if (c->in.len == 0) return;
            size_t before = c->in.len;
            take_body(c);
            if (c->state == CONN_BODY && c->in.len == before) return;
        } else {
            if (state == CONN_WEBSOCKET && c->in.len) ws_receive(c);
            return;
        }
    }
}

void conn_readable(struct http_conn *c) {
    char piece[READ_AHEAD];
    bool ended = false;
    for (int i = 0; i < 4 && !ended; i++) { /* then it is the others' turn */
        if (c->paused || (c->state == CONN_WORK && c->in.len >= READ_AHEAD)) {
            stop_reading(c);
            return;
        }
        ssize_t n = recv(c->fd, piece, sizeof piece, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        ended = n <= 0;
        if (ended || c->state == CONN_LINGER) continue;
        if (c->in.len == 0 && c->state == CONN_HEAD) c->since = clock_seconds();
        buf_append(&c->in, piece, (size_t)n);
        if (c->in.failed) ended = true;
        else if (c->state == CONN_WEBSOCKET) ws_receive(c);
        else conn_advance(c);
        if (c->state == CONN_CLOSED) return;
        if ((size_t)n < sizeof piece) break;
    }
    if (ended) conn_close(c);
}

void conn_check_time(struct http_conn *c, double now) {
    struct http_server *s = c->s;
    pthread_mutex_lock(&c->lock);
    bool stalled = c->out.len > 0 && now - c->progress > s->stall_seconds, waiting = c->out.len > 0;
    pthread_mutex_unlock(&c->lock);
    double spent = now - c->since;
    if (stalled) conn_close(c);
    else if (c->paused)
        return;
    else if (c->state == CONN_HEAD && c->in.len > 0 && spent > s->receive_seconds)
        refuse(c, 408, "the head of the request took too long");
    else if (c->state == CONN_HEAD && c->in.len == 0 && !waiting && spent > s->idle_seconds)
        conn_close(c);
    else if (c->state == CONN_BODY && spent > s->receive_seconds + (double)c->x.body.len / BODY_BYTES_PER_SECOND)
        refuse(c, 408, "the body of the request took too long");
    else if (c->state == CONN_LINGER && !waiting && spent > LINGER_SECONDS)
        conn_close(c);
    else if (c->state == CONN_WEBSOCKET)
        ws_check_time(c, now);
}
