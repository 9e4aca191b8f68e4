/* XXH3-128 of one or two pieces of memory as 32 hex digits. */
#ifndef RECORD_HASH_H
#define RECORD_HASH_H

#include <stddef.h>

void hash_hex(const void *a, size_t a_bytes, const void *b, size_t b_bytes, char out[33]);

#endif
