#include "app/openai_model.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "app/openai_answer.h"
#include "base/clock.h"
#include "record/png_file.h"

enum {
    ANSWER_TOKENS = 300,   /* room for models that think aloud in spite of the schema */
    BODY_LIMIT = 4 << 20,
    TRIES = 3,             /* of one question, while the server is busy or broken */
    WAIT_LIMIT_S = 60,     /* a longer Retry-After is not waited for */
    GIVE_UP = 10,          /* questions in a row that the server did not take */
    CONNECT_S = 10,
    HANDLES = 256,
};

struct openai_model {
    char url[1024], *name, *key;
    bool stream, loopback;
    double timeout_s;
    volatile bool *stop;
    struct curl_slist *headers;
    atomic_bool logprobs;   /* until the server refuses them */
    atomic_int untaken;     /* questions in a row; starts one below GIVE_UP, so that the first must be taken */
    pthread_mutex_t lock;
    CURL *idle[HANDLES];    /* handles with open connections, for the next question */
    int idle_count;
};

/* One request and what comes back. */
struct transfer {
    struct openai_model *model;
    CURL *curl;
    struct buf body;              /* of everything that is no event stream */
    struct openai_answer *answer; /* gets an event stream; NULL: none is expected */
    size_t bytes;
    int code;                     /* of err: the answer was refused by us while it came */
    struct err *err;
};

static bool stopped(const struct openai_model *m) { return m->stop && *m->stop; }

static size_t on_body(char *data, size_t size, size_t count, void *user) {
    struct transfer *x = user;
    size_t n = size * count;
    long status = 0;
    char *type = NULL;
    curl_easy_getinfo(x->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(x->curl, CURLINFO_CONTENT_TYPE, &type);
    if ((x->bytes += n) > BODY_LIMIT) {
        x->code = err_set(x->err, ERR_LIMIT, "the server's answer is longer than %d bytes", BODY_LIMIT);
    } else if (x->answer && status == 200 && type && !strncasecmp(type, "text/event-stream", 17)) {
        x->code = openai_answer_stream(x->answer, data, n, x->err);
    } else {
        buf_append(&x->body, data, n);
        if (x->body.failed) x->code = err_set(x->err, ERR_MEMORY, "out of memory for the server's answer");
    }
    return x->code ? 0 : n;
}

static int on_progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    (void)a, (void)b, (void)c, (void)d;
    return stopped(user);
}

static CURL *handle_take(struct openai_model *m) {
    pthread_mutex_lock(&m->lock);
    CURL *c = m->idle_count ? m->idle[--m->idle_count] : NULL;
    pthread_mutex_unlock(&m->lock);
    return c ? c : curl_easy_init();
}

static void handle_give(struct openai_model *m, CURL *c) {
    curl_easy_reset(c); /* keeps the connection */
    pthread_mutex_lock(&m->lock);
    bool kept = m->idle_count < HANDLES;
    if (kept) m->idle[m->idle_count++] = c;
    pthread_mutex_unlock(&m->lock);
    if (!kept) curl_easy_cleanup(c);
}

/* ---- one request --------------------------------------------------------------------------------------------------------------- */

/* What a status other than 200 means. */
static int refusal(const struct transfer *x, long status, struct err *err) {
    char words[300], *to = NULL;
    openai_error_text(x->body.data, x->body.len, words, sizeof words);
    const char *advice = "";
    if (status == 401 || status == 403) advice = x->model->key ? "; check the key in OPENAI_API_KEY" : "; OPENAI_API_KEY is not set";
    if (status == 404) advice = "; check the base URL (it ends in /v1 mostly) and the model's name";
    if (status / 100 == 3 && !curl_easy_getinfo(x->curl, CURLINFO_REDIRECT_URL, &to) && to) {
        return err_set(err, ERR_NETWORK, "%s redirects to %.200s, which is not followed: give that address with --server", x->model->url, to);
    }
    return err_set(err, ERR_NETWORK, "%s: HTTP %ld%s%s%s", x->model->url, status, *words ? ": " : "", words, advice);
}

/* Sleeps in slices; false when stopped. */
static bool wait_for(const struct openai_model *m, double seconds) {
    for (double end = clock_seconds() + seconds; clock_seconds() < end && !stopped(m);) nanosleep(&(struct timespec){0, 50000000}, NULL);
    return !stopped(m);
}

/* POST of body, or GET when it is NULL. 0 after status 200 with the whole answer taken. *taken: the server accepted the request. */
static int request(struct transfer *x, const char *path, const char *body, size_t n, bool *taken, struct err *err) {
    struct openai_model *m = x->model;
    char url[1200];
    snprintf(url, sizeof url, "%s%s", m->url, path);
    for (int tries = 1;; tries++) {
        CURL *c = x->curl;
        buf_clear(&x->body);
        x->bytes = 0, x->code = 0, x->err = err;
        curl_easy_setopt(c, CURLOPT_URL, url);
        curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
        curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(c, CURLOPT_USERAGENT, "pmd-agent/0.1");
        if (m->loopback) curl_easy_setopt(c, CURLOPT_PROXY, "");
        curl_easy_setopt(c, CURLOPT_HTTPHEADER, m->headers);
        curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
        curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)(m->timeout_s * 1e3));
        curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
        curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
        curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
        curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl_easy_setopt(c, CURLOPT_XFERINFODATA, m);
        if (body) {
            curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)n);
            curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
        }
        long status = 0;
        curl_off_t wait = 0;
        CURLcode code = curl_easy_perform(c);
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(c, CURLINFO_RETRY_AFTER, &wait);
        *taken = status == 200;
        if (x->code) return x->code;
        if (code == CURLE_OK && status == 200) return 0;
        if (stopped(m)) return err_set(err, ERR_CANCELLED, "stopped while the server was asked");
        if (code == CURLE_OPERATION_TIMEDOUT && status) {
            return err_set(err, ERR_NETWORK, "%s: the answer was not complete after %.3g s (--server-timeout)", m->url, m->timeout_s);
        }
        if (code == CURLE_OPERATION_TIMEDOUT) {
            return err_set(err, ERR_NETWORK, "%s: no answer within %.3g s (--server-timeout)", m->url, m->timeout_s);
        }
        if (status == 200) return err_set(err, ERR_NETWORK, "%s: the answer broke off (%s)", m->url, curl_easy_strerror(code));
        if (code) err_set(err, ERR_NETWORK, "%s: %s", m->url, curl_easy_strerror(code));
        else refusal(x, status, err);
        bool again = code || status == 429 || status >= 500;
        if (!again || tries == TRIES || wait > WAIT_LIMIT_S) return err->code;
        if (!wait_for(m, wait > 0 ? (double)wait : 0.5 * tries)) return err_set(err, ERR_CANCELLED, "stopped while the server was asked");
    }
}

/* Servers like to repeat the key that they refuse. */
static void hide_key(const struct openai_model *m, char *text) {
    for (char *at; m->key && (at = strstr(text, m->key));) memset(at, '*', strlen(m->key));
}

/* ---- a question ---------------------------------------------------------------------------------------------------------------- */

static void put_string(struct buf *b, const char *s) { buf_json_string(b, s, strlen(s)); }

static void put_base64(struct buf *b, const uint8_t *data, size_t n) { /* RFC 4648 */
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)data[i] << 16 | (i + 1 < n ? (uint32_t)data[i + 1] << 8 : 0) | (i + 2 < n ? data[i + 2] : 0);
        char four[4] = {digits[v >> 18], digits[v >> 12 & 63], i + 1 < n ? digits[v >> 6 & 63] : '=', i + 2 < n ? digits[v & 63] : '='};
        buf_append(b, four, 4);
    }
}

/* One of our turns as a message. */
static int put_turn(struct buf *b, const uint8_t *rgb, int width, int height, const char *text, struct err *err) {
    int code = 0;
    buf_str(b, "{\"role\":\"user\",\"content\":[");
    if (rgb) {
        struct buf png = {0};
        code = png_encode(rgb, width ? width : FRAME_WIDTH, height ? height : FRAME_HEIGHT, 1, &png, err);
        buf_str(b, "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,");
        put_base64(b, (const uint8_t *)png.data, png.len);
        buf_str(b, "\"}},");
        buf_free(&png);
    }
    buf_str(b, "{\"type\":\"text\",\"text\":"), put_string(b, text);
    buf_str(b, "}]}");
    return code;
}

/* An exchange of the past as two messages; encoded once and kept with it. */
static int put_exchange(struct buf *b, struct exchange *e, struct err *err) {
    if (!e->wire) {
        struct buf m = {0};
        int code = put_turn(&m, e->rgb, e->width, e->height, e->text, err);
        buf_str(&m, ",{\"role\":\"assistant\",\"content\":"), put_string(&m, e->reply);
        buf_str(&m, "},");
        if (!code && m.failed) code = err_set(err, ERR_MEMORY, "out of memory for a question");
        if (code) return buf_free(&m), code;
        e->wire = m.data;
    }
    buf_str(b, e->wire);
    return 0;
}

static int put_question(struct buf *b, const struct openai_model *m, const struct question *q, bool logprobs, struct err *err) {
    buf_str(b, "{\"model\":"), put_string(b, m->name);
    buf_str(b, ",\"messages\":[{\"role\":\"system\",\"content\":"), put_string(b, q->system);
    buf_str(b, "},");
    int code = 0;
    for (int i = 0; q->past && i < q->past->count && !code; i++) code = put_exchange(b, &q->past->list[i], err);
    if (!code) code = put_turn(b, q->rgb, q->width, q->height, q->prompt, err);
    buf_printf(b, "],\"max_tokens\":%d,\"temperature\":%g,\"seed\":%u", ANSWER_TOKENS, q->greedy ? 0 : (double)q->temperature,
               (uint32_t)(q->seed ^ q->seed >> 32) & INT32_MAX);
    buf_printf(b, ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"decision\",\"strict\":true,\"schema\":%s}}", q->schema);
    if (m->stream) buf_str(b, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    if (logprobs) buf_str(b, ",\"logprobs\":true");
    buf_char(b, '}');
    return code ? code : b->failed ? err_set(err, ERR_MEMORY, "out of memory for a question") : 0;
}

/* One transfer; what came of it is in *a. */
static int ask(struct transfer *x, const struct question *q, struct openai_answer *a, bool logprobs, bool *taken, struct err *err) {
    struct buf body = {0};
    int code = put_question(&body, x->model, q, logprobs, err);
    if (!code) code = request(x, "/chat/completions", body.data, body.len, taken, err);
    buf_free(&body);
    if (!code && x->body.len) code = openai_answer_body(a, x->body.data, x->body.len, err);
    return code ? code : openai_answer_end(a, err);
}

static int answer(void *user, const struct question *q, struct answer *out, struct err *err) {
    struct openai_model *m = user;
    struct openai_answer a = {.question = q};
    struct transfer x = {.model = m, .curl = handle_take(m), .answer = &a};
    if (!x.curl) return err_set(err, ERR_MEMORY, "out of memory for a request");
    bool taken = false, logprobs = m->logprobs;
    double start = clock_seconds();
    int code = ask(&x, q, &a, logprobs, &taken, err);
    if (code && logprobs && !taken && strstr(err->message, "logprobs")) { /* not every server gives them */
        m->logprobs = false;
        code = ask(&x, q, &a, false, &taken, err);
    }
    double end = clock_seconds();
    if (code) hide_key(m, err->message);
    handle_give(m, x.curl);
    buf_free(&x.body);
    if (taken) m->untaken = 0;
    else if (!stopped(m)) out->give_up = atomic_fetch_add(&m->untaken, 1) + 1 >= GIVE_UP;
    out->confidence = code ? 0 : openai_answer_confidence(&a);
    out->cached_tokens = a.cached_tokens;
    out->computed_tokens = a.prompt_tokens - a.cached_tokens + a.completion_tokens;
    out->prefill_ms = ((a.first_text > 0 ? a.first_text : end) - start) * 1e3; /* until the first text, network included */
    out->generate_ms = a.first_text > 0 ? (end - a.first_text) * 1e3 : 0;
    out->text = a.text.data;
    a.text = (struct buf){0};
    openai_answer_free(&a);
    return code;
}

struct answerer openai_model_answerer(struct openai_model *m) { return (struct answerer){answer, m}; }
const char *openai_model_name(const struct openai_model *m) { return m->name; }
const char *openai_model_url(const struct openai_model *m) { return m->url; }

/* ---- opening ------------------------------------------------------------------------------------------------------------------- */

static int check_url(struct openai_model *m, struct err *err) {
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL, *user = NULL;
    int code = 0;
    if (!u || curl_url_set(u, CURLUPART_URL, m->url, 0) || curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) ||
        curl_url_get(u, CURLUPART_HOST, &host, 0) || (strcmp(scheme, "http") && strcmp(scheme, "https"))) {
        code = err_set(err, ERR_ARGUMENT, "the server's address must be http://HOST:PORT/v1 or https://..., found '%.200s'", m->url);
    } else if (!curl_url_get(u, CURLUPART_USER, &user, 0)) {
        code = err_set(err, ERR_ARGUMENT, "the server's address holds a user name; the key belongs into OPENAI_API_KEY");
    } else {
        m->loopback = !strcmp(host, "localhost") || !strncmp(host, "127.", 4) || !strcmp(host, "[::1]"); /* never through a proxy */
    }
    curl_free(scheme), curl_free(host), curl_free(user);
    curl_url_cleanup(u);
    return code;
}

static int add_header(struct openai_model *m, const char *line, struct err *err) {
    struct curl_slist *longer = curl_slist_append(m->headers, line);
    if (!longer) return err_set(err, ERR_MEMORY, "out of memory for a header");
    m->headers = longer;
    return 0;
}

static int make_headers(struct openai_model *m, const char *key, struct err *err) {
    int code = add_header(m, "Content-Type: application/json", err);
    if (!code) code = add_header(m, "Expect:", err); /* no round trip before a large body */
    if (code || !key || !*key) return code;
    char line[4200];
    for (const char *p = key; *p; p++) {
        if (*p > ' ' && *p < 0x7f && p - key < 4000) continue;
        return err_set(err, ERR_ARGUMENT, "OPENAI_API_KEY holds a blank or a control character, or is too long");
    }
    snprintf(line, sizeof line, "Authorization: Bearer %s", key);
    if (!(m->key = strdup(key))) return err_set(err, ERR_MEMORY, "out of memory for a key");
    return add_header(m, line, err);
}

/* The server's list of models: proves that it is there; names one when the user did not. */
static int greet(struct openai_model *m, const char *name, struct err *err) {
    struct transfer x = {.model = m, .curl = handle_take(m)};
    struct arena arena = {0};
    bool taken = false;
    if (!x.curl) return err_set(err, ERR_MEMORY, "out of memory for a request");
    int code = request(&x, "/models", NULL, 0, &taken, err);
    long status = 0;
    curl_easy_getinfo(x.curl, CURLINFO_RESPONSE_CODE, &status);
    if (code && name && status && status != 401 && status != 403) code = 0; /* it is there, only its list is not */
    if (!code && !name) {
        const struct json *list = x.body.len ? json_get(json_parse(x.body.data, x.body.len, "models", &arena, NULL), "data") : NULL;
        name = list && list->type == JSON_ARRAY && list->count ? json_as_string(json_get(list->items[0], "id"), NULL) : NULL;
        if (!name) code = err_set(err, ERR_MISSING, "%s lists no model: name one with --model", m->url);
    }
    if (!code && !(m->name = strdup(name))) code = err_set(err, ERR_MEMORY, "out of memory for a name");
    if (code) hide_key(m, err->message);
    handle_give(m, x.curl);
    buf_free(&x.body);
    arena_free(&arena);
    return code;
}

int openai_model_open(const struct openai_options *o, struct openai_model **out, struct err *err) {
    const char *url = o->base_url ? o->base_url : getenv("OPENAI_BASE_URL");
    struct openai_model *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m || curl_global_init(CURL_GLOBAL_DEFAULT)) return free(m), err_set(err, ERR_MEMORY, "out of memory for a connection");
    pthread_mutex_init(&m->lock, NULL);
    m->stream = !o->no_stream;
    m->timeout_s = o->timeout_s > 0 ? o->timeout_s : 120;
    m->stop = o->stop;
    m->logprobs = true;
    m->untaken = GIVE_UP - 1;
    if (!url || !*url) url = "http://127.0.0.1:8080/v1";
    size_t n = (size_t)snprintf(m->url, sizeof m->url, "%s", url);
    int code = n >= sizeof m->url ? err_set(err, ERR_ARGUMENT, "the server's address is longer than %zu characters", sizeof m->url - 1) : 0;
    while (!code && n && m->url[n - 1] == '/') m->url[--n] = 0;
    if (!code) code = check_url(m, err);
    if (!code) code = make_headers(m, getenv("OPENAI_API_KEY"), err);
    if (!code) code = greet(m, o->model, err);
    if (code) return openai_model_close(m), code;
    *out = m;
    return 0;
}

void openai_model_close(struct openai_model *m) {
    if (!m) return;
    while (m->idle_count) curl_easy_cleanup(m->idle[--m->idle_count]);
    curl_slist_free_all(m->headers);
    pthread_mutex_destroy(&m->lock);
    free(m->name);
    free(m->key);
    free(m);
}
