/* Base64 (RFC 4648), as data URIs carry it. */
#include "serve/api_room.h"

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
