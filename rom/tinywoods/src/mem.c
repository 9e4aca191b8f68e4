/* mem.c: the four functions that the compiler expects to find even without a C library. */
#include <stddef.h>

void *memset(void *to, int value, size_t bytes);
void *memcpy(void *to, const void *from, size_t bytes);
void *memmove(void *to, const void *from, size_t bytes);
int memcmp(const void *a, const void *b, size_t bytes);

#define PLAIN_LOOP __attribute__((optimize("no-tree-loop-distribute-patterns")))

PLAIN_LOOP void *memset(void *to, int value, size_t bytes)
{
    unsigned char *out = to;

    while (bytes--)
        *out++ = (unsigned char)value;
    return to;
}

PLAIN_LOOP void *memcpy(void *to, const void *from, size_t bytes)
{
    unsigned char *out = to;
    const unsigned char *in = from;

    if (!(((size_t)out | (size_t)in | bytes) & 3)) {
        unsigned int *out4 = to;
        const unsigned int *in4 = from;

        for (; bytes; bytes -= 4)
            *out4++ = *in4++;
        return to;
    }
    while (bytes--)
        *out++ = *in++;
    return to;
}

PLAIN_LOOP void *memmove(void *to, const void *from, size_t bytes)
{
    unsigned char *out = to;
    const unsigned char *in = from;

    if (out < in)
        return memcpy(to, from, bytes);
    while (bytes--)
        out[bytes] = in[bytes];
    return to;
}

int memcmp(const void *a, const void *b, size_t bytes)
{
    const unsigned char *x = a, *y = b;

    for (; bytes; bytes--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}
