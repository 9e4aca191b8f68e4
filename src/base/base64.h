/* Base64 (RFC 4648). */
#ifndef BASE_BASE64_H
#define BASE_BASE64_H

#include "base/buf.h"

/* Decodes base64 (standard or URL alphabet, padding optional, white space skipped). -1: not base64. */
int base64_decode(const char *text, size_t n, struct buf *out);
/* Appends the standard form, with padding. */
void base64_encode(const void *data, size_t n, struct buf *out);

#endif
