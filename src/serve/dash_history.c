/* What was: rows of all steps, the newest steps whole, and the routes that hand them out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/dash_room.h"

enum { ROWS_AT_ONCE = 20000 };

int dash_keep_row(struct dash *d, int game, const struct dash_row *row) {
    struct dash_game *g = &d->games[game];
    if (g->count == g->cap) {
        uint32_t cap = g->cap ? g->cap * 2 : 256;
        struct dash_row *more = realloc(g->rows, cap * sizeof *more);
        if (!more) return -1;
        g->rows = more;
        g->cap = cap;
    }
    g->rows[g->count++] = *row;
    return 0;
}

int dash_add_row(struct dash *d, int game, const struct dash_row *row) {
    pthread_mutex_lock(&d->lock);
    int code = dash_keep_row(d, game, row);
    pthread_mutex_unlock(&d->lock);
    return code;
}

void dash_keep_step(struct dash *d, int game, uint32_t index, const struct buf *json, const uint8_t *rgb, uint64_t frame) {
    struct dash_game *g = &d->games[game];
    if (!g->kept && !(g->kept = calloc(d->kept, sizeof *g->kept))) return;
    struct dash_kept *k = &g->kept[index % d->kept];
    k->index = index;
    buf_clear(&k->json);
    buf_clear(&k->picture);
    buf_append(&k->json, json->data, json->len);
    if (rgb) dash_pack_picture(rgb, game, frame, &k->picture);
}

void dash_free_history(struct dash *d) {
    for (int i = 0; i < DASH_GAMES; i++) {
        struct dash_game *g = &d->games[i];
        for (uint32_t k = 0; g->kept && k < d->kept; k++) {
            buf_free(&g->kept[k].json);
            buf_free(&g->kept[k].picture);
        }
        free(g->kept);
        free(g->rows);
        free(g->last);
        buf_free(&g->packed);
    }
}

/* ---- routes ---- */

static bool take_number(const struct http_exchange *x, const char *name, long long max, long long otherwise, long long *out) {
    char text[24], *end;
    if (!http_query(http_request(x), name, text, sizeof text)) return *out = otherwise, otherwise >= 0;
    *out = strtoll(text, &end, 10);
    return *text && !*end && *out >= 0 && *out <= max;
}

static bool take_place(struct dash *d, struct http_exchange *x, long long *game, long long *index) {
    int games = d->options.games;
    if (!take_number(x, "game", games - 1, 0, game)) {
        http_error(x, 400, "invalid_request_error", "game", "game: expected a number from 0 to %d", games - 1);
        return false;
    }
    pthread_mutex_lock(&d->lock);
    uint32_t count = d->games[*game].count;
    pthread_mutex_unlock(&d->lock);
    if (!index) return true;
    if (take_number(x, "index", (long long)count - 1, -1, index)) return true;
    if (count) http_error(x, 400, "invalid_request_error", "index", "index: expected a number from 0 to %u", count - 1);
    else http_error(x, 404, "invalid_request_error", "index", "game %lld has no step yet", *game);
    return false;
}

static void put_row(struct buf *b, const struct dash_row *r) {
    buf_printf(b, "[%u,%u,%d,%d,%d,%d,%.4g,%.4g,%.4g,%.4g,%.4g,%.4g,%.4g,%d,%d,%d,", r->episode, r->step, r->floor, r->hp, r->max_hp, r->belly,
               (double)r->confidence, (double)r->total_ms, (double)r->ask_ms, (double)r->image_ms, (double)r->prefill_ms, (double)r->generate_ms,
               (double)r->emulator_ms, r->prompt_tokens, r->cached_tokens, r->answer_tokens);
    buf_json_string(b, r->decided_by, strlen(r->decided_by));
    buf_char(b, ',');
    buf_json_string(b, r->action, strlen(r->action));
    buf_char(b, ']');
}

/* /api/history?game=G&from=N: at most ROWS_AT_ONCE rows from N on. */
static void answer_history(void *user, struct http_exchange *x) {
    struct dash *d = user;
    struct buf b = {0};
    long long game, from;
    dash_safe_headers(x);
    if (!take_place(d, x, &game, NULL)) return;
    if (!take_number(x, "from", UINT32_MAX, 0, &from)) {
        http_error(x, 400, "invalid_request_error", "from", "from: expected a number from 0");
        return;
    }
    pthread_mutex_lock(&d->lock);
    const struct dash_game *g = &d->games[game];
    buf_printf(&b, "{\"game\":%lld,\"from\":%lld,\"count\":%u,\"columns\":[\"episode\",\"step\",\"floor\",\"hp\",\"max_hp\",\"belly\",\"confidence\",\"total_ms\","
               "\"ask_ms\",\"image_ms\",\"prefill_ms\",\"generate_ms\",\"emulator_ms\",\"prompt_tokens\",\"cached_tokens\",\"answer_tokens\","
               "\"decided_by\",\"action\"],\"rows\":[", game, from, g->count);
    for (long long i = from; i < g->count && i < from + ROWS_AT_ONCE; i++) {
        if (i > from) buf_char(&b, ',');
        put_row(&b, &g->rows[i]);
    }
    pthread_mutex_unlock(&d->lock);
    buf_str(&b, "]}");
    if (b.failed) http_error(x, 500, "server_error", NULL, "out of memory");
    else http_respond(x, 200, "application/json", b.data, b.len);
    buf_free(&b);
}

static void answer_kept(struct dash *d, struct http_exchange *x, bool picture) {
    long long game, index;
    struct buf copy = {0};
    dash_safe_headers(x);
    if (!take_place(d, x, &game, &index)) return;
    if (d->options.fetch) {
        d->options.fetch(d->options.fetch_user, x, (int)game, (uint32_t)index, picture);
        return;
    }
    pthread_mutex_lock(&d->lock);
    const struct dash_game *g = &d->games[game];
    const struct dash_kept *k = g->kept ? &g->kept[index % d->kept] : NULL;
    const struct buf *from = !k || k->index != index ? NULL : picture ? &k->picture : &k->json;
    if (from && from->len) buf_append(&copy, from->data, from->len);
    pthread_mutex_unlock(&d->lock);
    if (copy.len) http_respond(x, 200, picture ? "application/octet-stream" : "application/json", copy.data, copy.len);
    else http_error(x, 404, "invalid_request_error", "index", "step %lld is no longer kept (the newest %u are); view the run to see it", index, d->kept);
    buf_free(&copy);
}

static void answer_step(void *user, struct http_exchange *x) { answer_kept(user, x, false); }
static void answer_picture(void *user, struct http_exchange *x) { answer_kept(user, x, true); }

int dash_add_history(struct dash *d, struct err *err) {
    int code = http_route(d->http, "GET", "/api/history", 0, answer_history, d, err);
    if (!code) code = http_route(d->http, "GET", "/api/step", 0, answer_step, d, err);
    if (!code) code = http_route(d->http, "GET", "/api/picture", 0, answer_picture, d, err);
    return code;
}

void dash_answer_step(struct http_exchange *x, int game, uint32_t index, const char *json, const struct world *w, const struct world_seen *seen) {
    struct buf b = {0};
    dash_put_step(&b, game, index, json, w, seen);
    if (b.failed) http_error(x, 500, "server_error", NULL, "out of memory");
    else http_respond(x, 200, "application/json", b.data, b.len);
    buf_free(&b);
}

void dash_answer_picture(struct http_exchange *x, int game, const uint8_t *rgb, uint64_t frame) {
    struct buf b = {0};
    dash_pack_picture(rgb, game, frame, &b);
    if (b.failed) http_error(x, 500, "server_error", NULL, "out of memory");
    else http_respond(x, 200, "application/octet-stream", b.data, b.len);
    buf_free(&b);
}
