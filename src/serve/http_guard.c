/* Who may ask for what: host names, origins, keys, routes. A server on loopback has no key by default; what keeps other sites'
 * pages out of it is that their requests carry a foreign Origin, and, after DNS rebinding, a foreign Host. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "serve/http_room.h"

/* Bytes of the name in "name:port" or "[v6]:port". */
static size_t name_length(const char *host) {
    if (host[0] == '[') {
        const char *end = strchr(host, ']');
        return end ? (size_t)(end - host) + 1 : strlen(host);
    }
    return strcspn(host, ":");
}

static bool is_loopback_name(const char *name, size_t n) {
    if (n == 9 && !strncasecmp(name, "localhost", 9)) return true;
    if (n == 5 && !strncmp(name, "[::1]", 5)) return true;
    if (n < 7 || n > 15 || strncmp(name, "127.", 4)) return false;
    return strspn(name, "0123456789.") >= n;
}

bool http_host_allowed(const struct http_server *s, const char *host) {
    if (!s->loopback || s->any_name || !host[0]) return true; /* no Host: HTTP/1.0, which no browser speaks */
    return is_loopback_name(host, name_length(host));
}

bool http_origin_allowed(const struct http_server *s, const char *origin, const char *host) {
    if (!origin[0]) return true;
    if (s->cors_origin && (!strcmp(s->cors_origin, "*") || !strcasecmp(s->cors_origin, origin))) return true;
    const char *at = strstr(origin, "://");
    return at && host[0] && !strcasecmp(at + 3, host);
}

/* Compares in a time that does not tell how much of the key was right. */
static bool same_key(const char *given, const char *key) {
    size_t n = strlen(given), k = strlen(key);
    unsigned differ = n != k;
    for (size_t i = 0; i < n; i++) differ |= (unsigned char)given[i] ^ (unsigned char)key[k ? i % k : 0];
    return k > 0 && differ == 0;
}

static bool known_key(const struct http_server *s, const char *given) {
    bool found = false;
    for (int i = 0; i < s->api_key_count; i++) found |= same_key(given, s->api_keys[i]);
    return found;
}

bool http_key_allowed(const struct http_server *s, const struct http_exchange *x) {
    if (s->api_key_count == 0) return true;
    const char *bearer = http_head_field(&x->head, "authorization");
    if (!strncasecmp(bearer, "Bearer ", 7)) {
        bearer += 7;
        while (*bearer == ' ') bearer++;
        if (known_key(s, bearer)) return true;
    }
    if (known_key(s, http_head_field(&x->head, "x-api-key")) || known_key(s, http_head_field(&x->head, "api-key"))) return true;
    char key[512]; /* a page cannot set headers on a WebSocket */
    return !strcmp(x->head.method, "GET") && http_query(&x->request, "key", key, sizeof key) && known_key(s, key);
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
        if (!(allow->data && strstr(allow->data, e->method)))
            buf_printf(allow, "%s%s%s", allow->len ? ", " : "", e->method, strcmp(e->method, "GET") ? "" : ", HEAD");
        if (strcmp(e->method, method)) continue;
        if (!best || (best->prefix && (!e->prefix || e->prefix > best->prefix))) best = e;
    }
    pthread_mutex_unlock(&s->lock);
    return best;
}

static void answer_options(struct http_exchange *x, const char *allow) {
    char methods[100];
    snprintf(methods, sizeof methods, "%s, OPTIONS", allow);
    http_header(x, "allow", methods);
    if (x->c->s->cors_origin) {
        const char *wanted = http_head_field(&x->head, "access-control-request-headers");
        http_header(x, "access-control-allow-methods", methods);
        http_header(x, "access-control-allow-headers", wanted[0] ? wanted : "authorization, content-type, x-api-key");
        http_header(x, "access-control-max-age", "600");
    }
    http_respond(x, 204, NULL, "", 0);
}

const struct http_route_entry *http_admit(struct http_server *s, struct http_exchange *x) {
    const struct http_request *r = &x->request;
    const char *host = http_head_field(&x->head, "host"), *origin = http_head_field(&x->head, "origin");
    struct buf allow = {0};
    const struct http_route_entry *route = find_route(s, r, &allow), *admitted = NULL;
    if (!http_host_allowed(s, host))
        http_error(x, 403, "permission_error", NULL, "this server listens on loopback and is not known as '%s' (see --any-host)",
                   host);
    else if (!http_origin_allowed(s, origin, host))
        http_error(x, 403, "permission_error", NULL, "pages of '%s' may not use this server (see --cors)", origin);
    else if (!allow.len)
        http_error(x, 404, "invalid_request_error", NULL, "there is no '%s' here", r->path);
    else if (!strcmp(r->method, "OPTIONS"))
        answer_options(x, allow.data);
    else if (!route) {
        http_header(x, "allow", allow.data);
        http_error(x, 405, "invalid_request_error", NULL, "'%s' knows %s, not %s", r->path, allow.data, r->method);
    } else if (!(route->flags & HTTP_PUBLIC) && !http_key_allowed(s, x)) {
        http_header(x, "www-authenticate", "Bearer");
        http_error(x, 401, "authentication_error", NULL, "this server wants an API key: 'Authorization: Bearer KEY'");
    } else if (s->draining && !(route->flags & HTTP_PUBLIC)) {
        http_header(x, "retry-after", "5");
        http_error(x, 503, "server_error", NULL, "the server is shutting down");
    } else
        admitted = route;
    buf_free(&allow);
    return admitted;
}
