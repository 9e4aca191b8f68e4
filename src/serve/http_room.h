/* What the files of the HTTP core share. Private to this room.
 *
 * One lock (http_server.lock) guards the routes, the list of what wants to be written, the queues and the counters. libwebsockets
 * is called on the service thread only, lws_cancel_service (which wakes that thread) aside. */
#ifndef SERVE_HTTP_ROOM_H
#define SERVE_HTTP_ROOM_H

#include <pthread.h>
#include <sys/types.h>

#include "base/arena.h"
#include "base/buf.h"
#include "serve/http.h"
#include "serve/lws.h"

enum { WRITE_PIECE = 64 << 10, STREAM_WAITING = 1 << 20 };

struct http_route_entry {
    char *method, *path;
    size_t prefix; /* bytes before the ending "*"; 0: exact */
    int flags;
    http_handler *handler;
    void *user;
    bool owns_user;
};

struct http_exchange {
    struct http_server *s;
    struct lws *wsi;             /* service thread only */
    struct arena strings;
    struct http_request request;
    const char *origin;
    struct buf body;
    size_t content_length;
    double started;
    bool head, http10, close;    /* close: the connection ends with this answer */
    bool wants_close;            /* the client said so */
    const struct http_route_entry *route;

    /* Under the server's lock. */
    struct buf headers;          /* extra ones */
    struct buf out;              /* LWS_PRE bytes, then what waits */
    bool chunked, begun, ended;  /* ended: the handler gave it back */
    bool dispatched;             /* a handler holds or held it */
    bool gone;                   /* the client left, or all is sent */
    bool woken;
    struct http_exchange *next_woken;
    void (*on_gone)(void *user);
    void *gone_user;

    /* Service thread only. */
    struct buf sending;          /* LWS_PRE bytes, then what is being sent */
    size_t sent;                 /* of sending, LWS_PRE included */
};

struct ws_payload {
    int users;
    bool binary;
    size_t bytes;
    unsigned char data[];        /* LWS_PRE bytes, then the message */
};

struct ws_waiting {
    struct ws_payload *payload;
    int frame;
    struct ws_waiting *next;
};

struct ws_client {
    uint64_t id;
    struct http_ws *ws;
    struct lws *wsi;
    struct ws_waiting *first, *last;
    size_t queued;
    int close_code;
    bool woken;
    struct ws_client *next_woken, *next;
    struct buf received;
};

struct http_ws {
    struct http_server *s;
    struct http_ws_options options;
    char *path;
    struct ws_client *clients;
    struct http_ws *next;
};

struct http_server {
    const struct lws_library *lws;
    struct lws_context *context;
    struct lws_protocols protocols[2];
    struct lws_vhost *vhost;
    lws_retry_bo_t idle_policy;
    pthread_t thread;
    bool thread_runs, loopback;
    char url[300];
    int port;
    char *host, *cors_origin;
    char **api_keys;
    int api_key_count;
    size_t max_body;
    int max_connections, idle_seconds, receive_seconds, stall_seconds;
    bool any_name;

    pthread_mutex_t lock;
    pthread_cond_t room;        /* a queue became shorter, or its client left */
    bool draining, stopping;
    struct http_route_entry **routes;
    size_t route_count;
    struct http_ws *websockets;
    struct http_exchange *woken;
    struct ws_client *woken_clients;
    bool wake_pending;
    uint64_t next_client;
    int pending;
    int own_sockets;            /* of `sockets`, those that are no connection (the listener) */
    int sockets;
    size_t bodies_held;
    struct http_counts counts;
};

/* ---- http_callback.c ---- */
int http_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len);

/* ---- http_guard.c: who may ask ---- */

/* Value of a known header, "" when absent; in the arena; NULL when out of memory. */
const char *http_header_in(const struct http_server *s, struct lws *wsi, enum lws_token_indexes token, struct arena *a);
/* Is this Host one that a client of this server would use? */
bool http_host_allowed(const struct http_server *s, const char *host);
/* Is this Origin the server itself, or one that CORS was switched on for? */
bool http_origin_allowed(const struct http_server *s, const char *origin, const char *host);
bool http_key_allowed(const struct http_server *s, struct lws *wsi, const struct http_request *r, struct arena *a);

/* ---- http_exchange.c ---- */
const char *http_status_text(int status);
/* All of x is sent or its client left: forget the connection; frees x when the handler has given it back. */
void exchange_detach(struct http_exchange *x);
void exchange_free(struct http_exchange *x);
/* Sends the next piece. Returns what the libwebsockets callback must return. */
int exchange_writeable(struct http_exchange *x);

/* ---- http_ws.c ---- */
struct http_ws *ws_find(struct http_server *s, const char *path);
struct ws_client *ws_opened(struct http_ws *w, struct lws *wsi);
int ws_writeable(struct ws_client *c);
int ws_received(struct ws_client *c, const char *data, size_t n);
void ws_closed(struct ws_client *c);
void ws_free(struct http_ws *w);

/* Wakes the service thread; called with the lock held. */
void server_wake(struct http_server *s);

#endif
