/* Answers: any thread fills the queue of an exchange, the service thread empties it.
 *
 * Answers are written as HTTP/1.1 by ourselves: with a length, or in chunks, so that a streamed answer too leaves the connection
 * open for the next request. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "serve/http_room.h"

static const char padding[LWS_PRE];

const struct http_request *http_request(const struct http_exchange *x) { return &x->request; }

const char *http_status_text(int status) {
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 411: return "Length Required";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 416: return "Range Not Satisfiable";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    default: return "Status";
    }
}

void exchange_free(struct http_exchange *x) {
    arena_free(&x->strings);
    buf_free(&x->body);
    buf_free(&x->headers);
    buf_free(&x->out);
    buf_free(&x->sending);
    free(x);
}

void server_wake(struct http_server *s) {
    if (s->wake_pending || !s->context) return;
    s->wake_pending = true;
    s->lws->lws_cancel_service(s->context);
}

/* Puts x on the list of those with something to write. Lock held. */
static void wake(struct http_exchange *x) {
    if (x->woken || x->gone) return;
    x->woken = true;
    x->next_woken = x->s->woken;
    x->s->woken = x;
    server_wake(x->s);
}

/* Lock held. */
static void append(struct http_exchange *x, const void *data, size_t n) {
    if (x->out.len == 0) buf_append(&x->out, padding, LWS_PRE);
    buf_append(&x->out, data, n);
}

static void append_head(struct http_exchange *x, int status, const char *content_type, const char *length) {
    struct buf h = {0};
    buf_printf(&h, "HTTP/1.1 %d %s\r\nserver: pmd-agent\r\nconnection: %s\r\n", status, http_status_text(status),
               x->close ? "close" : "keep-alive");
    if (content_type) buf_printf(&h, "content-type: %s\r\nx-content-type-options: nosniff\r\n", content_type);
    if (x->s->cors_origin) {
        bool any = !strcmp(x->s->cors_origin, "*");
        buf_printf(&h, "access-control-allow-origin: %s\r\n%saccess-control-expose-headers: x-request-id\r\n", x->s->cors_origin,
                   any ? "" : "vary: origin\r\n");
    }
    if (x->headers.len) buf_append(&h, x->headers.data, x->headers.len);
    buf_str(&h, length);
    buf_str(&h, "\r\n");
    append(x, h.data, h.len);
    x->out.failed = x->out.failed || h.failed;
    buf_free(&h);
    x->begun = true;
}

void http_header(struct http_exchange *x, const char *name, const char *value) {
    pthread_mutex_lock(&x->s->lock);
    buf_printf(&x->headers, "%s: ", name);
    for (const char *p = value; *p; p++)
        if ((unsigned char)*p >= 32 && *p != 127) buf_char(&x->headers, *p);
    buf_str(&x->headers, "\r\n");
    pthread_mutex_unlock(&x->s->lock);
}

/* Gives x back. Lock held; released. */
static void give_back(struct http_exchange *x) {
    struct http_server *s = x->s;
    x->ended = true;
    x->on_gone = NULL;
    if (x->dispatched) s->pending--;
    bool over = x->gone && !x->woken;
    if (!x->gone) wake(x);
    pthread_cond_broadcast(&s->room);
    pthread_mutex_unlock(&s->lock);
    if (over) exchange_free(x);
}

void http_respond(struct http_exchange *x, int status, const char *content_type, const void *data, size_t bytes) {
    char length[64];
    bool none = status == 204 || status == 304;
    snprintf(length, sizeof length, "content-length: %zu\r\n", bytes);
    pthread_mutex_lock(&x->s->lock);
    if (!x->gone) {
        append_head(x, status, none ? NULL : content_type, none ? "" : length);
        if (!x->head && !none) append(x, data, bytes);
    }
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
    pthread_mutex_lock(&x->s->lock);
    if (!x->gone) {
        x->chunked = !x->http10;
        x->close = x->close || x->http10; /* the end of the connection is the end of the answer */
        append_head(x, status, content_type, x->chunked ? "transfer-encoding: chunked\r\ncache-control: no-cache\r\n"
                                                        : "cache-control: no-cache\r\n");
        wake(x);
    }
    pthread_mutex_unlock(&x->s->lock);
}

int http_write(struct http_exchange *x, const void *data, size_t bytes) {
    struct http_server *s = x->s;
    int r = 0;
    pthread_mutex_lock(&s->lock);
    if (!pthread_equal(pthread_self(), s->thread))
        while (!x->gone && x->out.len > STREAM_WAITING) pthread_cond_wait(&s->room, &s->lock); /* a stalled client is dropped */
    if (x->gone || x->out.failed) r = -1;
    if (!r && bytes && !x->head) {
        if (x->chunked) {
            char size[24];
            append(x, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", bytes));
        }
        append(x, data, bytes);
        if (x->chunked) append(x, "\r\n", 2);
        wake(x);
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

void http_end(struct http_exchange *x) {
    pthread_mutex_lock(&x->s->lock);
    if (!x->gone && x->chunked && !x->head) append(x, "0\r\n\r\n", 5);
    give_back(x);
}

bool http_gone(const struct http_exchange *x) {
    pthread_mutex_lock(&x->s->lock);
    bool gone = x->gone;
    pthread_mutex_unlock(&x->s->lock);
    return gone;
}

void http_on_gone(struct http_exchange *x, void (*gone)(void *user), void *user) {
    pthread_mutex_lock(&x->s->lock);
    bool now = x->gone;
    x->on_gone = now ? NULL : gone;
    x->gone_user = user;
    pthread_mutex_unlock(&x->s->lock);
    if (now && gone) gone(user);
}

/* ---- service thread ---- */

void exchange_detach(struct http_exchange *x) {
    struct http_server *s = x->s;
    pthread_mutex_lock(&s->lock);
    s->lws->lws_set_opaque_user_data(x->wsi, NULL);
    x->wsi = NULL;
    x->gone = true;
    s->bodies_held -= x->body.cap;
    bool held = x->dispatched && !x->ended, over = !held && !x->woken;
    if (!x->dispatched) x->ended = true;
    void (*gone)(void *) = held ? x->on_gone : NULL;
    x->on_gone = NULL;
    pthread_cond_broadcast(&s->room);
    if (gone) gone(x->gone_user); /* under the lock: the exchange cannot be given back meanwhile */
    pthread_mutex_unlock(&s->lock);
    if (over) exchange_free(x);
}

int exchange_writeable(struct http_exchange *x) {
    struct http_server *s = x->s;
    struct lws *wsi = x->wsi;
    if (x->sent == x->sending.len) {
        buf_clear(&x->sending);
        pthread_mutex_lock(&s->lock);
        struct buf full = x->out;
        x->out = x->sending;
        x->sending = full;
        bool failed = full.failed;
        pthread_cond_broadcast(&s->room);
        pthread_mutex_unlock(&s->lock);
        if (failed) return -1;
        x->sent = x->sending.len ? LWS_PRE : 0;
    }
    while (x->sent < x->sending.len && !s->lws->lws_send_pipe_choked(wsi)) {
        size_t n = x->sending.len - x->sent < WRITE_PIECE ? x->sending.len - x->sent : WRITE_PIECE;
        if (s->lws->lws_write(wsi, (unsigned char *)x->sending.data + x->sent, n, LWS_WRITE_HTTP) < 0) return -1;
        x->sent += n;
        s->counts.bytes_out += n;
    }
    pthread_mutex_lock(&s->lock);
    bool more = x->sent < x->sending.len || x->out.len > 0, over = x->ended && !more;
    pthread_mutex_unlock(&s->lock);
    if (more || (over && s->lws->lws_partial_buffered(wsi))) {
        s->lws->lws_set_timeout(wsi, PENDING_TIMEOUT_HTTP_CONTENT, s->stall_seconds);
        s->lws->lws_callback_on_writable(wsi);
        return 0;
    }
    s->lws->lws_set_timeout(wsi, NO_PENDING_TIMEOUT, 0);
    if (!over) return 0;
    bool close = x->close;
    exchange_detach(x);
    if (close) return -1;
    return s->lws->lws_http_transaction_completed(wsi) ? -1 : 0;
}
