#include "base/base64.h"

static int digit(unsigned char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' || c == '-' ? 62 : c == '/' || c == '_' ? 63 : -1;
}

int base64_decode(const char *text, size_t n, struct buf *out) {
    unsigned v = 0;
    int bits = 0;
    size_t digits = 0, padding = 0;
    if (!buf_reserve(out, n / 4 * 3 + 4)) return -1;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == ' ' || c == '\t' || c == '\r' || c == '\n') continue;
        if (c == '=') {
            padding++;
            continue;
        }
        int d = digit(c);
        if (d < 0 || padding) return -1;
        v = v << 6 | (unsigned)d;
        digits++;
        if ((bits += 6) < 8) continue;
        bits -= 8;
        buf_char(out, (char)(v >> bits & 255));
    }
    if (digits % 4 == 1 || padding > 2 || (padding && (digits + padding) % 4)) return -1;
    return out->failed ? -1 : 0;
}

void base64_encode(const void *data, size_t n, struct buf *out) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i += 3) {
        unsigned v = (unsigned)p[i] << 16 | (i + 1 < n ? (unsigned)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        char four[4] = {letters[v >> 18], letters[v >> 12 & 63], i + 1 < n ? letters[v >> 6 & 63] : '=', i + 2 < n ? letters[v & 63] : '='};
        buf_append(out, four, 4);
    }
}
