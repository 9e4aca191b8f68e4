#include "base/utf8.h"

int utf8_length(const char *s, size_t n) {
    const unsigned char *p = (const unsigned char *)s;
    if (n == 0) return 0;
    if (p[0] < 0x80) return 1;
    if (p[0] < 0xC2 || p[0] > 0xF4) return -1;
    int len = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    unsigned low = 0x80, high = 0xBF; /* bounds of the second byte */
    if (p[0] == 0xE0) low = 0xA0;
    if (p[0] == 0xED) high = 0x9F;
    if (p[0] == 0xF0) low = 0x90;
    if (p[0] == 0xF4) high = 0x8F;
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n) return 0;
        if (p[i] < low || p[i] > high) return -1;
        low = 0x80;
        high = 0xBF;
    }
    return len;
}

uint32_t utf8_decode(const char *s, int length) {
    const unsigned char *p = (const unsigned char *)s;
    if (length == 1) return p[0];
    uint32_t c = p[0] & (0x7Fu >> length);
    for (int i = 1; i < length; i++) c = c << 6 | (p[i] & 0x3F);
    return c;
}

int utf8_encode(uint32_t c, char out[4]) {
    if (c < 0x80) return out[0] = (char)c, 1;
    int len = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = len - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)((0xF00 >> len) | c);
    return len;
}

size_t utf8_valid_prefix(const char *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        int len = utf8_length(s + i, n - i);
        if (len <= 0) return i;
        i += (size_t)len;
    }
    return n;
}
