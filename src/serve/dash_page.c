/* The page's files as routes: packed once at build time, with an ETag, and with headers that let the page talk to nobody but us. */
#include <stdio.h>
#include <string.h>

#include "serve/dash_room.h"

void dash_safe_headers(struct http_exchange *x) {
    http_header(x, "content-security-policy",
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
                "form-action 'none'; frame-ancestors 'none'");
    http_header(x, "referrer-policy", "no-referrer");
    http_header(x, "cross-origin-resource-policy", "same-origin");
}

static void answer_asset(void *user, struct http_exchange *x) {
    const struct dash_asset *a = user;
    char etag[32];
    uint64_t hash = 14695981039346656037u; /* FNV-1a over some tens of KB: nothing beside the answer itself */
    for (const unsigned char *p = a->data; p < a->end; p++) hash = (hash ^ *p) * 1099511628211u;
    snprintf(etag, sizeof etag, "\"%016llx\"", (unsigned long long)hash);
    dash_safe_headers(x);
    http_header(x, "etag", etag);
    http_header(x, "cache-control", "no-cache");
    if (strstr(http_request(x)->if_none_match, etag)) {
        http_respond(x, 304, NULL, "", 0);
        return;
    }
    http_header(x, "content-encoding", "gzip");
    http_respond(x, 200, a->content_type, a->data, (size_t)(a->end - a->data));
}

int dash_add_pages(struct http_server *s, struct err *err) {
    int code = 0;
    for (int i = 0; i < dash_asset_count && !code; i++) {
        code = http_route(s, "GET", dash_assets[i].path, HTTP_PUBLIC, answer_asset, (void *)&dash_assets[i], err);
    }
    return code;
}
