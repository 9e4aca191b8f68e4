/* An arena: many small allocations that live and die together. Not thread-safe; one owner. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *head;
    size_t used, capacity; /* of the head block */
    size_t total_bytes;    /* of all blocks, for reports and limits */
};

/* Zero-filled memory aligned to 16 bytes, or NULL when out of memory. A zeroed struct arena is empty and ready. */
void *arena_alloc(struct arena *a, size_t bytes);
/* count * size with the product checked. */
void *arena_array(struct arena *a, size_t count, size_t size);
/* Copies n bytes and appends a NUL. */
char *arena_string(struct arena *a, const char *s, size_t n);
void arena_free(struct arena *a);

#endif
