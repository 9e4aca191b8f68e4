/* Bytes of HTTP/1.1 to a request head, and bodies in chunks (RFC 9112). Strict where leniency has let requests be smuggled: bare
 * line feeds, folded lines, a space before the colon, two lengths, a length beside chunks. */
#ifndef SERVE_HTTP_PARSE_H
#define SERVE_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/buf.h"

enum { HEAD_MAX_BYTES = 32 << 10, HEAD_MAX_FIELDS = 100 };

struct http_field {
    const char *name, *value; /* name in lower case; value without surrounding spaces */
};

struct http_head {
    const char *method, *path, *query; /* path: percent-decoded */
    bool http10, close;                /* close: the client wants the connection ended */
    bool chunked, has_length;
    unsigned long long length;
    int count;
    struct http_field fields[HEAD_MAX_FIELDS];
};

/* Bytes up to and including the empty line, 0 when it has not come yet. */
size_t http_head_length(const char *data, size_t n);
/* Parses such a head; strings live in a. 0, or the status to answer with and *why. */
int http_head_parse(const char *data, size_t n, struct arena *a, struct http_head *out, const char **why);
/* Value of a field (name in lower case), "" when absent. */
const char *http_head_field(const struct http_head *h, const char *name);
/* Does the comma-separated value hold this word? */
bool http_value_has(const char *value, const char *word);

struct http_chunks {
    int state;
    unsigned long long left;
    size_t trailer;
};
/* Takes bytes of a chunked body from data, appends what they carry to out. *used: bytes taken. 1: the body is complete, 0: more is
 * needed, -1: no chunks, -2: longer than limit. */
int http_chunks_take(struct http_chunks *c, const char *data, size_t n, size_t *used, struct buf *out, size_t limit);

#endif
