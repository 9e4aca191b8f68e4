/* SHA-1 (FIPS 180-4), which the WebSocket handshake asks for; it protects nothing. */
#ifndef SERVE_SHA1_H
#define SERVE_SHA1_H

#include <stddef.h>

void sha1(const void *data, size_t n, unsigned char out[20]);

#endif
