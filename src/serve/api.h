/* The OpenAI-compatible API over one model: chat and text completions, embeddings, tokens, models, health, metrics.
 *
 * Requests wait in a bounded queue for a worker thread each; workers that generate at the same time share the engine's forward
 * passes (continuous batching). A client that leaves sets its request's cancel flag, which the engine looks at before every pass.
 * The server may listen before the model is loaded: everything but /health and /metrics answers 503 until api_ready. */
#ifndef SERVE_API_H
#define SERVE_API_H

#include "qwen3vl.h"
#include "serve/http.h"

struct api;

struct api_options {
    const char *model_name;     /* as /v1/models and answers call it */
    int parallel;               /* requests worked on at once; 0: 256 */
    int queue;                  /* requests that may wait; 0: 1024 */
    int64_t image_pixels;       /* most of all pictures of one request; 0: 64 million */
    int images;                 /* most pictures of one request; 0: 64 */
    bool fetch_images;          /* take http(s) URLs of pictures (never of loopback, link-local or private addresses) */
    double seconds;             /* most time for one request's answer; 0: 600 */
};

/* Registers the routes. The end: api_drain, api_stop, http_stop, api_free. */
int api_start(struct http_server *http, const struct api_options *options, struct api **out, struct err *err);
/* From now on requests are answered with this model, which stays the caller's and must outlive api_free. */
void api_ready(struct api *a, struct qvl_model *model);
/* Waits until no request is under way, at most so many seconds; afterwards cancels the rest. New ones get 503 (http_drain). */
void api_drain(struct api *a, double seconds);
/* Cancels what is under way and joins the workers; afterwards no exchange is held. */
void api_stop(struct api *a);
/* After http_stop: no route leads here any more. */
void api_free(struct api *a);

#endif
