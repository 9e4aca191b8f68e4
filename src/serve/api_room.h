/* What the files of the API share. Private to this room. */
#ifndef SERVE_API_ROOM_H
#define SERVE_API_ROOM_H

#include <pthread.h>

#include "base/arena.h"
#include "base/base64.h"
#include "base/buf.h"
#include "base/energy.h"
#include "base/json.h"
#include "serve/api.h"

/* Memory that requests at work take beside their bodies: values of JSON documents (56 bytes each as a tree) and pixels of decoded
 * pictures. One request may have so much, all of them together a few times that; what is over waits for nobody: 503. */
enum { API_MAX_VALUES = 2000000, API_ALL_VALUES = 4 * API_MAX_VALUES, API_ALL_PIXELS = 8 /* times image_pixels */ };
enum { API_MAX_N = 16, API_MAX_STOP = 16, API_MAX_BIAS = 1024, API_MAX_PROMPTS = 256 };

enum api_endpoint { API_CHAT, API_COMPLETIONS, API_EMBEDDINGS, API_TOKENIZE, API_DETOKENIZE, API_ENDPOINTS };

/* Counters of /metrics. Histograms count values up to their bound (seconds), the last is +Inf. */
enum { HISTOGRAM_BOUNDS = 14 };
struct histogram {
    uint64_t count[HISTOGRAM_BOUNDS + 1];
    double sum;
};
struct api_metrics {
    uint64_t requests[API_ENDPOINTS], errors[API_ENDPOINTS], cancelled, refused;
    uint64_t prompt_tokens, cached_tokens, generated_tokens;
    double prompt_seconds, generate_seconds;
    struct histogram first_token, between_tokens, whole;
};

struct api_job {
    struct api *a;
    struct http_exchange *x;
    enum api_endpoint endpoint;
    struct api_job *next;
    int cancel;            /* set by the client's leaving, the clock or the end */
    bool timed_out;
    int64_t values, pixels; /* of the api's accounts, given back at the end */
    double arrived, deadline;
    struct api_job *next_running;
};

struct api {
    struct http_server *http;
    struct api_options options;
    char *model_name;
    int64_t created;       /* when the model was ready, Unix time */
    pthread_mutex_t lock;
    pthread_cond_t work, room;
    struct qvl_model *model;
    struct qvl_info info;
    struct api_job *first, *last, *running;
    int waiting, working, workers, idle;
    pthread_t *threads;
    pthread_t clock;
    bool clock_runs, stopping;
    int64_t tokens_held, tokens_total; /* of the KV budget, promised to requests at work */
    int64_t values_held, pixels_held;
    uint64_t next_id;
    uint64_t salt;
    struct api_metrics metrics;
    struct energy_meter energy;
};

/* ---- api_request.c: fields of a body ---- */

/* What went wrong with a request: status, type and the field's name for the error body. */
struct api_fault {
    int status;
    const char *type;      /* NULL: invalid_request_error or server_error, by the status */
    char param[64];
    struct err err;
};
int api_fail(struct api_fault *f, int status, const char *param, const char *format, ...) __attribute__((format(printf, 4, 5)));
/* A failure of the engine: 400 for what the caller asked, 500 otherwise. */
int api_fail_engine(struct api_fault *f, const char *param, const struct err *err);

struct api_generate {
    struct qvl_generate g;
    struct qvl_bias bias[API_MAX_BIAS];
    const char *stop[API_MAX_STOP];
    int n;
    bool seeded, stream, include_usage, logprobs, echo;
};
/* Reads what chat and text completions share. Strings live in the body's arena. */
int api_read_generate(struct api *a, const struct json *body, bool chat, struct arena *arena, struct api_generate *out,
                      struct api_fault *f);
int api_read_number(const struct json *body, const char *name, double low, double high, double otherwise, double *out,
                    struct api_fault *f);
int api_read_integer(const struct json *body, const char *name, int64_t low, int64_t high, int64_t otherwise, int64_t *out,
                     struct api_fault *f);
int api_read_bool(const struct json *body, const char *name, bool *out, struct api_fault *f);
/* JSON text of a parsed value. */
void api_write_json(struct buf *out, const struct json *v);

/* ---- api_messages.c ---- */
/* Appends body.messages to s. */
int api_read_messages(struct api_job *job, const struct json *body, struct qvl_session *s, struct api_fault *f);

/* ---- image_fetch.c ---- */
/* Fetches a picture over http(s) into out. Refuses every address that is not a public one, after each redirect too. */
int image_fetch(const char *url, size_t limit, const int *cancel, struct buf *out, struct err *err);
/* Is this address (IPv4 or IPv6, struct sockaddr) one that the public internet routes to? */
struct sockaddr;
bool address_is_public(const struct sockaddr *address);

/* ---- api_chat.c, api_completions.c, api_other.c: the endpoints, on a worker ---- */
int api_chat(struct api_job *job, const struct json *body, struct arena *arena, struct api_fault *f);
int api_completions(struct api_job *job, const struct json *body, struct arena *arena, struct api_fault *f);
int api_embeddings(struct api_job *job, const struct json *body, struct arena *arena, struct api_fault *f);
int api_tokenize(struct api_job *job, const struct json *body, struct arena *arena, struct api_fault *f);
int api_detokenize(struct api_job *job, const struct json *body, struct arena *arena, struct api_fault *f);
void api_models(void *api, struct http_exchange *x);
void api_health(void *api, struct http_exchange *x);
void api_metrics_text(void *api, struct http_exchange *x);

/* ---- api_choices.c: n answers at once ---- */

struct api_choice;
/* How an endpoint writes what its choices produce. Calls come from several threads, one at a time. */
struct api_writer {
    void *user;
    /* A piece of choice `index`; tokens: those since the last piece (for logprobs). */
    int (*piece)(void *user, int index, const char *text, size_t n, bool thinking, const struct qvl_token *tokens, size_t count);
};
struct api_answer {
    struct buf text, thinking;   /* text as streamed */
    struct qvl_token *tokens;    /* of the answer behind the think block, end token left out; malloc'ed */
    size_t token_count, thought_count, generated;
    enum qvl_finish finish;
    int64_t prompt_tokens, cached_tokens;
    int code;
    struct err err;
};
/* Generates r->n answers from s, each on a thread of its own; answers: r->n of them. writer: NULL when not streaming. Fails when
 * one of them does. */
int api_generate_choices(struct api_job *job, struct qvl_session *s, const struct api_generate *r, const struct api_writer *writer,
                         struct api_answer *answers, struct api_fault *f);
/* Room among the keys and values of all requests for the session and its answers; waits for it. What to give back, or -1. */
int api_hold_room(struct api_job *job, struct qvl_session *s, const struct api_generate *r, struct api_fault *f);
void api_give_room(struct api *a, int tokens);
void api_answers_free(struct api_answer *answers, int n);
const char *api_finish_name(enum qvl_finish finish);

/* ---- api.c ---- */
/* Takes pixels from the account of all requests for this one. */
int api_take_pixels(struct api_job *job, int64_t pixels, struct api_fault *f);
uint64_t api_random(struct api *a);
void api_new_id(struct api *a, const char *prefix, char out[48]);
void histogram_add(struct histogram *h, double seconds);
/* Error of a streamed answer whose head is sent: one event, then the end. Gives x back. */
void api_stream_error(struct http_exchange *x, const struct api_fault *f);
const char *api_fault_type(const struct api_fault *f);
/* "usage":{...} */
void api_write_usage(struct buf *out, const struct api_answer *answers, int n, bool chat);

#endif
