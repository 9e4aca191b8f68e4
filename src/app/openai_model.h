/* A model behind an OpenAI-compatible server (vLLM, llama-server, ours, ...), asked over HTTP: POST <base URL>/chat/completions with
 * the system text, the picture as a PNG data URI, the user text and the JSON schema of the answer. */
#ifndef APP_OPENAI_MODEL_H
#define APP_OPENAI_MODEL_H

#include "agent/ask.h"

struct openai_options {
    const char *base_url;  /* NULL: $OPENAI_BASE_URL, else http://127.0.0.1:8080/v1 */
    const char *model;     /* NULL: the first that the server lists */
    bool no_stream;
    double timeout_s;      /* of one request; 0 = 120 */
    volatile bool *stop;   /* ends waiting; may be NULL */
};

struct openai_model;
/* Asks the server for its models, so that a server that cannot be reached is told at once. The key is $OPENAI_API_KEY; it goes to this
 * server only (redirects are not followed) and into no message. */
int openai_model_open(const struct openai_options *o, struct openai_model **out, struct err *err);
void openai_model_close(struct openai_model *m);
const char *openai_model_name(const struct openai_model *m);
const char *openai_model_url(const struct openai_model *m);
/* May be asked from several threads. Answers give_up when the server refuses the first question, or ten in a row. */
struct answerer openai_model_answerer(struct openai_model *m);

#endif
