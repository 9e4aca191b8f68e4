/* pmd-agent serve: an OpenAI-compatible API over one checkpoint. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/model_options.h"
#include "base/buf.h"
#include "base/file.h"
#include "serve/api.h"

static const char help[] =
    "usage: pmd-agent serve --model ID|DIR [options]\n"
    "\n"
    "Serves /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/models, /tokenize, /detokenize, /health and /metrics.\n"
    "Ctrl-C or SIGTERM: no new requests, those under way are finished (a second one ends at once). See docs/serve.md.\n"
    "\n"
    "  --host ADDRESS     default 127.0.0.1: this machine only; 0.0.0.0: every network (give an API key then)\n"
    "  --port N           default 8080; 0: any free one\n"
    "  --api-key KEY      wanted from clients as 'Authorization: Bearer KEY'; may be repeated (environment: PMD_API_KEY)\n"
    "  --api-key-file F   one key a line\n"
    "  --alias NAME       name of the model in the API; default: the id or folder as given\n"
    "  --cors ORIGIN      let pages of this origin ('*': of any) use the server; default: none\n"
    "  --any-host         on loopback, accept every Host name (behind a proxy)\n"
    "  --parallel N       requests worked on at once, default 256; --queue N: requests that may wait, default 1024\n"
    "  --timeout S        most seconds for one answer, default 600; --drain S: after SIGTERM, default 30\n"
    "  --max-body-mib N   default 64; --max-connections N: default 4096\n"
    "  --images N         most pictures of a request, default 64; --image-megapixels N: of all of them, default 64\n"
    "  --fetch-images     take pictures by http(s) URL (never from loopback, link-local or private addresses)\n";

enum { MAX_KEYS = 64 };

struct options {
    struct model_options model;
    struct http_options http;
    struct api_options api;
    const char *keys[MAX_KEYS + 1], *key_file;
    int key_count;
    double drain;
};

static int add_key(struct options *o, const char *key) {
    if (!key[0]) return fprintf(stderr, "pmd-agent serve: an API key is empty\n"), -1;
    if (o->key_count == MAX_KEYS) return fprintf(stderr, "pmd-agent serve: at most %d API keys\n", MAX_KEYS), -1;
    o->keys[o->key_count++] = key;
    return 0;
}

static int take_number(const char *name, int argc, char **argv, int *i, double low, double high, double *out) {
    const char *v;
    int r = option_value("serve", name, argc, argv, i, &v);
    return r <= 0 ? r : option_number("serve", name, v, low, high, out) ? -1 : 1;
}

/* 1 taken, 0 unknown, -1 wrong. */
static int take_option(struct options *o, int argc, char **argv, int *i) {
    const char *v;
    double n;
    int r = model_options_take(&o->model, "serve", argc, argv, i);
    if (r) return r;
    if (!strcmp(argv[*i], "--any-host")) return o->http.any_name = true, 1;
    if (!strcmp(argv[*i], "--fetch-images")) return o->api.fetch_images = true, 1;
    if ((r = option_value("serve", "--host", argc, argv, i, &v))) return o->http.host = v, r;
    if ((r = option_value("serve", "--alias", argc, argv, i, &v))) return o->api.model_name = v, r;
    if ((r = option_value("serve", "--cors", argc, argv, i, &v))) return o->http.cors_origin = v, r;
    if ((r = option_value("serve", "--api-key-file", argc, argv, i, &v))) return o->key_file = v, r;
    if ((r = option_value("serve", "--api-key", argc, argv, i, &v))) return r < 0 || add_key(o, v) ? -1 : 1;
    if ((r = take_number("--port", argc, argv, i, 0, 65535, &n))) return o->http.port = (int)n, r;
    if ((r = take_number("--parallel", argc, argv, i, 1, 1024, &n))) return o->api.parallel = (int)n, r;
    if ((r = take_number("--queue", argc, argv, i, 1, 1 << 20, &n))) return o->api.queue = (int)n, r;
    if ((r = take_number("--timeout", argc, argv, i, 1, 1e6, &n))) return o->api.seconds = n, r;
    if ((r = take_number("--drain", argc, argv, i, 0, 1e6, &n))) return o->drain = n, r;
    if ((r = take_number("--max-body-mib", argc, argv, i, 1, 4096, &n))) return o->http.max_body = (size_t)n << 20, r;
    if ((r = take_number("--max-connections", argc, argv, i, 1, 1e6, &n))) return o->http.max_connections = (int)n, r;
    if ((r = take_number("--images", argc, argv, i, 0, 4096, &n))) return o->api.images = (int)n ? (int)n : -1, r;
    if ((r = take_number("--image-megapixels", argc, argv, i, 0.001, 268, &n))) return o->api.image_pixels = (int64_t)(n * 1e6), r;
    return 0;
}

/* The keys of the file stay in *text. */
static int read_keys(struct options *o, struct buf *text) {
    struct err err = {0};
    if (!o->key_file) return 0;
    if (file_read(o->key_file, 1 << 20, text, &err)) return fprintf(stderr, "pmd-agent serve: %s\n", err.message), -1;
    int before = o->key_count;
    for (char *save, *line = text->data ? strtok_r(text->data, "\r\n", &save) : NULL; line; line = strtok_r(NULL, "\r\n", &save))
        if (line[0] != '#' && add_key(o, line)) return -1;
    if (o->key_count == before) return fprintf(stderr, "pmd-agent serve: %s holds no API key\n", o->key_file), -1;
    return 0;
}

/* Loads while the server already answers /health. */
struct loader {
    struct options *o;
    struct qvl_model *model;
    int result;
    bool done;
};

static void *load(void *user) {
    struct loader *l = user;
    l->result = model_options_open(&l->o->model, "serve", false, &l->model);
    __atomic_store_n(&l->done, true, __ATOMIC_RELEASE);
    return NULL;
}

static int next_signal(const sigset_t *set, double seconds) {
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    return sigtimedwait(set, NULL, &t);
}

/* Waits for Ctrl-C or SIGTERM; puts the model to work when it is there. Returns the exit status. */
static int watch(struct options *o, struct http_server *http, struct api *api, struct loader *loader, const sigset_t *set) {
    bool ready = false;
    for (;;) {
        int signal = next_signal(set, ready ? 3600 : 0.02);
        if (!ready && __atomic_load_n(&loader->done, __ATOMIC_ACQUIRE)) {
            if (loader->result) return 1;
            api_ready(api, loader->model);
            ready = true;
            fprintf(stderr, "ready: %s/v1  (model '%s')\n", http_url(http), o->api.model_name);
        }
        if (signal < 0) continue;
        if (!ready) {
            fprintf(stderr, "stopped while loading\n");
            _exit(130);
        }
        fprintf(stderr, "draining: %d requests under way (once more to end at once)\n", http_pending(http));
        return signal == SIGINT ? 130 : 0;
    }
}

struct drain {
    struct api *api;
    double seconds;
    bool done;
};

static void *drain(void *user) {
    struct drain *d = user;
    api_drain(d->api, d->seconds);
    __atomic_store_n(&d->done, true, __ATOMIC_RELEASE);
    return NULL;
}

static void raise_file_limit(void) {
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) || l.rlim_cur == l.rlim_max) return;
    l.rlim_cur = l.rlim_max;
    setrlimit(RLIMIT_NOFILE, &l);
}

static int serve(struct options *o, const sigset_t *set) {
    struct err err = {0};
    struct http_server *http;
    struct api *api = NULL;
    struct loader loader = {.o = o};
    pthread_t loading, draining;
    if (http_start(&o->http, &http, &err)) return fprintf(stderr, "pmd-agent serve: %s\n", err.message), 1;
    fprintf(stderr, "listening on %s, loading %s\n", http_url(http), o->model.model);
    if (!http_is_loopback(http) && o->key_count == 0)
        fprintf(stderr, "warning: %s can be reached from other machines, and no API key is asked for\n", http_url(http));
    if (api_start(http, &o->api, &api, &err) || pthread_create(&loading, NULL, load, &loader)) {
        fprintf(stderr, "pmd-agent serve: %s\n", err.code ? err.message : "cannot start a thread");
        http_stop(http);
        return 1;
    }
    int status = watch(o, http, api, &loader, set);
    pthread_join(loading, NULL);
    struct drain d = {.api = api, .seconds = o->drain};
    if (loader.model && !pthread_create(&draining, NULL, drain, &d)) {
        while (!__atomic_load_n(&d.done, __ATOMIC_ACQUIRE))
            if (next_signal(set, 0.05) > 0) _exit(130);
        pthread_join(draining, NULL);
    }
    api_stop(api);
    http_stop(http);
    api_free(api);
    if (loader.model) qvl_unload(loader.model);
    return status;
}

int cmd_serve(int argc, char **argv) {
    struct options o = {.http.port = 8080, .drain = 30};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return printf("%s\n%s", help, model_options_help), 0;
        int r = take_option(&o, argc, argv, &i);
        if (r < 0) return 2;
        if (r == 0) return fprintf(stderr, "pmd-agent serve: unknown option '%s'\n\n%s\n%s", argv[i], help, model_options_help), 2;
    }
    if (!o.model.model) return fprintf(stderr, "pmd-agent serve: --model ID|DIR is needed\n"), 2;
    const char *key = getenv("PMD_API_KEY");
    struct buf file = {0};
    if ((key && key[0] && o.key_count == 0 && add_key(&o, key)) || read_keys(&o, &file)) return buf_free(&file), 2;
    o.http.api_keys = o.keys;
    o.http.api_key_count = o.key_count;
    if (!o.api.model_name) o.api.model_name = o.model.model;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* every thread inherits it: signals are taken by sigtimedwait only */
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    int status = serve(&o, &set);
    buf_free(&file);
    return status;
}
