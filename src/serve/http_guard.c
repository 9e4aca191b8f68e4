/* Who may ask: host names, origins, keys. A server on loopback has no key by default; what keeps other sites' pages out of it is
 * that their requests carry a foreign Origin, and, after DNS rebinding, a foreign Host. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "serve/http_room.h"

const char *http_header_in(const struct http_server *s, struct lws *wsi, enum lws_token_indexes token, struct arena *a) {
    int n = s->lws->lws_hdr_total_length(wsi, token);
    if (n <= 0) return "";
    char *out = arena_alloc(a, (size_t)n + 8);
    if (!out) return NULL;
    int k = s->lws->lws_hdr_copy(wsi, out, n + 8, token);
    out[k > 0 ? k : 0] = 0;
    return out;
}

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

bool http_key_allowed(const struct http_server *s, struct lws *wsi, const struct http_request *r, struct arena *a) {
    if (s->api_key_count == 0) return true;
    const char *value = http_header_in(s, wsi, WSI_TOKEN_HTTP_AUTHORIZATION, a);
    if (value && !strncasecmp(value, "Bearer ", 7)) {
        value += 7;
        while (*value == ' ') value++;
        if (known_key(s, value)) return true;
    }
    static const char *const names[] = {"x-api-key:", "api-key:"};
    for (int i = 0; i < 2; i++) {
        int k = (int)strlen(names[i]), n = s->lws->lws_hdr_custom_length(wsi, names[i], k);
        char *out = n > 0 ? arena_alloc(a, (size_t)n + 2) : NULL;
        if (out && s->lws->lws_hdr_custom_copy(wsi, out, n + 1, names[i], k) >= 0 && known_key(s, out)) return true;
    }
    char key[512]; /* a page cannot set headers on a WebSocket */
    return !strcmp(r->method, "GET") && http_query(r, "key", key, sizeof key) && known_key(s, key);
}
