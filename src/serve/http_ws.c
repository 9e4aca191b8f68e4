/* WebSockets (RFC 6455): handshake, frames, and for each client a queue of shared payloads. Of a stream of frames only the newest
 * waits. No extensions, so reserved bits are an error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/utf8.h"
#include "serve/http_room.h"
#include "serve/sha1.h"

enum { OP_MORE, OP_TEXT, OP_BINARY, OP_CLOSE = 8, OP_PING, OP_PONG };
enum { PING_SECONDS = 30, SILENCE_SECONDS = 90 };

int http_websocket(struct http_server *s, const struct http_ws_options *options, struct http_ws **out, struct err *err) {
    struct http_ws *w = calloc(1, sizeof *w);
    char *path = strdup(options->path);
    if (!w || !path) {
        free(w);
        free(path);
        return err_set(err, ERR_MEMORY, "out of memory for a WebSocket");
    }
    *w = (struct http_ws){.s = s, .options = *options, .path = path};
    w->options.path = path;
    if (!w->options.max_message) w->options.max_message = 64 << 10;
    if (!w->options.queue_bytes) w->options.queue_bytes = 8 << 20;
    pthread_mutex_lock(&s->lock);
    w->next = s->websockets;
    s->websockets = w;
    pthread_mutex_unlock(&s->lock);
    *out = w;
    return 0;
}

/* ---- sending: the connection's lock held ---- */

static void payload_drop(struct ws_payload *p) {
    if (atomic_fetch_sub(&p->users, 1) == 1) free(p);
}

static void send_frame(struct http_conn *c, int op, const void *data, size_t n) {
    unsigned char head[10] = {(unsigned char)(0x80 | op)};
    size_t size = 2;
    if (n < 126) {
        head[1] = (unsigned char)n;
    } else if (n < 65536) {
        head[1] = 126;
        head[2] = (unsigned char)(n >> 8);
        head[3] = (unsigned char)n;
        size = 4;
    } else {
        head[1] = 127;
        for (int i = 0; i < 8; i++) head[2 + i] = (unsigned char)((uint64_t)n >> (56 - 8 * i));
        size = 10;
    }
    if (c->fd < 0) return;
    if (c->out.len == 0) c->progress = clock_seconds();
    buf_append(&c->out, head, size);
    conn_send(c, data, n);
}

/* Says goodbye; the client is to close. */
static void send_close(struct http_conn *c, int code) {
    unsigned char data[2] = {(unsigned char)(code >> 8), (unsigned char)code};
    if (c->closing) return;
    send_frame(c, OP_CLOSE, data, code ? 2 : 0);
    c->closing = true;
    c->pinged = clock_seconds();
}

void ws_pump(struct http_conn *c) {
    while (c->first && c->out.len == 0 && c->fd >= 0 && !c->closing) {
        struct ws_waiting *e = c->first;
        c->first = e->next;
        if (!c->first) c->last = NULL;
        c->queued -= e->payload->bytes;
        send_frame(c, e->payload->binary ? OP_BINARY : OP_TEXT, e->payload->data, e->payload->bytes);
        payload_drop(e->payload);
        free(e);
    }
}

/* True when queued or sent. */
static bool enqueue(struct http_conn *c, struct ws_payload *p, int frame) {
    if (c->closing || c->fd < 0) return false;
    for (struct ws_waiting *e = frame ? c->first : NULL; e; e = e->next) {
        if (e->frame != frame) continue;
        c->queued += p->bytes - e->payload->bytes;
        payload_drop(e->payload);
        e->payload = p;
        atomic_fetch_add(&p->users, 1);
        return true;
    }
    if (!frame && c->queued + p->bytes > c->ws->options.queue_bytes) {
        send_close(c, 1013); /* too slow: what it missed cannot be made up */
        return false;
    }
    struct ws_waiting *e = calloc(1, sizeof *e);
    if (!e) return false;
    *e = (struct ws_waiting){.payload = p, .frame = frame};
    atomic_fetch_add(&p->users, 1);
    c->queued += p->bytes;
    if (c->last) c->last->next = e;
    else c->first = e;
    c->last = e;
    ws_pump(c);
    return true;
}

/* ---- the door ---- */

int http_ws_send(struct http_ws *w, uint64_t client, bool binary, int frame, const void *data, size_t bytes) {
    struct http_server *s = w->s;
    struct ws_payload *p = NULL;
    int count = 0;
    pthread_mutex_lock(&s->lock);
    for (struct http_conn *c = w->clients; c; c = c->ws_next) {
        if (client && c->id != client) continue;
        if (!p) {
            if (!(p = malloc(sizeof *p + bytes))) break;
            p->users = 1;
            p->binary = binary;
            p->bytes = bytes;
            if (bytes) memcpy(p->data, data, bytes);
        }
        pthread_mutex_lock(&c->lock);
        count += enqueue(c, p, frame);
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&s->lock);
    if (p) payload_drop(p);
    return count;
}

void http_ws_close(struct http_ws *w, uint64_t client, int code) {
    pthread_mutex_lock(&w->s->lock);
    for (struct http_conn *c = w->clients; c; c = c->ws_next) {
        if (c->id != client) continue;
        pthread_mutex_lock(&c->lock);
        send_close(c, code);
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&w->s->lock);
}

int http_ws_clients(struct http_ws *w) {
    int n = 0;
    pthread_mutex_lock(&w->s->lock);
    for (struct http_conn *c = w->clients; c; c = c->ws_next) n++;
    pthread_mutex_unlock(&w->s->lock);
    return n;
}

/* ---- handshake: service thread ---- */

static void accept_key(const char *key, char out[32]) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[128];
    unsigned char d[21] = {0};
    snprintf(text, sizeof text, "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1(text, strlen(text), d);
    int k = 0;
    for (int i = 0; i < 21; i += 3) {
        unsigned v = (unsigned)d[i] << 16 | (unsigned)d[i + 1] << 8 | d[i + 2];
        for (int b = 18; b >= 0; b -= 6) out[k++] = letters[v >> b & 63];
    }
    out[27] = '=';
    out[28] = 0;
}

static struct http_ws *find(struct http_server *s, const char *path) {
    pthread_mutex_lock(&s->lock);
    struct http_ws *w = s->websockets;
    while (w && strcmp(w->path, path)) w = w->next;
    pthread_mutex_unlock(&s->lock);
    return w;
}

bool ws_upgrade(struct http_conn *c) {
    struct http_exchange *x = &c->x;
    struct http_server *s = c->s;
    const struct http_head *h = &x->head;
    const char *host = http_head_field(h, "host"), *origin = http_head_field(h, "origin");
    const char *key = http_head_field(h, "sec-websocket-key");
    struct http_ws *w = find(s, h->path);
    bool asked = http_value_has(http_head_field(h, "upgrade"), "websocket") &&
                 http_value_has(http_head_field(h, "connection"), "upgrade");
    if (!w) return false; /* other upgrades (HTTP/2 in clear text, say) may be ignored */
    x->close = true;
    if (!asked || strcmp(h->method, "GET") || h->http10)
        http_error(x, 426, "invalid_request_error", NULL, "'%s' is a WebSocket", h->path);
    else if (!http_host_allowed(s, host) || !http_origin_allowed(s, origin, host))
        http_error(x, 403, "permission_error", NULL, "pages of '%s' may not use this server (see --cors)", origin[0] ? origin : host);
    else if (!(w->options.flags & HTTP_PUBLIC) && !http_key_allowed(s, x))
        http_error(x, 401, "authentication_error", NULL, "this server wants an API key: '?key=KEY'");
    else if (s->draining)
        http_error(x, 503, "server_error", NULL, "the server is shutting down");
    else if (strlen(key) != 24 || strcmp(http_head_field(h, "sec-websocket-version"), "13"))
        http_error(x, 400, "invalid_request_error", NULL, "expected Sec-WebSocket-Version 13 and a key of 16 bytes");
    else {
        char accept[32], answer[200];
        accept_key(key, accept);
        int n = snprintf(answer, sizeof answer,
                         "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                         accept);
        c->heard = c->pinged = clock_seconds();
        c->ws = w;
        atomic_fetch_add(&s->open_websockets, 1);
        pthread_mutex_lock(&s->lock);
        c->id = ++s->next_client;
        c->ws_next = w->clients;
        w->clients = c;
        pthread_mutex_lock(&c->lock);
        c->state = CONN_WEBSOCKET;
        conn_send(c, answer, (size_t)n);
        pthread_mutex_unlock(&c->lock);
        pthread_mutex_unlock(&s->lock);
        if (w->options.opened) w->options.opened(w->options.user, c->id, &x->request);
    }
    return true;
}

/* ---- receiving: service thread ---- */

static void fail(struct http_conn *c, int code) {
    pthread_mutex_lock(&c->lock);
    send_close(c, code);
    pthread_mutex_unlock(&c->lock);
    buf_clear(&c->in);
}

/* A control frame. */
static void take_control(struct http_conn *c, int op, const char *data, size_t n) {
    pthread_mutex_lock(&c->lock);
    if (op == OP_PING && !c->closing && c->out.len - c->sent < ANSWERS_WAITING) send_frame(c, OP_PONG, data, n); /* else it does not read them */
    if (op == OP_CLOSE) {
        send_close(c, n >= 2 ? ((unsigned char)data[0] << 8 | (unsigned char)data[1]) : 0);
        if (c->out.len == 0) shutdown(c->fd, SHUT_WR);
    }
    pthread_mutex_unlock(&c->lock);
}

/* A piece of a message. */
static void take_data(struct http_conn *c, int op, bool final, const char *data, size_t n) {
    const struct http_ws_options *o = &c->ws->options;
    if ((op == OP_MORE) != (c->message_op != 0)) {
        fail(c, 1002);
        return;
    }
    if (op != OP_MORE) c->message_op = op;
    if (n > o->max_message - c->message.len) {
        fail(c, 1009);
        return;
    }
    buf_append(&c->message, data, n);
    if (!final) return;
    buf_append(&c->message, "", 0);
    const char *text = c->message.len ? c->message.data : "";
    bool binary = c->message_op == OP_BINARY;
    if (c->message.failed) fail(c, 1011);
    else if (!binary && utf8_valid_prefix(text, c->message.len) != c->message.len) fail(c, 1007);
    else if (o->message) o->message(o->user, c->id, text, c->message.len, binary);
    c->message_op = 0;
    buf_clear(&c->message);
}

void ws_receive(struct http_conn *c) {
    size_t at = 0;
    c->heard = clock_seconds();
    while (!c->closing || c->in.len) {
        unsigned char *f = (unsigned char *)c->in.data + at;
        size_t have = c->in.len - at;
        if (have < 2) break;
        int op = f[0] & 15;
        uint64_t n = f[1] & 127;
        size_t head = n == 126 ? 4 : n == 127 ? 10 : 2;
        if ((f[0] & 0x70) || !(f[1] & 0x80) || (op >= 8 && (n > 125 || !(f[0] & 0x80))) || (op > OP_BINARY && op < OP_CLOSE) || op > OP_PONG) {
            fail(c, 1002);
            return;
        }
        if (have < head + 4) break;
        if (n == 126) n = (uint64_t)f[2] << 8 | f[3];
        else if (n == 127)
            for (int i = n = 0; i < 8; i++) n = n << 8 | f[2 + i];
        if (n > c->ws->options.max_message) {
            fail(c, 1009);
            return;
        }
        if (have < head + 4 + n) break;
        unsigned char *data = f + head + 4;
        for (size_t i = 0; i < n; i++) data[i] ^= f[head + (i & 3)];
        if (c->closing) {
            if (op == OP_CLOSE) shutdown(c->fd, SHUT_WR); /* the client's answer to ours */
        } else if (op >= OP_CLOSE)
            take_control(c, op, (char *)data, (size_t)n);
        else
            take_data(c, op, f[0] & 0x80, (char *)data, (size_t)n);
        if (c->in.len == 0) return; /* failed */
        at += head + 4 + (size_t)n;
    }
    memmove(c->in.data, c->in.data + at, c->in.len - at);
    c->in.len -= at;
}

void ws_check_time(struct http_conn *c, double now) {
    if ((c->closing && now - c->pinged > 5) || now - c->heard > SILENCE_SECONDS) {
        conn_close(c);
        return;
    }
    if (now - c->heard < PING_SECONDS || now - c->pinged < PING_SECONDS) return;
    c->pinged = now;
    pthread_mutex_lock(&c->lock);
    if (c->out.len == 0) send_frame(c, OP_PING, "", 0);
    pthread_mutex_unlock(&c->lock);
}

void ws_forget(struct http_conn *c) {
    struct http_ws *w = c->ws;
    pthread_mutex_lock(&c->s->lock);
    struct http_conn **at = &w->clients;
    while (*at != c) at = &(*at)->ws_next;
    *at = c->ws_next;
    pthread_mutex_unlock(&c->s->lock);
    while (c->first) {
        struct ws_waiting *e = c->first;
        c->first = e->next;
        payload_drop(e->payload);
        free(e);
    }
    c->last = NULL;
    atomic_fetch_sub(&c->s->open_websockets, 1);
    if (w->options.closed) w->options.closed(w->options.user, c->id);
}
