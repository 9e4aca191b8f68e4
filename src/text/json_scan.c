#include "text/json_scan.h"

#include <string.h>

#include "base/utf8.h"
#include "text/parts.h"

static void skip_space(struct json_scan *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t')) s->at++;
}

char scan_peek(struct json_scan *s) {
    skip_space(s);
    return s->at < s->end ? *s->at : 0;
}

bool scan_char(struct json_scan *s, char c) {
    skip_space(s);
    if (s->at == s->end || *s->at != c) return false;
    s->at++;
    return true;
}

bool scan_integer(struct json_scan *s, int32_t *out) {
    skip_space(s);
    const char *start = s->at;
    int64_t value = 0;
    for (; s->at < s->end && *s->at >= '0' && *s->at <= '9' && value <= INT32_MAX; s->at++) value = value * 10 + (*s->at - '0');
    if (s->at == start || value > INT32_MAX || (*start == '0' && s->at - start > 1)) return false;
    if (s->at < s->end && (*s->at == '.' || *s->at == 'e' || *s->at == 'E')) return false;
    *out = (int32_t)value;
    return true;
}

static int hex4(const char *p) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* One character inside a string, escapes resolved. -1: malformed. */
static int64_t next_character(struct json_scan *s) {
    unsigned char c = (unsigned char)*s->at;
    if (c < 0x20) return -1;
    if (c != '\\') {
        if (c < 0x80) return s->at++, c;
        int len = utf8_length(s->at, (size_t)(s->end - s->at));
        if (len <= 0) return -1;
        uint32_t point = utf8_decode(s->at, len);
        s->at += len;
        return point;
    }
    if (s->end - s->at < 2) return -1;
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    char escape = s->at[1];
    s->at += 2;
    if (escape != 'u') {
        const char *which = escape ? strchr(letters, escape) : NULL;
        return which ? (unsigned char)meanings[which - letters] : -1;
    }
    int high = s->end - s->at >= 4 ? hex4(s->at) : -1;
    if (high < 0 || (high >= 0xDC00 && high <= 0xDFFF)) return -1;
    s->at += 4;
    if (high < 0xD800 || high > 0xDBFF) return high;
    int low = s->end - s->at >= 6 && s->at[0] == '\\' && s->at[1] == 'u' ? hex4(s->at + 2) : -1;
    if (low < 0xDC00 || low > 0xDFFF) return -1;
    s->at += 6;
    return 0x10000 + ((int64_t)(high - 0xD800) << 10) + (low - 0xDC00);
}

/* Reads the string as plain UTF-8: for pieces with characters outside the alphabet. */
static bool plain_text(struct json_scan *s, char *out, size_t cap, size_t *length) {
    size_t n = 0;
    while (s->at < s->end && *s->at != '"') {
        int64_t c = next_character(s);
        if (c < 0 || n + 4 > cap) return false;
        n += (size_t)utf8_encode((uint32_t)c, out + n);
    }
    *length = n;
    return s->at < s->end && s->at++;
}

bool scan_piece(struct json_scan *s, char *out, size_t cap, size_t *length, bool *byte_level, bool split, size_t *space) {
    if (!scan_char(s, '"')) return false;
    const char *start = s->at;
    size_t n = 0;
    *space = SIZE_MAX;
    *byte_level = true;
    while (s->at < s->end && *s->at != '"') {
        unsigned char c = (unsigned char)*s->at;
        int byte;
        if (c > ' ' && c < 0x7F && c != '\\') {
            byte = c;
            s->at++;
        } else if (c == ' ' && split && *space == SIZE_MAX) {
            *space = n;
            s->at++;
            continue;
        } else {
            int64_t point = next_character(s);
            if (point < 0) return false;
            byte = byte_level_byte((uint32_t)point);
            if (byte < 0) { /* not byte-level after all */
                *byte_level = false;
                s->at = start;
                return plain_text(s, out, cap, length);
            }
        }
        if (n == cap) return false;
        out[n++] = (char)byte;
    }
    *length = n;
    if (s->at == s->end) return false;
    s->at++;
    return true;
}

bool scan_skip(struct json_scan *s) {
    int64_t depth = 0;
    skip_space(s);
    while (s->at < s->end) {
        char c = *s->at;
        if (c == '"') {
            for (s->at++; s->at < s->end && *s->at != '"'; s->at++)
                if (*s->at == '\\' && ++s->at == s->end) return false;
            if (s->at == s->end) return false;
            s->at++;
        } else if (c == '[' || c == '{') {
            depth++;
            s->at++;
            continue;
        } else if (c == ']' || c == '}') {
            if (depth == 0) return true; /* the end of what surrounds a bare value */
            depth--;
            s->at++;
        } else if (depth == 0 && c == ',') {
            return true;
        } else {
            s->at++;
            if (depth) continue;
            if (s->at < s->end && !strchr(",]} \t\r\n", *s->at)) continue; /* a literal goes on */
        }
        if (depth == 0) return true;
    }
    return depth == 0;
}
