#include "text/python_json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* repr(float): the shortest digits that read back; fixed notation for 1e-4 <= |v| < 1e16, always with a fraction. */
static void python_float(struct buf *out, double v) {
    char text[40];
    for (int digits = 0; digits <= 16; digits++) {
        snprintf(text, sizeof text, "%.*e", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    char *e = strchr(text, 'e');
    if (!e) { /* inf, nan: JSON input cannot hold them, but 1e999 reads as inf */
        buf_str(out, v > 0 ? "Infinity" : v < 0 ? "-Infinity" : "NaN");
        return;
    }
    int exponent = atoi(e + 1);
    if (exponent >= -4 && exponent < 16) {
        int digits = (int)(e - text) - (text[0] == '-') - 1; /* after the first digit, with the point */
        digits = digits > 0 ? digits - 1 : 0;
        int decimals = digits - exponent;
        buf_printf(out, "%.*f", decimals > 1 ? decimals : 1, v);
        return;
    }
    *e = 0;
    buf_printf(out, "%se%c%02d", text, exponent < 0 ? '-' : '+', abs(exponent));
}

static void python_string(struct buf *out, const char *s, size_t n) {
    buf_char(out, '"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        const char *short_forms = "\"\\\n\r\t\b\f", *letters = "\"\\nrtbf", *at = c ? strchr(short_forms, c) : NULL;
        if (at) buf_char(out, '\\'), buf_char(out, letters[at - short_forms]);
        else if (c < 0x20) buf_printf(out, "\\u%04x", c);
        else buf_char(out, (char)c);
    }
    buf_char(out, '"');
}

/* The depth is bounded by json_parse. */
void python_json(struct buf *out, const struct json *v) {
    switch (v->type) {
    case JSON_NULL: buf_str(out, "null"); return;
    case JSON_BOOL: buf_str(out, v->boolean ? "true" : "false"); return;
    case JSON_NUMBER:
        if (v->is_integer) buf_printf(out, "%" PRId64, v->integer);
        else python_float(out, v->number);
        return;
    case JSON_STRING: python_string(out, v->string, v->count); return;
    case JSON_ARRAY:
        buf_char(out, '[');
        for (uint32_t i = 0; i < v->count; i++) {
            if (i) buf_str(out, ", ");
            python_json(out, v->items[i]);
        }
        buf_char(out, ']');
        return;
    case JSON_OBJECT:
        buf_char(out, '{');
        for (uint32_t i = 0; i < v->count; i++) {
            if (i) buf_str(out, ", ");
            python_string(out, v->members[i].key, v->members[i].key_len);
            buf_str(out, ": ");
            python_json(out, v->members[i].value);
        }
        buf_char(out, '}');
        return;
    }
}
