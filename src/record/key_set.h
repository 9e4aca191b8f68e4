/* A set of 128-bit hashes given as 32 hex digits. */
#ifndef RECORD_KEY_SET_H
#define RECORD_KEY_SET_H

#include <stddef.h>
#include <stdint.h>

struct key_set {
    uint64_t (*slots)[2]; /* open addressing; {0, 0} is empty */
    size_t count, cap;
};

/* 1: was not in it and is now; 0: was in it; -1: out of memory. */
int key_set_add(struct key_set *s, const char hex[33]);
void key_set_free(struct key_set *s);

#endif
