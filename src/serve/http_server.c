/* Starting, stopping, routes, and the service thread: an epoll loop.
 *
 * Why not libwebsockets, which was tried first (4.1.6, Debian 12): a request sent ahead while an earlier one is still being answered
 * is parsed into the live transaction and ends in an endless loop of the service thread; an unknown Upgrade makes it read freed
 * memory (CVE-2025-11677). Both are open to anyone who can connect. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
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
        for (const char *v = p[n] == '=' ? p + n + 1 : ""; *v && *v != '&' && k + 1 < size; v++) {
            if (*v == '%' && isxdigit((unsigned char)v[1]) && isxdigit((unsigned char)v[2])) {
                out[k++] = (char)strtol((char[]){v[1], v[2], 0}, NULL, 16);
                v += 2;
            } else
                out[k++] = *v == '+' ? ' ' : *v;
        }
        out[k] = 0;
        return true;
    }
    return false;
}

/* ---- options ---- */

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

/* ---- the service thread ---- */

/* Of what the event loop watches, the two that are no connection. */
static char listener_tag, event_tag;

static void accept_all(struct http_server *s) {
    for (int i = 0; i < 64; i++) { /* then it is the others' turn */
        struct sockaddr_storage a;
        socklen_t n = sizeof a;
        int fd = accept4(s->listener, (struct sockaddr *)&a, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
            s->listening = false; /* until the next look at the clock */
            epoll_ctl(s->poll, EPOLL_CTL_DEL, s->listener, NULL);
        }
        if (fd < 0) return;
        char peer[48] = "";
        if (a.ss_family == AF_INET) inet_ntop(AF_INET, &((struct sockaddr_in *)&a)->sin_addr, peer, sizeof peer);
        else inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&a)->sin6_addr, peer, sizeof peer);
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        static const char full[] = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        if (s->open >= s->max_connections) {
            atomic_fetch_add(&s->refused, 1);
            send(fd, full, sizeof full - 1, MSG_NOSIGNAL);
            close(fd);
        } else if (conn_new(s, fd, peer)) {
            close(fd);
        } else
            atomic_fetch_add(&s->accepted, 1);
    }
}

static void on_event(struct http_conn *c, unsigned events) {
    if (c->state == CONN_CLOSED) return;
    if (events & EPOLLOUT) {
        pthread_mutex_lock(&c->lock);
        bool broken = conn_flush(c) != 0;
        if (c->state == CONN_WEBSOCKET && !broken) ws_pump(c);
        if (c->state == CONN_LINGER && !broken && c->out.len == 0) {
            shutdown(c->fd, SHUT_WR);
            c->since = clock_seconds();
        }
        bool resume = c->paused && c->out.len == 0;
        if (resume) {
            c->paused = false;
            c->wants_read = true;
            c->since = clock_seconds();
            conn_watch(c);
        }
        pthread_mutex_unlock(&c->lock);
        if (broken) {
            conn_close(c);
            return;
        }
        if (resume) conn_advance(c);
        if (c->state == CONN_CLOSED) return;
    }
    if (events & EPOLLIN) conn_readable(c);
    else if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) conn_close(c);
}

static struct http_conn *next_kicked(struct http_server *s) {
    pthread_mutex_lock(&s->kick_lock);
    struct http_conn *c = s->kicked;
    if (c) {
        s->kicked = c->next_kicked;
        c->kicked = false;
    }
    pthread_mutex_unlock(&s->kick_lock);
    return c;
}

/* What other threads have answered, and what is closed. */
static void look_at_kicked(struct http_server *s) {
    for (struct http_conn *c; (c = next_kicked(s)) != NULL;) {
        pthread_mutex_lock(&c->lock); /* whoever kicked has let go */
        bool held = c->x.held;
        pthread_mutex_unlock(&c->lock);
        if (c->state != CONN_CLOSED) conn_advance(c);
        else if (!held) conn_free(c);
    }
}

static void check_time(struct http_server *s, double now) {
    for (struct http_conn *c = s->connections, *after; c; c = after) {
        after = c->next;
        conn_check_time(c, now);
    }
    if (s->listening) return;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &listener_tag};
    s->listening = epoll_ctl(s->poll, EPOLL_CTL_ADD, s->listener, &e) == 0;
}

static void *serve(void *arg) {
    struct http_server *s = arg;
    struct epoll_event events[256];
    pthread_mutex_lock(&s->lock); /* s->thread is known */
    pthread_mutex_unlock(&s->lock);
    double looked = clock_seconds();
    while (!s->stopping) {
        int n = epoll_wait(s->poll, events, 256, 500);
        for (int i = 0; i < n; i++) {
            void *what = events[i].data.ptr;
            uint64_t count;
            if (what == &listener_tag) accept_all(s);
            else if (what != &event_tag) on_event(what, events[i].events);
            else if (read(s->event, &count, sizeof count) < 0) continue;
        }
        look_at_kicked(s);
        double now = clock_seconds();
        if (now - looked < 0.5) continue;
        looked = now;
        check_time(s, now);
    }
    return NULL;
}

/* ---- life ---- */

static int listen_at(struct http_server *s, int port, struct err *err) {
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    bool v6 = inet_pton(AF_INET6, s->host, &six.sin6_addr) == 1;
    inet_pton(AF_INET, s->host, &four.sin_addr);
    int one = 1, fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return err_set(err, ERR_IO, "cannot open a socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    int r = v6 ? bind(fd, (struct sockaddr *)&six, sizeof six) : bind(fd, (struct sockaddr *)&four, sizeof four);
    if (!r) r = listen(fd, 1024);
    socklen_t n = v6 ? sizeof six : sizeof four;
    if (!r) r = getsockname(fd, v6 ? (struct sockaddr *)&six : (struct sockaddr *)&four, &n);
    if (r) {
        int why = errno;
        close(fd);
        return err_set(err, ERR_IO, "cannot listen on %s port %d: %s", s->host, port, strerror(why));
    }
    s->listener = fd;
    s->port = ntohs(v6 ? six.sin6_port : four.sin_port);
    const char *host = !strcmp(s->host, "0.0.0.0") ? "127.0.0.1" : !strcmp(s->host, "::") ? "::1" : s->host;
    snprintf(s->url, sizeof s->url, v6 ? "http://[%s]:%d" : "http://%s:%d", host, s->port);
    return 0;
}

static int listen_on(struct http_server *s, const struct http_options *o, struct err *err) {
    int tries = o->port && o->port_tries > 1 ? o->port_tries : 1, r = ERR_IO;
    for (int i = 0; i < tries && o->port + i <= 65535; i++) {
        struct err why = {0};
        if (!(r = listen_at(s, o->port + i, &why))) return 0;
        if (i == 0 && err) *err = why;
    }
    return r;
}

static int open_loop(struct http_server *s, struct err *err) {
    s->poll = epoll_create1(EPOLL_CLOEXEC);
    s->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event l = {.events = EPOLLIN, .data.ptr = &listener_tag}, e = {.events = EPOLLIN, .data.ptr = &event_tag};
    if (s->poll < 0 || s->event < 0 || epoll_ctl(s->poll, EPOLL_CTL_ADD, s->listener, &l) ||
        epoll_ctl(s->poll, EPOLL_CTL_ADD, s->event, &e))
        return err_set(err, ERR_IO, "cannot watch sockets: %s", strerror(errno));
    s->listening = true;
    return 0;
}

int http_start(const struct http_options *o, struct http_server **out, struct err *err) {
    *out = NULL;
    if (o->port < 0 || o->port > 65535) return err_set(err, ERR_ARGUMENT, "port %d: expected 0 to 65535", o->port);
    struct http_server *s = calloc(1, sizeof *s);
    if (!s) return err_set(err, ERR_MEMORY, "out of memory for the server");
    s->listener = s->poll = s->event = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->kick_lock, NULL);
    int r = copy_options(s, o, err);
    if (!r) r = listen_on(s, o, err);
    if (!r) r = open_loop(s, err);
    if (!r) {
        pthread_mutex_lock(&s->lock);
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
bool http_is_loopback(const struct http_server *s) { return s->loopback; }

void http_drain(struct http_server *s) { s->draining = true; }
int http_pending(const struct http_server *s) { return s->pending; }

void http_count(struct http_server *s, struct http_counts *out) {
    *out = (struct http_counts){.connections = s->open, .websockets = s->open_websockets, .accepted = s->accepted,
                                .refused = s->refused, .requests = s->requests, .bytes_in = s->bytes_in, .bytes_out = s->bytes_out};
}

void http_stop(struct http_server *s) {
    if (!s) return;
    s->stopping = true;
    uint64_t one = 1;
    if (s->thread_runs && write(s->event, &one, sizeof one) == sizeof one) pthread_join(s->thread, NULL);
    s->thread = pthread_self();
    while (s->connections) conn_close(s->connections);
    look_at_kicked(s);
    if (s->listener >= 0) close(s->listener);
    if (s->poll >= 0) close(s->poll);
    if (s->event >= 0) close(s->event);
    for (size_t i = 0; i < s->route_count; i++) {
        free(s->routes[i]->method);
        free(s->routes[i]->path);
        if (s->routes[i]->owns_user) free(s->routes[i]->user);
        free(s->routes[i]);
    }
    for (struct http_ws *w = s->websockets, *after; w; w = after) {
        after = w->next;
        free(w->path);
        free(w);
    }
    for (int i = 0; i < s->api_key_count; i++) free(s->api_keys[i]);
    free(s->api_keys);
    free(s->routes);
    free(s->host);
    free(s->cors_origin);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->kick_lock);
    free(s);
}
