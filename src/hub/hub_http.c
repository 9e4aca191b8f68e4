/* Requests to the Hub: headers we read, whose token goes where, and what each refusal means. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "hub/hub_internal.h"

void hub_answer_clear(struct hub_answer *a) {
    *a = (struct hub_answer){.length = -1, .linked_size = -1, .range_total = -1, .retry_after_s = -1};
}

static void copy_trimmed(char *out, size_t cap, const char *value, size_t n) {
    while (n && isspace((unsigned char)*value)) value++, n--;
    while (n && isspace((unsigned char)value[n - 1])) n--;
    snprintf(out, cap, "%.*s", (int)(n < cap ? n : cap - 1), value);
}

/* W/"abc" and "abc" -> abc */
static void copy_etag(char *out, size_t cap, const char *value, size_t n) {
    copy_trimmed(out, cap, value, n);
    char *s = out;
    if (!strncmp(s, "W/", 2)) s += 2;
    size_t len = strlen(s);
    if (len >= 2 && s[0] == '"' && s[len - 1] == '"') s++, len -= 2;
    memmove(out, s, len);
    out[len] = 0;
}

/* Link: <https://...>; rel="next", ... */
static void copy_next_link(char *out, size_t cap, const char *value, size_t n) {
    for (const char *p = value, *end = value + n; p < end;) {
        const char *open = memchr(p, '<', (size_t)(end - p));
        const char *close = open ? memchr(open, '>', (size_t)(end - open)) : NULL;
        if (!close) return;
        const char *stop = memchr(close, ',', (size_t)(end - close));
        if (!stop) stop = end;
        char rest[256];
        copy_trimmed(rest, sizeof rest, close + 1, (size_t)(stop - close - 1));
        if (strstr(rest, "rel=\"next\"") || strstr(rest, "rel=next")) {
            copy_trimmed(out, cap, open + 1, (size_t)(close - open - 1));
            return;
        }
        p = stop + 1;
    }
}

static size_t on_header(char *line, size_t size, size_t count, void *user) {
    struct hub_answer *a = user;
    size_t n = size * count;
    if (n >= 5 && !strncmp(line, "HTTP/", 5)) { /* a new answer (100 Continue, a proxy's CONNECT) replaces the one before */
        hub_answer_clear(a);
        return n;
    }
    const char *colon = memchr(line, ':', n);
    if (!colon) return n;
    size_t name = (size_t)(colon - line), len = n - name - 1;
    const char *value = colon + 1;
    char number[32];
#define IS(text) (name == sizeof text - 1 && !strncasecmp(line, text, name))
    if (IS("etag")) copy_etag(a->etag, sizeof a->etag, value, len);
    else if (IS("x-linked-etag")) copy_etag(a->linked_etag, sizeof a->linked_etag, value, len);
    else if (IS("x-repo-commit")) copy_trimmed(a->commit, sizeof a->commit, value, len);
    else if (IS("x-error-code")) copy_trimmed(a->error_code, sizeof a->error_code, value, len);
    else if (IS("x-error-message")) copy_trimmed(a->error_message, sizeof a->error_message, value, len);
    else if (IS("location")) copy_trimmed(a->location, sizeof a->location, value, len);
    else if (IS("link")) copy_next_link(a->link_next, sizeof a->link_next, value, len);
    else if (IS("content-length") || IS("x-linked-size") || IS("retry-after")) {
        copy_trimmed(number, sizeof number, value, len);
        char *end;
        long long v = strtoll(number, &end, 10);
        if (*number && !*end && v >= 0) {
            if (IS("content-length")) a->length = v;
            else if (IS("x-linked-size")) a->linked_size = v;
            else a->retry_after_s = v > 3600 ? 3600 : (int)v;
        }
    } else if (IS("ratelimit")) { /* "api";r=0;t=55: t is the number of seconds until the window opens again */
        char text[128];
        copy_trimmed(text, sizeof text, value, len);
        char *t = strstr(text, ";t=");
        if (t && a->retry_after_s < 0) a->retry_after_s = atoi(t + 3) > 3600 ? 3600 : atoi(t + 3);
    } else if (IS("content-range")) {
        const char *slash = memchr(value, '/', len);
        if (slash) {
            copy_trimmed(number, sizeof number, slash + 1, len - (size_t)(slash + 1 - value));
            char *end;
            long long v = strtoll(number, &end, 10);
            if (*number && !*end) a->range_total = v;
        }
    }
#undef IS
    return n;
}

CURL *hub_curl_new(const struct hub_settings *s, const char *url, struct hub_answer *answer) {
    CURL *c = curl_easy_init();
    if (!c) return NULL;
    hub_answer_clear(answer);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_USERAGENT, "pmd-agent/0.1");
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)s->head_timeout_s);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, answer);
    return c;
}

/* scheme://host:port with the default port filled in. */
static int origin_of(const char *url, char out[600]) {
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL, *port = NULL;
    int ok = -1;
    if (u && !curl_url_set(u, CURLUPART_URL, url, 0) && !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) &&
        !curl_url_get(u, CURLUPART_HOST, &host, 0) && !curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT)) {
        ok = snprintf(out, 600, "%s://%s:%s", scheme, host, port) < 600 ? 0 : -1;
        for (char *p = out; !ok && *p; p++) *p = (char)tolower((unsigned char)*p);
    }
    curl_free(scheme), curl_free(host), curl_free(port);
    curl_url_cleanup(u);
    return ok;
}

bool hub_same_origin(const char *a, const char *b) {
    char x[600], y[600];
    return !origin_of(a, x) && !origin_of(b, y) && !strcmp(x, y);
}

int hub_resolve_url(const char *base, const char *location, char out[4096]) {
    CURLU *u = curl_url();
    char *full = NULL;
    int ok = -1;
    if (u && !curl_url_set(u, CURLUPART_URL, base, 0) && !curl_url_set(u, CURLUPART_URL, location, 0) &&
        !curl_url_get(u, CURLUPART_URL, &full, 0)) {
        ok = snprintf(out, 4096, "%s", full) < 4096 ? 0 : -1;
    }
    curl_free(full);
    curl_url_cleanup(u);
    return ok;
}

struct curl_slist *hub_auth_headers(const struct hub_settings *s, const char *url, struct curl_slist *list, bool *failed) {
    if (!*s->token || !hub_same_origin(s->endpoint, url)) return list;
    char line[600];
    snprintf(line, sizeof line, "Authorization: Bearer %s", s->token);
    struct curl_slist *longer = curl_slist_append(list, line);
    if (!longer) *failed = true;
    return longer ? longer : list;
}

void hub_quote(struct buf *out, const char *text, bool keep_slash) {
    for (; *text; text++) {
        if (isalnum((unsigned char)*text) || strchr("-_.~", *text) || (keep_slash && *text == '/')) buf_char(out, *text);
        else buf_printf(out, "%%%02X", (unsigned char)*text);
    }
}

/* How hub_get's message begins when there was no HTTP answer: hub_unreachable tells it from a refusal by that. */
static const char no_answer[] = "no answer from ";

bool hub_unreachable(const struct err *err) {
    return err->code == ERR_NETWORK && !strncmp(err->message, no_answer, sizeof no_answer - 1);
}

struct body_sink {
    struct buf *body;
    size_t limit;
};

static size_t on_body(char *data, size_t size, size_t count, void *user) {
    struct body_sink *sink = user;
    size_t n = size * count;
    if (sink->body->len + n > sink->limit) return 0;
    buf_append(sink->body, data, n);
    return sink->body->failed ? 0 : n;
}

int hub_get(const struct hub_settings *s, const char *url, size_t limit, struct buf *body, struct hub_answer *answer,
            struct err *err) {
    char at[4096];
    if ((size_t)snprintf(at, sizeof at, "%s", url) >= sizeof at) return err_set(err, ERR_ARGUMENT, "URL longer than 4095 characters");
    for (int hops = 0, tries = 0;;) {
        CURL *c = hub_curl_new(s, at, answer);
        bool failed = !c;
        struct curl_slist *headers = c ? hub_auth_headers(s, at, NULL, &failed) : NULL;
        struct body_sink sink = {body, limit};
        CURLcode code = CURLE_OUT_OF_MEMORY;
        long status = 0;
        buf_clear(body);
        if (!failed) {
            curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
            curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)s->head_timeout_s * 6);
            curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 1L);
            curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)s->read_timeout_s);
            curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
            curl_easy_setopt(c, CURLOPT_WRITEDATA, &sink);
            code = curl_easy_perform(c);
            curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
        }
        curl_slist_free_all(headers);
        curl_easy_cleanup(c);
        answer->status = status;
        if (code != CURLE_OK || status == 429 || status >= 500) {
            /* Nobody there is no passing trouble: whoever is offline gets the cached model at once. */
            bool nobody = code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_RESOLVE_PROXY;
            if (!nobody && ++tries < 3) {
                double wait = status == 429 && answer->retry_after_s >= 0 ? answer->retry_after_s : s->retry_pause_s;
                if (wait <= 60) {
                    nanosleep(&(struct timespec){(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)}, NULL);
                    continue;
                }
            }
            if (code != CURLE_OK) return err_set(err, ERR_NETWORK, "%s%s: %s", no_answer, at, curl_easy_strerror(code));
            return 0;
        }
        if (status < 300 || status >= 400 || !*answer->location) return 0;
        char next[4096];
        if (++hops > 8 || hub_resolve_url(at, answer->location, next)) {
            return err_set(err, ERR_NETWORK, "%s: too many redirects or a bad Location header", url);
        }
        snprintf(at, sizeof at, "%s", next);
    }
}

int hub_refusal(const struct hub_settings *s, const struct hub_answer *a, const char *what, struct err *err) {
    const char *token = s->token_source ? s->token_source : "no token";
    if (!strcmp(a->error_code, "GatedRepo")) {
        return err_set(err, ERR_NETWORK,
                       "%s: the model is gated (HTTP %ld, %s): accept its licence at %s/%s in a browser, then use a token of that "
                       "account (HF_TOKEN)", what, a->status, token, s->endpoint, what);
    }
    if (!strcmp(a->error_code, "RevisionNotFound")) {
        return err_set(err, ERR_MISSING, "%s: the repository has no such revision (HTTP %ld): check the branch, tag or commit", what, a->status);
    }
    if (!strcmp(a->error_code, "EntryNotFound")) {
        return err_set(err, ERR_MISSING, "%s: no such file at that revision (HTTP %ld)", what, a->status);
    }
    if (a->status == 401 && strstr(a->error_message, "nvalid")) {
        return err_set(err, ERR_NETWORK, "%s: the Hub refuses the token from %s (HTTP 401: %s): make a new one at %s/settings/tokens", what,
                       token, a->error_message, s->endpoint);
    }
    if (!strcmp(a->error_code, "RepoNotFound") || a->status == 401 || a->status == 404) {
        return err_set(err, ERR_MISSING,
                       "%s: not found on %s (HTTP %ld, %s): check the spelling; a private or gated model needs a token with access (HF_TOKEN)",
                       what, s->endpoint, a->status, token);
    }
    if (a->status == 403) {
        return err_set(err, ERR_NETWORK, "%s: forbidden (HTTP 403): the token from %s lacks permission for this repository: give it read access", what, token);
    }
    if (a->status == 429) {
        return err_set(err, ERR_NETWORK, "%s: too many requests (HTTP 429): wait%s; a token (HF_TOKEN) raises the limit", what,
                       a->retry_after_s > 0 ? " until the limit's window has passed" : " a few minutes");
    }
    if (a->status >= 500) {
        return err_set(err, ERR_NETWORK, "%s: the Hub has a problem of its own (HTTP %ld): try again later; what was fetched is kept", what, a->status);
    }
    return err_set(err, ERR_NETWORK, "%s: unexpected answer from %s: HTTP %ld %s", what, s->endpoint, a->status, a->error_message);
}
