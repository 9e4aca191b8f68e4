/* What the files of the HTTP core share. Private to this room.
 *
 * A connection has one request in work at a time: its exchange is a part of it, and requests sent ahead wait unread. The service
 * thread owns connections; a handler that keeps an exchange keeps the connection's memory, not its socket. Whoever answers sends
 * at once what the socket takes; the rest waits in `out` for the service thread.
 *
 * Locks: http_server.lock guards routes and WebSocket lists; http_conn.lock what is said below; http_server.kick_lock the list of
 * connections that the service thread is to look at. They are taken in this order. */
#ifndef SERVE_HTTP_ROOM_H
#define SERVE_HTTP_ROOM_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/arena.h"
#include "base/buf.h"
#include "serve/http.h"
#include "serve/http_parse.h"

/* ANSWERS_WAITING: a client that sends requests and reads no answers is not read from either while so much waits for it. */
enum { STREAM_WAITING = 1 << 20, READ_AHEAD = 64 << 10, ANSWERS_WAITING = 256 << 10 };

struct http_route_entry {
    char *method, *path;
    size_t prefix; /* bytes before the ending "*"; 0: exact */
    int flags;
    http_handler *handler;
    void *user;
    bool owns_user;
};

struct http_exchange {
    struct http_conn *c;
    struct arena strings;
    struct http_head head;
    struct http_request request;
    const struct http_route_entry *route;
    struct buf body;
    struct http_chunks chunks;     /* of a body without a length */
    size_t length;                 /* of a body with one */
    bool chunked_body, bodiless;   /* bodiless: HEAD */
    /* Under the connection's lock. */
    struct buf headers;            /* extra ones of the answer */
    bool chunked, close;           /* of the answer; close: the connection ends with it */
    bool begun, held;              /* held: a handler has it */
    void (*on_gone)(void *user);
    void *gone_user;
};

enum conn_state { CONN_HEAD, CONN_BODY, CONN_WORK, CONN_LINGER, CONN_WEBSOCKET, CONN_CLOSED };

struct ws_payload {
    atomic_int users;
    bool binary;
    size_t bytes;
    char data[];
};

struct ws_waiting {
    struct ws_payload *payload;
    int frame;
    struct ws_waiting *next;
};

struct http_conn {
    struct http_server *s;
    struct http_conn *next, **self; /* the server's list; service thread only */
    char peer[48];

    pthread_mutex_t lock;
    pthread_cond_t room;           /* `out` became shorter, or the client left */
    int fd;
    enum conn_state state;
    bool wants_read, wants_write;  /* what epoll watches for */
    bool kicked;                   /* on the server's list; under its kick_lock */
    struct http_conn *next_kicked;
    struct buf out;                /* waiting; [0, sent) is gone */
    size_t sent;
    double progress;               /* when `out` last became shorter */
    struct http_exchange x;

    /* Service thread only. */
    struct buf in;                 /* received, not yet understood */
    double since;                  /* begin of the state's time limit */
    bool dispatching;              /* inside the handler */
    bool paused;                   /* until the client has taken what waits for it */
    size_t held_bytes;             /* of the server's account of bodies */

    /* WebSocket. */
    struct http_ws *ws;
    uint64_t id;
    struct http_conn *ws_next;     /* under the server's lock */
    struct ws_waiting *first, *last;
    size_t queued;
    bool closing;
    double heard, pinged;
    struct buf message;
    int message_op;
};

struct http_ws {
    struct http_server *s;
    struct http_ws_options options;
    char *path;
    struct http_conn *clients;     /* under the server's lock */
    struct http_ws *next;
};

struct http_server {
    pthread_t thread;
    bool thread_runs, loopback;
    char url[300];
    int port, listener, poll, event;
    bool listening;
    char *host, *cors_origin;
    char **api_keys;
    int api_key_count;
    size_t max_body;
    int max_connections, idle_seconds, receive_seconds, stall_seconds;
    bool any_name;

    pthread_mutex_t lock;
    struct http_route_entry **routes;
    size_t route_count;
    struct http_ws *websockets;
    uint64_t next_client;
    pthread_mutex_t kick_lock;
    struct http_conn *kicked;

    struct http_conn *connections; /* service thread only */
    atomic_bool draining, stopping;
    atomic_int pending, open, open_websockets;
    atomic_size_t bodies_held;
    atomic_ullong accepted, refused, requests, bytes_in, bytes_out;
};

/* ---- http_conn.c: one connection, on the service thread ---- */
int conn_new(struct http_server *s, int fd, const char *peer);
void conn_readable(struct http_conn *c);
/* Goes on with what has been received: after an answer, requests sent ahead. */
void conn_advance(struct http_conn *c);
/* Ends the connection; its memory stays until the service thread comes to the end of its round, or the exchange is given back. */
void conn_close(struct http_conn *c);
/* Closes what is over its time. */
void conn_check_time(struct http_conn *c, double now);

/* ---- http_exchange.c: any thread, the connection's lock held ---- */
/* Appends to what waits and sends what the socket takes. */
void conn_send(struct http_conn *c, const void *data, size_t bytes);
/* Sends from `out`; -1 when the connection is broken. */
int conn_flush(struct http_conn *c);
void conn_watch(struct http_conn *c);
/* Puts c on the list of connections that the service thread looks at next. */
void conn_kick(struct http_conn *c);
void conn_free(struct http_conn *c);
void exchange_reset(struct http_exchange *x);

/* ---- http_guard.c: who may ask ---- */
bool http_host_allowed(const struct http_server *s, const char *host);
/* Is this Origin the server itself, or one that CORS was switched on for? */
bool http_origin_allowed(const struct http_server *s, const char *origin, const char *host);
bool http_key_allowed(const struct http_server *s, const struct http_exchange *x);
/* The route of a request whose head is read, or NULL after it was turned down. */
const struct http_route_entry *http_admit(struct http_server *s, struct http_exchange *x);

/* ---- http_ws.c ---- */
/* Is this request an upgrade to a WebSocket? If so it is answered here. */
bool ws_upgrade(struct http_conn *c);
void ws_receive(struct http_conn *c);
void ws_check_time(struct http_conn *c, double now);
/* Sends queued messages while `out` is empty. Lock held. */
void ws_pump(struct http_conn *c);
/* The connection is closed: off the list, queue dropped. */
void ws_forget(struct http_conn *c);

#endif
