#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_BLOCK = 4096, LARGEST_BLOCK = 1 << 20, ALIGN = 16 };

struct arena_block {
    struct arena_block *next;
    size_t pad; /* keeps the payload 16-byte aligned */
};

void *arena_alloc(struct arena *a, size_t bytes) {
    if (bytes > SIZE_MAX - 2 * ALIGN) return NULL;
    bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (a->capacity - a->used < bytes) {
        size_t want = a->capacity ? a->capacity * 2 : FIRST_BLOCK;
        if (want > LARGEST_BLOCK) want = LARGEST_BLOCK;
        if (want < bytes) want = bytes;
        struct arena_block *block = malloc(sizeof *block + want);
        if (!block) return NULL;
        block->next = a->head;
        a->head = block;
        a->used = 0;
        a->capacity = want;
        a->total_bytes += want;
    }
    void *p = (char *)(a->head + 1) + a->used;
    a->used += bytes;
    return memset(p, 0, bytes);
}

void *arena_array(struct arena *a, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    return arena_alloc(a, bytes);
}

char *arena_string(struct arena *a, const char *s, size_t n) {
    char *copy = n < SIZE_MAX ? arena_alloc(a, n + 1) : NULL;
    if (copy) memcpy(copy, s, n);
    return copy;
}

void arena_free(struct arena *a) {
    while (a->head) {
        struct arena_block *next = a->head->next;
        free(a->head);
        a->head = next;
    }
    *a = (struct arena){0};
}
