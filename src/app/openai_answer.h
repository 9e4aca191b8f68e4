/* What an OpenAI-compatible server sends back for a chat completion: one JSON object, or a stream of server-sent events whose chunks
 * are put together here as they come, cut anywhere. Knows no sockets. */
#ifndef APP_OPENAI_ANSWER_H
#define APP_OPENAI_ANSWER_H

#include "agent/ask.h"
#include "base/buf.h"
#include "base/json.h"

struct openai_answer {
    const struct question *question; /* whose subscribers hear the text as it comes; may be NULL */
    struct buf text;                 /* the message's content so far */
    struct buf tokens;               /* of struct openai_token, where the server gives log-probabilities */
    size_t token_bytes;              /* their texts, added up */
    bool finished, cut_off;          /* a finish_reason came; it was "length" */
    int64_t prompt_tokens, completion_tokens, cached_tokens;
    double first_text;               /* clock_seconds() when the first text came; 0 = none yet */
    struct buf line, event;          /* private: the unfinished line; the data lines of the unfinished event */
};
void openai_answer_free(struct openai_answer *a);

/* The next bytes of an event stream (text/event-stream). Negative: an event is broken, or is an error of the server. */
int openai_answer_stream(struct openai_answer *a, const char *data, size_t n, struct err *err);
/* The whole body of an answer that is not streamed. */
int openai_answer_body(struct openai_answer *a, const char *data, size_t n, struct err *err);
/* After the last byte: 0 if and only if the answer is complete. */
int openai_answer_end(struct openai_answer *a, struct err *err);
/* Probability of the tokens that make up the value of "action" (the rest is the schema's, no choice); 0: the server gave none. */
float openai_answer_confidence(const struct openai_answer *a);

/* Puts the server's own words for a refusal into out, made fit for one line; "" when there are none. */
void openai_error_text(const char *body, size_t n, char *out, size_t cap);

#endif
