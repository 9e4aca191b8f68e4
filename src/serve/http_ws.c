/* WebSockets: a queue of shared payloads for each client. Of a stream of frames only the newest waits. */
#include <stdlib.h>
#include <string.h>

#include "serve/http_room.h"

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

struct http_ws *ws_find(struct http_server *s, const char *path) {
    pthread_mutex_lock(&s->lock);
    struct http_ws *w = s->websockets;
    while (w && strcmp(w->path, path)) w = w->next;
    pthread_mutex_unlock(&s->lock);
    return w;
}

void ws_free(struct http_ws *w) {
    free(w->path);
    free(w);
}

/* ---- queues: lock held ---- */

static void payload_drop(struct ws_payload *p) {
    if (--p->users == 0) free(p);
}

static void wake_client(struct ws_client *c) {
    if (c->woken) return;
    c->woken = true;
    c->next_woken = c->ws->s->woken_clients;
    c->ws->s->woken_clients = c;
    server_wake(c->ws->s);
}

/* True when queued. */
static bool enqueue(struct ws_client *c, struct ws_payload *p, int frame) {
    if (c->close_code) return false;
    for (struct ws_waiting *e = frame ? c->first : NULL; e; e = e->next) {
        if (e->frame != frame) continue;
        c->queued += p->bytes - e->payload->bytes;
        payload_drop(e->payload);
        e->payload = p;
        p->users++;
        return true;
    }
    struct ws_waiting *e = calloc(1, sizeof *e);
    if (!e) return false;
    if (!frame && c->queued + p->bytes > c->ws->options.queue_bytes) {
        free(e);
        c->close_code = 1013; /* too slow: what it missed cannot be made up */
        wake_client(c);
        return false;
    }
    *e = (struct ws_waiting){.payload = p, .frame = frame};
    p->users++;
    c->queued += p->bytes;
    if (c->last) c->last->next = e;
    else c->first = e;
    c->last = e;
    wake_client(c);
    return true;
}

static struct ws_payload *dequeue(struct ws_client *c) {
    struct ws_waiting *e = c->first;
    if (!e) return NULL;
    struct ws_payload *p = e->payload;
    c->first = e->next;
    if (!c->first) c->last = NULL;
    c->queued -= p->bytes;
    free(e);
    return p;
}

/* ---- any thread ---- */

int http_ws_send(struct http_ws *w, uint64_t client, bool binary, int frame, const void *data, size_t bytes) {
    struct http_server *s = w->s;
    int count = 0;
    pthread_mutex_lock(&s->lock);
    bool wanted = false;
    for (struct ws_client *c = w->clients; c; c = c->next) wanted = wanted || client == 0 || c->id == client;
    struct ws_payload *p = wanted ? malloc(sizeof *p + LWS_PRE + bytes) : NULL;
    if (p) {
        *p = (struct ws_payload){.users = 1, .binary = binary, .bytes = bytes};
        if (bytes) memcpy(p->data + LWS_PRE, data, bytes);
        for (struct ws_client *c = w->clients; c; c = c->next)
            if (client == 0 || c->id == client) count += enqueue(c, p, frame);
        payload_drop(p);
    }
    pthread_mutex_unlock(&s->lock);
    return count;
}

void http_ws_close(struct http_ws *w, uint64_t client, int code) {
    pthread_mutex_lock(&w->s->lock);
    for (struct ws_client *c = w->clients; c; c = c->next) {
        if (c->id != client || c->close_code) continue;
        c->close_code = code;
        wake_client(c);
    }
    pthread_mutex_unlock(&w->s->lock);
}

int http_ws_clients(struct http_ws *w) {
    int n = 0;
    pthread_mutex_lock(&w->s->lock);
    for (struct ws_client *c = w->clients; c; c = c->next) n++;
    pthread_mutex_unlock(&w->s->lock);
    return n;
}

/* ---- service thread ---- */

struct ws_client *ws_opened(struct http_ws *w, struct lws *wsi) {
    struct ws_client *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    pthread_mutex_lock(&w->s->lock);
    *c = (struct ws_client){.id = ++w->s->next_client, .ws = w, .wsi = wsi, .next = w->clients};
    w->clients = c;
    w->s->counts.websockets++;
    pthread_mutex_unlock(&w->s->lock);
    return c;
}

int ws_writeable(struct ws_client *c) {
    struct http_server *s = c->ws->s;
    pthread_mutex_lock(&s->lock);
    int code = c->close_code;
    struct ws_payload *p = code ? NULL : dequeue(c);
    bool more = c->first != NULL;
    pthread_mutex_unlock(&s->lock);
    if (code) {
        s->lws->lws_close_reason(c->wsi, (enum lws_close_status)code, NULL, 0);
        return -1;
    }
    if (!p) return 0;
    /* lws_write puts its header in front of the message, into the LWS_PRE bytes: one client at a time, on this thread. */
    int r = s->lws->lws_write(c->wsi, p->data + LWS_PRE, p->bytes, p->binary ? LWS_WRITE_BINARY : LWS_WRITE_TEXT);
    pthread_mutex_lock(&s->lock);
    if (r >= 0) s->counts.bytes_out += p->bytes;
    payload_drop(p);
    pthread_mutex_unlock(&s->lock);
    if (r < 0) return -1;
    if (more) s->lws->lws_callback_on_writable(c->wsi);
    return 0;
}

int ws_received(struct ws_client *c, const char *data, size_t n) {
    struct http_server *s = c->ws->s;
    if (s->lws->lws_is_first_fragment(c->wsi)) buf_clear(&c->received);
    if (n > c->ws->options.max_message - c->received.len) {
        s->lws->lws_close_reason(c->wsi, LWS_CLOSE_STATUS_MESSAGE_TOO_LARGE, NULL, 0);
        return -1;
    }
    buf_append(&c->received, data, n);
    if (c->received.failed) return -1;
    if (!s->lws->lws_is_final_fragment(c->wsi) || s->lws->lws_remaining_packet_payload(c->wsi)) return 0;
    if (c->ws->options.message)
        c->ws->options.message(c->ws->options.user, c->id, c->received.len ? c->received.data : "", c->received.len,
                               s->lws->lws_frame_is_binary(c->wsi));
    buf_clear(&c->received);
    return 0;
}

void ws_closed(struct ws_client *c) {
    struct http_ws *w = c->ws;
    struct http_server *s = w->s;
    pthread_mutex_lock(&s->lock);
    struct ws_client **at = &w->clients;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
    if (c->woken) {
        struct ws_client **in = &s->woken_clients;
        while (*in != c) in = &(*in)->next_woken;
        *in = c->next_woken;
    }
    for (struct ws_payload *p; (p = dequeue(c)) != NULL;) payload_drop(p);
    s->counts.websockets--;
    pthread_mutex_unlock(&s->lock);
    if (w->options.closed) w->options.closed(w->options.user, c->id);
    buf_free(&c->received);
    free(c);
}
