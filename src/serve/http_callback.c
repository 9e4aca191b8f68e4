/* The libwebsockets callback: a connection's life, from headers to the handler. Runs on the service thread.
 *
 * A request is turned down before its body is read wherever that is possible; the connection ends then, since the body would
 * otherwise be taken for the next request. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "serve/http_room.h"

static const struct { enum lws_token_indexes token; const char *name; } methods[] = {
    {WSI_TOKEN_GET_URI, "GET"}, {WSI_TOKEN_POST_URI, "POST"}, {WSI_TOKEN_HEAD_URI, "HEAD"}, {WSI_TOKEN_OPTIONS_URI, "OPTIONS"},
    {WSI_TOKEN_PUT_URI, "PUT"}, {WSI_TOKEN_DELETE_URI, "DELETE"}, {WSI_TOKEN_PATCH_URI, "PATCH"},
};

/* ---- the request ---- */

/* The pieces of the query, joined by '&' again (libwebsockets keeps them apart, percent-decoded). */
static const char *read_query(struct http_server *s, struct lws *wsi, struct arena *a) {
    int total = s->lws->lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_URI_ARGS);
    if (total <= 0) return "";
    size_t size = (size_t)total + 64, at = 0;
    char *out = arena_alloc(a, size);
    for (int i = 0; out && at + 2 < size; i++) {
        if (i) out[at] = '&';
        int n = s->lws->lws_hdr_copy_fragment(wsi, out + at + (i > 0), (int)(size - at - 2), WSI_TOKEN_HTTP_URI_ARGS, i);
        if (n < 0) break;
        at += (size_t)n + (i > 0);
    }
    if (out) out[at] = 0;
    return out;
}

/* Fills what the headers tell. The strings live in x. -1: out of memory. */
static int read_headers(struct http_server *s, struct lws *wsi, struct http_exchange *x, const char *path, size_t path_len) {
    struct http_request *r = &x->request;
    char peer[64] = "";
    s->lws->lws_get_peer_simple(wsi, peer, sizeof peer);
    r->method = "";
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (s->lws->lws_hdr_total_length(wsi, methods[i].token) > 0) r->method = methods[i].name;
    r->path = arena_string(&x->strings, path, path_len);
    r->query = read_query(s, wsi, &x->strings);
    r->content_type = http_header_in(s, wsi, WSI_TOKEN_HTTP_CONTENT_TYPE, &x->strings);
    r->user_agent = http_header_in(s, wsi, WSI_TOKEN_HTTP_USER_AGENT, &x->strings);
    r->range = http_header_in(s, wsi, WSI_TOKEN_HTTP_RANGE, &x->strings);
    r->if_none_match = http_header_in(s, wsi, WSI_TOKEN_HTTP_IF_NONE_MATCH, &x->strings);
    r->peer = arena_string(&x->strings, peer, strlen(peer));
    r->body = "";
    const char *version = http_header_in(s, wsi, WSI_TOKEN_HTTP, &x->strings);
    const char *connection = http_header_in(s, wsi, WSI_TOKEN_CONNECTION, &x->strings);
    x->origin = http_header_in(s, wsi, WSI_TOKEN_ORIGIN, &x->strings);
    if (!r->path || !r->query || !r->content_type || !r->user_agent || !r->range || !r->if_none_match || !r->peer || !version ||
        !connection || !x->origin)
        return -1;
    x->http10 = !strcmp(version, "HTTP/1.0");
    x->close = x->http10 ? strcasestr(connection, "keep-alive") == NULL : strcasestr(connection, "close") != NULL;
    x->head = !strcmp(r->method, "HEAD");
    return 0;
}

static bool matches(const struct http_route_entry *e, const char *path) {
    return e->prefix ? !strncmp(path, e->path, e->prefix) : !strcmp(path, e->path);
}

/* The route of a request: exact before prefix, the longest prefix first. allow: the methods that the path knows. */
static const struct http_route_entry *find_route(struct http_server *s, const struct http_request *r, struct buf *allow) {
    const char *method = !strcmp(r->method, "HEAD") ? "GET" : r->method;
    const struct http_route_entry *best = NULL;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->route_count; i++) {
        const struct http_route_entry *e = s->routes[i];
        if (!matches(e, r->path)) continue;
        if (allow && !(allow->data && strstr(allow->data, e->method)))
            buf_printf(allow, "%s%s%s", allow->len ? ", " : "", e->method, strcmp(e->method, "GET") ? "" : ", HEAD");
        if (strcmp(e->method, method)) continue;
        if (!best || (best->prefix && (!e->prefix || e->prefix > best->prefix))) best = e;
    }
    pthread_mutex_unlock(&s->lock);
    return best;
}

static void answer_options(struct http_exchange *x, const char *allow) {
    char methods_text[100];
    snprintf(methods_text, sizeof methods_text, "%s, OPTIONS", allow);
    http_header(x, "allow", methods_text);
    if (x->s->cors_origin) {
        http_header(x, "access-control-allow-methods", methods_text);
        http_header(x, "access-control-allow-headers", "authorization, content-type, x-api-key, x-stainless-os, x-stainless-lang, "
                    "x-stainless-arch, x-stainless-async, x-stainless-runtime, x-stainless-runtime-version, "
                    "x-stainless-package-version, x-stainless-retry-count, x-stainless-timeout, x-stainless-read-timeout");
        http_header(x, "access-control-max-age", "600");
    }
    http_respond(x, 204, NULL, "", 0);
}

/* Turns the request down, or returns true. */
static bool may_pass(struct http_server *s, struct lws *wsi, struct http_exchange *x) {
    struct http_request *r = &x->request;
    const char *host = http_header_in(s, wsi, WSI_TOKEN_HOST, &x->strings);
    struct buf allow = {0};
    bool pass = false;
    x->route = find_route(s, r, &allow);
    if (!host || allow.failed)
        http_error(x, 500, "server_error", NULL, "out of memory");
    else if (!http_host_allowed(s, host))
        http_error(x, 403, "permission_error", NULL, "this server listens on loopback and is not known as '%s' (see --any-host)", host);
    else if (!http_origin_allowed(s, x->origin, host))
        http_error(x, 403, "permission_error", NULL, "pages of '%s' may not use this server (see --cors)", x->origin);
    else if (!allow.len)
        http_error(x, 404, "invalid_request_error", NULL, "there is no '%s' here", r->path);
    else if (!strcmp(r->method, "OPTIONS"))
        answer_options(x, allow.data);
    else if (!x->route) {
        http_header(x, "allow", allow.data);
        http_error(x, 405, "invalid_request_error", NULL, "'%s' knows %s, not %s", r->path, allow.data, r->method);
    } else if (!(x->route->flags & HTTP_PUBLIC) && !http_key_allowed(s, wsi, r, &x->strings)) {
        http_header(x, "www-authenticate", "Bearer");
        http_error(x, 401, "authentication_error", NULL, "this server wants an API key: 'Authorization: Bearer KEY'");
    } else if (s->draining && !(x->route->flags & HTTP_PUBLIC)) {
        http_header(x, "retry-after", "5");
        http_error(x, 503, "server_error", NULL, "the server is shutting down");
    } else
        pass = true;
    buf_free(&allow);
    return pass;
}

/* Reads the length of the body that follows. False: the request was turned down. */
static bool measure_body(struct http_server *s, struct lws *wsi, struct http_exchange *x) {
    const char *length = http_header_in(s, wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH, &x->strings);
    const char *coding = http_header_in(s, wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING, &x->strings);
    bool bodiless = !strcmp(x->request.method, "GET") || x->head || !strcmp(x->request.method, "OPTIONS");
    x->content_length = 0;
    if (!length || !coding) {
        http_error(x, 500, "server_error", NULL, "out of memory");
        return false;
    }
    if (coding[0]) {
        x->close = true;
        http_error(x, 411, "invalid_request_error", NULL, "a body must come with a Content-Length; Transfer-Encoding is not read");
        return false;
    }
    if (!length[0]) {
        if (bodiless) return true;
        x->close = true; /* libwebsockets would wait for a body of unknown length */
        http_error(x, 411, "invalid_request_error", NULL, "%s needs a Content-Length", x->request.method);
        return false;
    }
    size_t n = strlen(length);
    if (strspn(length, "0123456789") != n || n > 18) {
        x->close = true;
        http_error(x, 400, "invalid_request_error", NULL, "Content-Length is no number of bytes");
        return false;
    }
    x->content_length = strtoull(length, NULL, 10);
    if (bodiless && x->content_length > 0) {
        x->close = true;
        http_error(x, 400, "invalid_request_error", NULL, "%s takes no body here", x->request.method);
        return false;
    }
    if (x->content_length <= s->max_body) return true;
    x->close = true;
    http_error(x, 413, "invalid_request_error", NULL, "the body has %zu bytes, at most %zu are taken", x->content_length, s->max_body);
    return false;
}

static void dispatch(struct http_exchange *x) {
    struct http_server *s = x->s;
    if (x->body.len) x->request.body = x->body.data;
    x->request.body_bytes = x->body.len;
    s->lws->lws_set_timeout(x->wsi, NO_PENDING_TIMEOUT, 0);
    pthread_mutex_lock(&s->lock);
    x->dispatched = true;
    s->pending++;
    pthread_mutex_unlock(&s->lock);
    x->route->handler(x->route->user, x);
}

static int on_request(struct http_server *s, struct lws *wsi, const char *path, size_t n) {
    struct http_exchange *x = calloc(1, sizeof *x);
    if (!x) return -1;
    *x = (struct http_exchange){.s = s, .wsi = wsi, .started = clock_seconds()};
    if (read_headers(s, wsi, x, path, n)) {
        exchange_free(x);
        return -1;
    }
    s->lws->lws_set_opaque_user_data(wsi, x);
    s->counts.requests++;
    bool measured = measure_body(s, wsi, x);
    if (!measured) return 0;
    x->wants_close = x->close;
    if (x->content_length) x->close = true; /* until the body is read */
    if (!may_pass(s, wsi, x)) return 0;
    if (x->content_length == 0) {
        dispatch(x);
        return 0;
    }
    pthread_mutex_lock(&s->lock);
    bool fits = s->bodies_held + x->content_length <= 8 * s->max_body;
    if (fits && buf_reserve(&x->body, x->content_length + 1)) s->bodies_held += x->body.cap;
    else buf_free(&x->body);
    bool reserved = x->body.cap > 0;
    pthread_mutex_unlock(&s->lock);
    if (!reserved) {
        http_header(x, "retry-after", "1");
        http_error(x, 503, "server_error", NULL, "no memory for a body of %zu bytes now", x->content_length);
        return 0;
    }
    s->lws->lws_set_timeout(wsi, PENDING_TIMEOUT_HTTP_CONTENT, s->receive_seconds);
    const char *expect = http_header_in(s, wsi, WSI_TOKEN_HTTP_EXPECT, &x->strings);
    if (expect && !strcasecmp(expect, "100-continue")) {
        unsigned char go[LWS_PRE + 32];
        int k = snprintf((char *)go + LWS_PRE, 32, "HTTP/1.1 100 Continue\r\n\r\n");
        if (s->lws->lws_write(wsi, go + LWS_PRE, (size_t)k, LWS_WRITE_HTTP) < 0) return -1;
    }
    return 0;
}

static int on_body(struct http_exchange *x, const char *data, size_t n) {
    struct http_server *s = x->s;
    if (x->ended || x->dispatched) return 0; /* turned down: what still comes is thrown away */
    if (clock_seconds() - x->started > s->receive_seconds) {
        http_error(x, 408, "invalid_request_error", NULL, "the body took more than %d s", s->receive_seconds);
        return 0;
    }
    if (n > x->content_length - x->body.len) return -1;
    buf_append(&x->body, data, n);
    s->counts.bytes_in += n;
    return 0;
}

static int on_body_complete(struct http_exchange *x) {
    if (x->ended || x->dispatched) return 0;
    if (x->body.len != x->content_length) return -1;
    x->close = x->wants_close;
    dispatch(x);
    return 0;
}

/* ---- WebSockets ---- */

/* 0: the upgrade may go on. */
static int filter_websocket(struct http_server *s, struct lws *wsi) {
    struct http_exchange x = {.s = s, .wsi = wsi};
    char path[200] = "";
    int n = s->lws->lws_hdr_copy(wsi, path, sizeof path, WSI_TOKEN_GET_URI);
    const char *host = http_header_in(s, wsi, WSI_TOKEN_HOST, &x.strings);
    struct http_ws *w = n > 0 ? ws_find(s, path) : NULL;
    bool pass = w && host && !read_headers(s, wsi, &x, path, (size_t)n) && http_host_allowed(s, host) &&
                http_origin_allowed(s, x.origin, host) && !s->draining &&
                ((w->options.flags & HTTP_PUBLIC) || http_key_allowed(s, wsi, &x.request, &x.strings));
    arena_free(&x.strings);
    return pass ? 0 : 1;
}

static int on_established(struct http_server *s, struct lws *wsi) {
    struct http_exchange x = {.s = s, .wsi = wsi};
    char path[200] = "";
    int n = s->lws->lws_hdr_copy(wsi, path, sizeof path, WSI_TOKEN_GET_URI);
    struct http_ws *w = n > 0 ? ws_find(s, path) : NULL;
    struct ws_client *c = w ? ws_opened(w, wsi) : NULL;
    if (!c) return -1;
    s->lws->lws_set_opaque_user_data(wsi, c);
    if (w->options.opened && !read_headers(s, wsi, &x, path, (size_t)n)) w->options.opened(w->options.user, c->id, &x.request);
    arena_free(&x.strings);
    return 0;
}

/* ---- all of it ---- */

/* What other threads have queued since. */
static void on_woken(struct http_server *s) {
    pthread_mutex_lock(&s->lock);
    s->wake_pending = false;
    struct http_exchange *x = s->woken, *after;
    struct ws_client *c = s->woken_clients;
    s->woken = NULL;
    s->woken_clients = NULL;
    struct http_exchange *over = NULL;
    for (; x; x = after) {
        after = x->next_woken;
        x->woken = false;
        if (!x->gone) {
            s->lws->lws_callback_on_writable(x->wsi);
        } else if (x->ended) {
            x->next_woken = over;
            over = x;
        }
    }
    for (; c; c = c->next_woken) {
        c->woken = false;
        s->lws->lws_callback_on_writable(c->wsi);
    }
    pthread_mutex_unlock(&s->lock);
    for (; over; over = after) {
        after = over->next_woken;
        exchange_free(over);
    }
}

static int filter_connection(struct http_server *s) {
    pthread_mutex_lock(&s->lock);
    bool full = s->sockets - s->own_sockets >= s->max_connections;
    if (full) s->counts.refused++;
    else s->counts.accepted++;
    pthread_mutex_unlock(&s->lock);
    return full;
}

static void count_socket(struct http_server *s, int change) {
    pthread_mutex_lock(&s->lock);
    s->sockets += change;
    pthread_mutex_unlock(&s->lock);
}

int http_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len) {
    (void)user;
    const struct lws_library *lws = lws_library(NULL);
    struct http_server *s = lws->lws_context_user(lws->lws_get_context(wsi));
    void *mine = wsi ? lws->lws_get_opaque_user_data(wsi) : NULL;
    switch (reason) {
    case LWS_CALLBACK_EVENT_WAIT_CANCELLED: on_woken(s); return 0;
    case LWS_CALLBACK_FILTER_NETWORK_CONNECTION: return filter_connection(s);
    case LWS_CALLBACK_WSI_CREATE: count_socket(s, 1); return 0;
    case LWS_CALLBACK_WSI_DESTROY: count_socket(s, -1); return 0;
    case LWS_CALLBACK_HTTP: return on_request(s, wsi, in, len);
    case LWS_CALLBACK_HTTP_BODY: return mine ? on_body(mine, in, len) : -1;
    case LWS_CALLBACK_HTTP_BODY_COMPLETION: return mine ? on_body_complete(mine) : -1;
    case LWS_CALLBACK_HTTP_WRITEABLE: return mine ? exchange_writeable(mine) : 0;
    case LWS_CALLBACK_CLOSED_HTTP:
        if (mine) exchange_detach(mine);
        return 0;
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE: return in && !strcasecmp(in, "websocket") ? 0 : -1;
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION: return filter_websocket(s, wsi);
    case LWS_CALLBACK_ESTABLISHED: return on_established(s, wsi);
    case LWS_CALLBACK_SERVER_WRITEABLE: return mine ? ws_writeable(mine) : -1;
    case LWS_CALLBACK_RECEIVE: return mine ? ws_received(mine, in, len) : -1;
    case LWS_CALLBACK_CLOSED:
        if (mine) ws_closed(mine);
        lws->lws_set_opaque_user_data(wsi, NULL);
        return 0;
    default: return 0;
    }
}
