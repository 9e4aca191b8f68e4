/* The HTTP and WebSocket core that `serve` and the dashboard share: one service thread, any number of other threads that answer.
 *
 * Three ideas:
 *   route     a method and a path (an ending "*" matches any rest) with a handler. Handlers run on the service thread and must not
 *             block: they answer at once, or keep the exchange and answer later from any thread.
 *   exchange  one request and its answer. It belongs to the handler until http_respond or http_end is called on it, exactly once;
 *             when the client leaves earlier, writes return -1 and http_gone is true, but the exchange stays valid until then.
 *   websocket a path with callbacks (service thread) and a thread-safe send with a bounded queue per client.
 *
 * Guarded by the core: limits on headers, body, connections and time; the API key; names and origins (a page of another site can
 * not reach a server on loopback); CORS; HEAD and OPTIONS; 404, 405, 413, 431. Errors have the body
 * {"error":{"message","type","param","code"}} that OpenAI's clients read. */
#ifndef SERVE_HTTP_H
#define SERVE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct http_server;
struct http_exchange;
struct http_ws;

struct http_options {
    const char *host;             /* address to listen on; NULL: 127.0.0.1 */
    int port;                     /* 0: any free one */
    int port_tries;               /* ports tried from `port` on when one is taken; 0: one */
    size_t max_body;              /* bytes of one request; 0: 64 MiB. All bodies held at once: 8 times that. */
    int max_connections;          /* 0: 4096 */
    int idle_seconds;             /* a connection kept alive between requests; 0: 300 */
    int receive_seconds;          /* for the header, and for the whole body; 0: 60 */
    int stall_seconds;            /* a client that takes nothing of a waiting answer for so long is dropped; 0: 60 */
    const char *const *api_keys;  /* one of these must be shown on every route that is not public; copied */
    int api_key_count;
    const char *cors_origin;      /* origin that other sites' pages may call from, "*" for any; NULL: none */
    bool any_name;                /* on loopback too, accept every Host name (a proxy in front) */
};

/* Starts listening and the service thread. */
int http_start(const struct http_options *options, struct http_server **out, struct err *err);
int http_port(const struct http_server *s);
/* "http://127.0.0.1:8717" */
const char *http_url(const struct http_server *s);
bool http_is_loopback(const struct http_server *s);
/* From now on new requests get 503, except on public routes. Answers under way go on. */
void http_drain(struct http_server *s);
/* Ends all connections and the thread, frees everything. Every exchange must have been answered by then; see http_pending. */
void http_stop(struct http_server *s);
/* Exchanges that handlers hold. */
int http_pending(const struct http_server *s);

struct http_counts {
    int connections, websockets; /* open now */
    uint64_t accepted, refused;  /* connections since the start; refused: over the limit */
    uint64_t requests, bytes_in, bytes_out;
};
void http_count(struct http_server *s, struct http_counts *out);

/* ---- routes ---- */

struct http_request {
    const char *method, *path, *query; /* path: percent-decoded; query: as sent, "" when there is none */
    const char *content_type, *user_agent, *range, *if_none_match; /* "" when absent */
    const char *peer;                  /* address of the client */
    const char *body;                  /* NUL-terminated */
    size_t body_bytes;
};

typedef void http_handler(void *user, struct http_exchange *x);

enum { HTTP_PUBLIC = 1 }; /* route flags: needs no API key, and answers while draining */

/* Adds a route ("GET" answers HEAD too); before or after the start's first request. Strings are copied. */
int http_route(struct http_server *s, const char *method, const char *path, int flags, http_handler *handler, void *user,
               struct err *err);
/* Adds a GET route of fixed bytes, which must outlive the server; with an ETag, so that a reload costs 304. content_encoding: NULL
 * or "gzip"/"deflate" when `data` is already packed so. */
int http_static(struct http_server *s, const char *path, int flags, const char *content_type, const char *content_encoding,
                const void *data, size_t bytes, struct err *err);

/* The request of an exchange; valid until the exchange is answered. */
const struct http_request *http_request(const struct http_exchange *x);
/* Value of `name` in the query, percent-decoded, into out (NUL-terminated, cut at size); false when absent. */
bool http_query(const struct http_request *r, const char *name, char *out, size_t size);

/* ---- answers: any thread ---- */

/* Extra header of the answer, before http_respond or http_begin. Control characters in value are dropped. */
void http_header(struct http_exchange *x, const char *name, const char *value);
/* A whole answer. Gives x back. */
void http_respond(struct http_exchange *x, int status, const char *content_type, const void *data, size_t bytes);
/* An error body. type: "invalid_request_error", "authentication_error", ...; param: name of the field or NULL. Gives x back. */
void http_error(struct http_exchange *x, int status, const char *type, const char *param, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* A streamed answer: begin, any number of writes, end (gives x back). http_write waits while more than 1 MiB is waiting for a
 * slow client; it returns -1 once the client is gone. */
void http_begin(struct http_exchange *x, int status, const char *content_type);
int http_write(struct http_exchange *x, const void *data, size_t bytes);
void http_end(struct http_exchange *x);
/* Has the client gone? */
bool http_gone(const struct http_exchange *x);
/* Calls gone(user) on the service thread when the client leaves before the answer is complete (at once if it already has). Never
 * after the exchange was given back. A lock is held: set a flag, call nothing of this header. */
void http_on_gone(struct http_exchange *x, void (*gone)(void *user), void *user);

/* ---- WebSockets ---- */

struct http_ws_options {
    const char *path;         /* "/live"; connect without a sub-protocol: new WebSocket(url) */
    int flags;                /* HTTP_PUBLIC */
    size_t max_message;       /* bytes of one message of a client; 0: 64 KiB; more closes the connection (1009) */
    size_t queue_bytes;       /* waiting for one client; 0: 8 MiB; more closes the connection (1013), frames aside */
    void (*opened)(void *user, uint64_t client, const struct http_request *request); /* NULL allowed, as the others */
    void (*message)(void *user, uint64_t client, const char *data, size_t bytes, bool binary); /* data is NUL-terminated */
    void (*closed)(void *user, uint64_t client);
    void *user;
};
int http_websocket(struct http_server *s, const struct http_ws_options *options, struct http_ws **out, struct err *err);

/* Sends to one client, or to all (client 0). frame: 0, or the number of a stream (1, 2, ...) of which only the newest message is
 * worth having: it takes the place of one of the same stream that still waits. Copies data once for all clients. Returns how many
 * clients it was queued for. Any thread, callbacks included. */
int http_ws_send(struct http_ws *w, uint64_t client, bool binary, int frame, const void *data, size_t bytes);
/* Closes one client's connection with a WebSocket close code (1000: done). */
void http_ws_close(struct http_ws *w, uint64_t client, int code);
/* Clients connected now. */
int http_ws_clients(struct http_ws *w);

#endif
