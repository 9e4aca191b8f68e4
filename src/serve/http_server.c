/* Starting, stopping, routes: the frame of the HTTP core. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/http_room.h"

/* ---- routes ---- */

int http_route(struct http_server *s, const char *method, const char *path, int flags, http_handler *handler, void *user,
               struct err *err) {
    struct http_route_entry *e = calloc(1, sizeof *e);
    size_t n = strlen(path);
    bool ok = e != NULL;
    if (ok) {
        *e = (struct http_route_entry){.method = strdup(method), .path = strdup(path), .flags = flags, .handler = handler, .user = user};
        e->prefix = n && path[n - 1] == '*' ? n - 1 : 0;
        ok = e->method && e->path;
    }
    pthread_mutex_lock(&s->lock);
    struct http_route_entry **more = ok ? realloc(s->routes, (s->route_count + 1) * sizeof *more) : NULL;
    if (more) {
        s->routes = more;
        s->routes[s->route_count++] = e;
    }
    pthread_mutex_unlock(&s->lock);
    if (more) return 0;
    if (e) {
        free(e->method);
        free(e->path);
        free(e);
    }
    return err_set(err, ERR_MEMORY, "out of memory for the route %s", path);
}

struct static_bytes {
    const char *content_type, *content_encoding;
    const void *data;
    size_t bytes;
    char etag[40];
};

static void answer_static(void *user, struct http_exchange *x) {
    const struct static_bytes *f = user;
    http_header(x, "etag", f->etag);
    http_header(x, "cache-control", "no-cache");
    if (f->content_encoding) http_header(x, "content-encoding", f->content_encoding);
    if (strstr(http_request(x)->if_none_match, f->etag)) http_respond(x, 304, NULL, "", 0);
    else http_respond(x, 200, f->content_type, f->data, f->bytes);
}

int http_static(struct http_server *s, const char *path, int flags, const char *content_type, const char *content_encoding,
                const void *data, size_t bytes, struct err *err) {
    struct static_bytes *f = calloc(1, sizeof *f);
    if (!f) return err_set(err, ERR_MEMORY, "out of memory for the page %s", path);
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    *f = (struct static_bytes){.content_type = content_type, .content_encoding = content_encoding, .data = data, .bytes = bytes};
    snprintf(f->etag, sizeof f->etag, "\"%016llx\"", (unsigned long long)hash);
    int r = http_route(s, "GET", path, flags, answer_static, f, err);
    if (r) free(f);
    else s->routes[s->route_count - 1]->owns_user = true;
    return r;
}

bool http_query(const struct http_request *r, const char *name, char *out, size_t size) {
    size_t n = strlen(name);
    for (const char *p = r->query; p && *p; p = strchr(p, '&') ? strchr(p, '&') + 1 : NULL) {
        if (strncmp(p, name, n) || (p[n] != '=' && p[n] != '&' && p[n])) continue;
        size_t k = 0;
        for (const char *v = p[n] == '=' ? p + n + 1 : ""; *v && *v != '&' && k + 1 < size; v++) out[k++] = *v;
        out[k] = 0;
        return true;
    }
    return false;
}

/* ---- life ---- */

static int copy_options(struct http_server *s, const struct http_options *o, struct err *err) {
    s->max_body = o->max_body ? o->max_body : (size_t)64 << 20;
    s->max_connections = o->max_connections ? o->max_connections : 4096;
    s->idle_seconds = o->idle_seconds ? o->idle_seconds : 300;
    s->receive_seconds = o->receive_seconds ? o->receive_seconds : 60;
    s->stall_seconds = o->stall_seconds ? o->stall_seconds : 60;
    s->any_name = o->any_name;
    s->host = strdup(o->host ? o->host : "127.0.0.1");
    s->cors_origin = o->cors_origin ? strdup(o->cors_origin) : NULL;
    s->api_keys = calloc((size_t)o->api_key_count + 1, sizeof *s->api_keys);
    if (!s->host || !s->api_keys || (o->cors_origin && !s->cors_origin)) return err_set(err, ERR_MEMORY, "out of memory for the server");
    for (int i = 0; i < o->api_key_count; i++) {
        if (!o->api_keys[i] || !o->api_keys[i][0]) return err_set(err, ERR_ARGUMENT, "API key %d is empty", i + 1);
        if (!(s->api_keys[s->api_key_count] = strdup(o->api_keys[i]))) return err_set(err, ERR_MEMORY, "out of memory for the API keys");
        s->api_key_count++;
    }
    if (!strcmp(s->host, "localhost")) strcpy(s->host, "127.0.0.1");
    struct in6_addr six;
    struct in_addr four;
    bool v6 = inet_pton(AF_INET6, s->host, &six) == 1;
    if (!v6 && inet_pton(AF_INET, s->host, &four) != 1)
        return err_set(err, ERR_ARGUMENT, "host '%s' is no IP address (127.0.0.1 for this machine only, 0.0.0.0 for every network)", s->host);
    s->loopback = v6 ? IN6_IS_ADDR_LOOPBACK(&six) : (ntohl(four.s_addr) >> 24) == 127;
    return 0;
}

static void *serve(void *arg) {
    struct http_server *s = arg;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        bool stop = s->stopping;
        pthread_mutex_unlock(&s->lock);
        if (stop || s->lws->lws_service(s->context, 0) < 0) break;
    }
    return NULL;
}

/* Can this address be listened on? libwebsockets says only that it failed. */
static int try_port(struct http_server *s, int port, struct err *err) {
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    bool v6 = inet_pton(AF_INET6, s->host, &six.sin6_addr) == 1;
    inet_pton(AF_INET, s->host, &four.sin_addr);
    int one = 1, fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return err_set(err, ERR_IO, "cannot open a socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    int r = v6 ? bind(fd, (struct sockaddr *)&six, sizeof six) : bind(fd, (struct sockaddr *)&four, sizeof four);
    if (!r) r = listen(fd, 1);
    int why = errno;
    close(fd);
    return r ? err_set(err, ERR_IO, "cannot listen on %s port %d: %s", s->host, port, strerror(why)) : 0;
}

static int listen_on(struct http_server *s, const struct http_options *o, struct lws_context_creation_info *info, struct err *err) {
    int tries = o->port && o->port_tries > 1 ? o->port_tries : 1, r = ERR_IO;
    bool any = !strcmp(s->host, "0.0.0.0"), v6 = strchr(s->host, ':') != NULL;
    for (int i = 0; i < tries && o->port + i <= 65535; i++) {
        struct err why = {0};
        if ((r = try_port(s, o->port + i, &why))) {
            if (i == 0 && err) *err = why;
            continue;
        }
        info->port = o->port + i;
        info->iface = any ? NULL : s->host;
        if (!v6) info->options |= LWS_SERVER_OPTION_DISABLE_IPV6;
        s->vhost = s->lws->lws_create_vhost(s->context, info);
        if (!s->vhost) {
            r = err_set(err, ERR_IO, "cannot listen on %s port %d", s->host, o->port + i);
            continue;
        }
        s->port = o->port ? o->port + i : s->lws->lws_get_vhost_listen_port(s->vhost);
        snprintf(s->url, sizeof s->url, v6 ? "http://[%s]:%d" : "http://%s:%d", any ? "127.0.0.1" : s->host, s->port);
        return 0;
    }
    return r;
}

int http_start(const struct http_options *o, struct http_server **out, struct err *err) {
    const struct lws_library *lws = lws_library(err);
    *out = NULL;
    if (!lws) return ERR_MISSING;
    if (o->port < 0 || o->port > 65535) return err_set(err, ERR_ARGUMENT, "port %d: expected 0 to 65535", o->port);
    struct http_server *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ERR_MEMORY, "out of memory for the server");
    s->lws = lws;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->room, NULL);
    int r = copy_options(s, o, err);
    if (!r) {
        s->protocols[0] = (struct lws_protocols){.name = "http", .callback = http_callback, .rx_buffer_size = 64 << 10};
        s->idle_policy = (lws_retry_bo_t){.secs_since_valid_ping = 30, .secs_since_valid_hangup = 60};
        struct lws_context_creation_info info = {
            .port = CONTEXT_PORT_NO_LISTEN, .protocols = s->protocols, .user = s, .options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS,
            .gid = -1, .uid = -1, .pt_serv_buf_size = WRITE_PIECE, .max_http_header_data2 = 16 << 10,
            .max_http_header_pool2 = (unsigned)s->max_connections + 8, .fd_limit_per_thread = (unsigned)s->max_connections + 32,
            .keepalive_timeout = s->idle_seconds, .timeout_secs = (unsigned)s->receive_seconds,
            .timeout_secs_ah_idle = (unsigned)s->receive_seconds, .retry_and_idle_policy = &s->idle_policy, .vhost_name = "default"};
        s->context = lws->lws_create_context(&info);
        if (!s->context) r = err_set(err, ERR_IO, "libwebsockets could not start");
        info.options = 0;
        if (!r) r = listen_on(s, o, &info, err);
    }
    if (!r) {
        s->own_sockets = s->sockets;
        pthread_mutex_lock(&s->lock); /* the thread must see its own id in s->thread */
        s->thread_runs = pthread_create(&s->thread, NULL, serve, s) == 0;
        pthread_mutex_unlock(&s->lock);
        if (!s->thread_runs) r = err_set(err, ERR_MEMORY, "cannot start the server's thread");
    }
    if (r) {
        http_stop(s);
        return r;
    }
    *out = s;
    return 0;
}

int http_port(const struct http_server *s) { return s->port; }
const char *http_url(const struct http_server *s) { return s->url; }

void http_drain(struct http_server *s) {
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    pthread_mutex_unlock(&s->lock);
}

int http_pending(const struct http_server *s) {
    pthread_mutex_t *lock = (pthread_mutex_t *)&s->lock;
    pthread_mutex_lock(lock);
    int n = s->pending;
    pthread_mutex_unlock(lock);
    return n;
}

void http_count(struct http_server *s, struct http_counts *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->counts;
    out->connections = s->sockets - s->own_sockets;
    pthread_mutex_unlock(&s->lock);
}

void http_stop(struct http_server *s) {
    if (!s) return;
    if (s->thread_runs) {
        pthread_mutex_lock(&s->lock);
        s->stopping = true;
        s->wake_pending = false;
        server_wake(s);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    if (s->context) s->lws->lws_context_destroy(s->context);
    for (struct http_exchange *x = s->woken, *after; x; x = after) {
        after = x->next_woken;
        if (x->ended) exchange_free(x);
    }
    for (size_t i = 0; i < s->route_count; i++) {
        free(s->routes[i]->method);
        free(s->routes[i]->path);
        if (s->routes[i]->owns_user) free(s->routes[i]->user);
        free(s->routes[i]);
    }
    for (struct http_ws *w = s->websockets, *after; w; w = after) {
        after = w->next;
        ws_free(w);
    }
    for (int i = 0; i < s->api_key_count; i++) free(s->api_keys[i]);
    free(s->api_keys);
    free(s->routes);
    free(s->host);
    free(s->cors_origin);
    pthread_cond_destroy(&s->room);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
