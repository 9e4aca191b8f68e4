/* The API over the bundled model, in this process on loopback, and JSON requests to it. */
#ifndef SERVE_SERVER_H
#define SERVE_SERVER_H

#include "base/arena.h"
#include "base/json.h"
#include "http_client.h"
#include "serve/api.h"

#define SERVE_MODEL "models/tinywoods-vl"

struct serve_server {
    struct http_server *http;
    struct api *api;
    int port;
};

static inline void serve_start(struct serve_server *s, const struct http_options *h, const struct api_options *o) {
    struct err err = {0};
    struct api_options options = *o;
    options.model_name = "tinywoods";
    if (http_start(h, &s->http, &err) || api_start(s->http, &options, &s->api, &err)) fail_msg("%s", err.message);
    s->port = http_port(s->http);
}

static inline void serve_stop(struct serve_server *s) {
    api_stop(s->api);
    http_stop(s->http);
    api_free(s->api);
}

static inline struct qvl_model *serve_load(void) {
    struct err err = {0};
    struct qvl_model *m;
    struct qvl_options o = {.threads = 2, .kv_bytes = 32 << 20};
    if (qvl_load(SERVE_MODEL, &o, &m, &err)) fail_msg("%s", err.message);
    return m;
}

/* An answer and its JSON. */
struct reply {
    int status;
    struct http_answer raw;
    struct arena arena;
    const struct json *json; /* NULL: none */
};

static inline struct reply reply_to(int port, const char *method, const char *path, const char *body) {
    struct reply r = {.raw = http_ask(port, method, path, NULL, body)};
    struct err err;
    r.status = r.raw.status;
    if (r.raw.body.len && r.raw.body.data[0] == '{') r.json = json_parse(r.raw.body.data, r.raw.body.len, "answer", &r.arena, &err);
    return r;
}
static inline void reply_free(struct reply *r) {
    answer_free(&r->raw);
    arena_free(&r->arena);
}

/* Follows "choices.0.message.content" through a document; NULL where it ends early. */
static inline const struct json *json_at(const struct json *v, const char *path) {
    char part[64];
    while (v && *path) {
        size_t n = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        if (v->type == JSON_ARRAY) v = (uint32_t)atoi(part) < v->count ? v->items[atoi(part)] : NULL;
        else v = json_get(v, part);
        path += n + (path[n] == '.');
    }
    return v;
}
static inline const char *text_at(const struct json *v, const char *path) { return json_as_string(json_at(v, path), "(absent)"); }
static inline long number_at(const struct json *v, const char *path) { return (long)json_as_integer(json_at(v, path), -999); }

/* The events of a streamed answer, each without "data: ", as JSON; returns their number and whether "[DONE]" was the last. */
enum { MAX_EVENTS = 4096 };
static inline int stream_events(struct reply *r, const struct json **events, bool *done) {
    int n = 0;
    struct err err = {0};
    *done = false;
    for (char *at = r->raw.body.data; at && *at;) {
        char *end = strstr(at, "\n\n");
        assert_non_null(end);
        assert_int_equal(strncmp(at, "data: ", 6), 0);
        assert_false(*done);
        *end = 0;
        if (!strcmp(at + 6, "[DONE]")) *done = true;
        else {
            assert_true(n < MAX_EVENTS);
            events[n] = json_parse(at + 6, strlen(at + 6), "event", &r->arena, &err);
            if (!events[n++]) fail_msg("%s: %s", err.message, at);
        }
        at = end + 2;
    }
    return n;
}

/* The value of a metric that has no labels; -1 when it is not there. */
static inline double metric(int port, const char *name) {
    struct http_answer a = http_ask(port, "GET", "/metrics", NULL, NULL);
    char line[100];
    snprintf(line, sizeof line, "\n%s ", name);
    const char *at = strstr(a.body.data, line);
    double v = at ? strtod(at + strlen(line), NULL) : -1;
    answer_free(&a);
    return v;
}

#endif
