/* Opening, closing, and what the source publishes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "serve/dash_room.h"

static int start(struct dash *d, struct err *err) {
    const struct dash_options *o = &d->options;
    struct http_options http = {.host = o->host, .port = o->any_port ? 0 : o->port ? o->port : DASH_PORT, .max_body = o->shared ? 0 : 1 << 16, .max_connections = o->shared ? 0 : 128,
                                .port_tries = o->any_port ? 1 : o->port_tries ? o->port_tries : o->port ? 1 : DASH_PORT_TRIES};
    struct http_ws_options live = {.path = "/live", .max_message = 4096, .queue_bytes = 4 << 20, .opened = dash_client_opened,
                                   .message = dash_client_message, .closed = dash_client_closed, .user = d};
    int code = http_start(&http, &d->http, err);
    if (!code) code = dash_add_pages(d->http, err);
    if (!code) code = dash_add_history(d, err);
    if (!code) code = http_websocket(d->http, &live, &d->live, err);
    if (!code) snprintf(d->url, sizeof d->url, "%.120s/", http_url(d->http));
    return code;
}

int dash_open(const struct dash_options *o, struct dash **out, struct err *err) {
    *out = NULL;
    if (o->games < 0 || o->games > DASH_GAMES) return err_set(err, ERR_LIMIT, "the dashboard shows at most %d games, not %d", DASH_GAMES, o->games);
    struct dash *d = calloc(1, sizeof *d);
    if (!d) return err_set(err, ERR_MEMORY, "out of memory for the dashboard");
    pthread_mutex_init(&d->lock, NULL);
    d->options = *o;
    if (!d->options.games) d->options.games = 1;
    d->kept = d->options.games <= 4 ? DASH_KEPT : d->options.games <= 32 ? DASH_KEPT / 8 : DASH_KEPT / 64;
    d->title = strdup(o->title ? o->title : "");
    d->about = o->about ? strdup(o->about) : NULL;
    d->cpu_at = clock_seconds();
    int code = !d->title || (o->about && !d->about) ? err_set(err, ERR_MEMORY, "out of memory for the dashboard") : start(d, err);
    if (code) {
        dash_close(d);
        return code == err->code ? err_context(err, "the dashboard") : code;
    }
    *out = d;
    return 0;
}

void dash_close(struct dash *d) {
    if (!d) return;
    if (d->http) http_stop(d->http);
    dash_free_history(d);
    pthread_mutex_destroy(&d->lock);
    free(d->title);
    free(d->about);
    free(d);
}

const char *dash_url(const struct dash *d) { return d->url; }
struct http_server *dash_server(const struct dash *d) { return d->http; }

int dash_looks(const struct dash *d, int game) { return atomic_load_explicit(&d->games[game].looks, memory_order_relaxed); }

/* ---- what the source publishes ---- */

void dash_token(struct dash *d, int game, const char *text, size_t n, float probability, bool forced) {
    if (!dash_looks(d, game)) return;
    struct buf b = {0};
    buf_printf(&b, "{\"type\":\"token\",\"game\":%d,\"text\":", game);
    buf_json_string(&b, text, n);
    if (probability >= 0) buf_printf(&b, ",\"p\":%.4g", (double)probability);
    buf_str(&b, forced ? ",\"forced\":true}" : "}");
    pthread_mutex_lock(&d->lock);
    if (!b.failed) dash_send_lookers(d, game, false, 0, b.data, b.len, false);
    pthread_mutex_unlock(&d->lock);
    buf_free(&b);
    dash_status(d, false);
}

void dash_show_step(struct dash *d, int game, uint32_t index, const char *json, const struct world *w, const struct world_seen *seen) {
    if (!dash_looks(d, game)) return;
    struct buf b = {0};
    dash_put_step(&b, game, index, json, w, seen);
    pthread_mutex_lock(&d->lock);
    if (!b.failed) dash_send_lookers(d, game, false, STEP_STREAM + game, b.data, b.len, true);
    pthread_mutex_unlock(&d->lock);
    buf_free(&b);
    dash_status(d, false);
}

void dash_world(struct dash *d, int game, const struct world *w, const struct world_seen *seen) {
    if (dash_looks(d, game) < 2) return;
    struct buf b = {0};
    dash_put_world(&b, game, w, seen);
    pthread_mutex_lock(&d->lock);
    if (!b.failed) dash_send_lookers(d, game, false, WORLD_STREAM + game, b.data, b.len, false);
    pthread_mutex_unlock(&d->lock);
    buf_free(&b);
}

void dash_step(struct dash *d, int game, const struct dash_row *row, const char *json, const struct world *w, const struct world_seen *seen,
               const uint8_t *rgb) {
    struct buf b = {0};
    pthread_mutex_lock(&d->lock);
    struct dash_game *g = &d->games[game];
    uint32_t index = g->count;
    if (dash_keep_row(d, game, row) == 0) {
        dash_put_step(&b, game, index, json, w, seen);
        if (!b.failed) {
            dash_keep_step(d, game, index, &b, rgb, 0);
            dash_send_lookers(d, game, false, STEP_STREAM + game, b.data, b.len, true);
        }
    }
    pthread_mutex_unlock(&d->lock);
    buf_free(&b);
    dash_status(d, false);
}

void dash_episode(struct dash *d, int game, const char *event, const char *details) {
    struct buf b = {0};
    buf_printf(&b, "{\"type\":\"episode\",\"game\":%d,\"event\":\"%s\",\"details\":%s}", game, event, details ? details : "null");
    pthread_mutex_lock(&d->lock);
    if (!b.failed) dash_send_lookers(d, game, false, 0, b.data, b.len, true);
    pthread_mutex_unlock(&d->lock);
    buf_free(&b);
}

static long resident_bytes(void) {
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return 0;
    if (fscanf(f, "%ld %ld", &pages, &resident) != 2) resident = 0;
    fclose(f);
    return resident * sysconf(_SC_PAGESIZE);
}

void dash_put_status(struct dash *d, struct buf *b) {
    struct rusage use;
    struct http_counts counts;
    uint64_t pictures = 0, bytes = 0;
    getrusage(RUSAGE_SELF, &use);
    double now = clock_seconds(), cpu = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) + 1e-6 * (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
    double share = now > d->cpu_at + 0.05 ? (cpu - d->cpu_seconds) / (now - d->cpu_at) : 0;
    d->cpu_at = now, d->cpu_seconds = cpu;
    http_count(d->http, &counts);
    for (int i = 0; i < d->options.games; i++) pictures += d->games[i].sent, bytes += d->games[i].bytes;
    buf_printf(b, "{\"type\":\"status\",\"at\":%.3f,\"resident_bytes\":%ld,\"process_cpu\":%.3f,\"clients\":%d,\"pictures\":%llu,\"picture_bytes\":%llu,\"driver\":%llu",
               now, resident_bytes(), share, counts.websockets, (unsigned long long)pictures, (unsigned long long)bytes, (unsigned long long)d->driver);
    buf_str(b, ",\"steps\":[");
    for (int i = 0; i < d->options.games; i++) buf_printf(b, i ? ",%u" : "%u", d->games[i].count);
    buf_char(b, ']');
    size_t before = b->len;
    buf_char(b, ',');
    if (d->options.commands.status) d->options.commands.status(d->options.commands.user, b);
    if (b->len == before + 1) b->data[b->len = before] = 0;
    buf_char(b, '}');
}

void dash_status(struct dash *d, bool at_once) {
    struct buf b = {0};
    double now = clock_seconds();
    pthread_mutex_lock(&d->lock);
    if (at_once || now - d->status_sent >= 1) {
        d->status_sent = now;
        dash_put_status(d, &b);
        if (!b.failed) http_ws_send(d->live, 0, false, STATUS_STREAM, b.data, b.len);
    }
    pthread_mutex_unlock(&d->lock);
    buf_free(&b);
}
