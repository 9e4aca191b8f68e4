/* HTTP/1.1 heads and chunked bodies. */
#include "serve/http_parse.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "base/utf8.h"

size_t http_head_length(const char *data, size_t n) {
    const char *end = memmem(data, n, "\r\n\r\n", 4);
    return end ? (size_t)(end - data) + 4 : 0;
}

static bool is_token(unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Percent-decodes in place; false when the result holds control characters or is no UTF-8. */
static bool decode_path(char *s) {
    char *to = s;
    for (char *from = s; *from; from++) {
        if (*from == '%' && hex(from[1]) >= 0 && hex(from[2]) >= 0) {
            *to++ = (char)(hex(from[1]) * 16 + hex(from[2]));
            from += 2;
        } else
            *to++ = *from;
        if ((unsigned char)to[-1] < 32 || to[-1] == 127) return false;
    }
    *to = 0;
    return utf8_valid_prefix(s, (size_t)(to - s)) == (size_t)(to - s);
}

/* "GET /path?query HTTP/1.1" */
static int parse_request_line(char *line, struct http_head *out, const char **why) {
    char *target = strchr(line, ' '), *version = target ? strchr(target + 1, ' ') : NULL;
    *why = "the request line is not 'METHOD TARGET HTTP/1.1'";
    if (!version || target == line) return 400;
    *target++ = 0;
    *version++ = 0;
    for (char *p = line; *p; p++)
        if (!is_token((unsigned char)*p)) return 400;
    if (strncmp(version, "HTTP/", 5) || strlen(version) != 8) return 400;
    if (strcmp(version, "HTTP/1.1") && strcmp(version, "HTTP/1.0")) {
        *why = "this server speaks HTTP/1.1";
        return 505;
    }
    out->method = line;
    out->http10 = version[7] == '0';
    if (!strncasecmp(target, "http://", 7)) {
        target = strchr(target + 7, '/');
        if (!target) return 400;
    }
    if (target[0] != '/') return 400;
    char *query = strchr(target, '?');
    if (query) *query++ = 0;
    out->query = query ? query : "";
    out->path = target;
    *why = "the path holds control characters or no UTF-8";
    return decode_path(target) ? 0 : 400;
}

static int parse_length(struct http_head *out, const char *value, const char **why) {
    size_t n = strlen(value);
    *why = "Content-Length is no number of bytes";
    if (n == 0 || n > 18 || strspn(value, "0123456789") != n) return 400;
    unsigned long long length = 0;
    for (size_t i = 0; i < n; i++) length = length * 10 + (unsigned)(value[i] - '0');
    *why = "two values of Content-Length";
    if (out->has_length && out->length != length) return 400;
    out->has_length = true;
    out->length = length;
    return 0;
}

static int parse_field(char *line, char *end, struct http_head *out, const char **why) {
    char *colon = memchr(line, ':', (size_t)(end - line));
    *why = "a header line is not 'Name: value'";
    if (!colon || colon == line) return 400;
    for (char *p = line; p < colon; p++) {
        if (!is_token((unsigned char)*p)) return 400;
        if (*p >= 'A' && *p <= 'Z') *p = (char)(*p + 32);
    }
    *colon = 0;
    char *value = colon + 1;
    while (value < end && (*value == ' ' || *value == '\t')) value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) end--;
    *end = 0;
    for (char *p = value; p < end; p++)
        if (((unsigned char)*p < 32 && *p != '\t') || *p == 127) return 400;
    if (out->count == HEAD_MAX_FIELDS) {
        *why = "more than 100 header lines";
        return 431;
    }
    out->fields[out->count++] = (struct http_field){line, value};
    if (!strcmp(line, "content-length")) return parse_length(out, value, why);
    if (strcmp(line, "transfer-encoding")) return 0;
    *why = "the only Transfer-Encoding read here is 'chunked'";
    if (out->chunked || strcasecmp(value, "chunked")) return 501;
    out->chunked = true;
    return 0;
}

int http_head_parse(const char *data, size_t n, struct arena *a, struct http_head *out, const char **why) {
    *out = (struct http_head){0};
    *why = "the head holds a NUL or a bare line feed";
    char *line = arena_string(a, data, n);
    if (!line) {
        *why = "out of memory";
        return 500;
    }
    if (memchr(line, 0, n)) return 400;
    char *end = line + n - 2; /* the empty line */
    for (int row = 0; line < end; row++) {
        char *stop = strchr(line, '\n');
        if (!stop || stop == line || stop[-1] != '\r') return 400;
        stop[-1] = 0;
        int status = row == 0 ? parse_request_line(line, out, why) : parse_field(line, stop - 1, out, why);
        if (status) return status;
        *why = "the head holds a NUL or a bare line feed";
        line = stop + 1;
    }
    *why = "no request line";
    if (!out->method) return 400;
    *why = "both Content-Length and Transfer-Encoding";
    if (out->chunked && out->has_length) return 400;
    *why = "HTTP/1.0 knows no chunks";
    if (out->chunked && out->http10) return 400;
    *why = "a request in HTTP/1.1 needs one Host";
    int hosts = 0;
    for (int i = 0; i < out->count; i++) hosts += !strcmp(out->fields[i].name, "host");
    if (hosts > 1 || (hosts == 0 && !out->http10)) return 400;
    const char *connection = http_head_field(out, "connection");
    out->close = out->http10 ? !http_value_has(connection, "keep-alive") : http_value_has(connection, "close");
    return 0;
}

const char *http_head_field(const struct http_head *h, const char *name) {
    for (int i = 0; i < h->count; i++)
        if (!strcmp(h->fields[i].name, name)) return h->fields[i].value;
    return "";
}

bool http_value_has(const char *value, const char *word) {
    size_t n = strlen(word);
    while (*value) {
        value += strspn(value, " \t,");
        size_t k = strcspn(value, ",");
        size_t trimmed = k;
        while (trimmed && (value[trimmed - 1] == ' ' || value[trimmed - 1] == '\t')) trimmed--;
        if (trimmed == n && !strncasecmp(value, word, n)) return true;
        value += k;
    }
    return false;
}

/* ---- chunks ---- */

enum { CHUNK_SIZE, CHUNK_SIZE_DIGITS, CHUNK_EXTENSION, CHUNK_SIZE_LF, CHUNK_DATA, CHUNK_CR, CHUNK_LF, TRAILER_START, TRAILER,
       TRAILER_LF, LAST_LF, CHUNKS_DONE };

int http_chunks_take(struct http_chunks *c, const char *data, size_t n, size_t *used, struct buf *out, size_t limit) {
    size_t i = 0;
    int result = 0;
    while (i < n && !result) {
        char b = data[i];
        switch (c->state) {
        case CHUNK_SIZE:
        case CHUNK_SIZE_DIGITS:
            if (hex(b) >= 0) {
                if (c->left >> 40) result = -2;
                c->left = c->left * 16 + (unsigned)hex(b);
                c->state = CHUNK_SIZE_DIGITS;
            } else if (c->state == CHUNK_SIZE)
                result = -1;
            else if (b == ';') {
                c->state = CHUNK_EXTENSION;
                c->trailer = 0;
            } else if (b == '\r')
                c->state = CHUNK_SIZE_LF;
            else
                result = -1;
            break;
        case CHUNK_EXTENSION:
            if (b == '\r') c->state = CHUNK_SIZE_LF;
            else if (b == '\n' || ++c->trailer > 1024) result = -1;
            break;
        case CHUNK_SIZE_LF:
            c->state = c->left ? CHUNK_DATA : TRAILER_START;
            c->trailer = 0;
            if (b != '\n') result = -1;
            else if (c->left > limit || out->len > limit - c->left) result = -2;
            break;
        case CHUNK_DATA: {
            size_t k = n - i < c->left ? n - i : (size_t)c->left;
            buf_append(out, data + i, k);
            c->left -= k;
            i += k - 1;
            if (c->left == 0) c->state = CHUNK_CR;
            break;
        }
        case CHUNK_CR:
            c->state = CHUNK_LF;
            if (b != '\r') result = -1;
            break;
        case CHUNK_LF:
            c->state = CHUNK_SIZE;
            if (b != '\n') result = -1;
            break;
        case TRAILER_START: c->state = b == '\r' ? LAST_LF : TRAILER; break;
        case TRAILER:
            if (b == '\r') c->state = TRAILER_LF;
            else if (++c->trailer > 8192) result = -1;
            break;
        case TRAILER_LF:
            c->state = TRAILER_START;
            if (b != '\n') result = -1;
            break;
        case LAST_LF:
            c->state = CHUNKS_DONE;
            result = b == '\n' ? 1 : -1;
            break;
        default: result = -1;
        }
        i++;
    }
    *used = i;
    return result;
}
