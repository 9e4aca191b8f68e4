#include "memory/scratchpad.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

/* Control characters, C1 controls, line and paragraph separators, and marks that turn the direction of writing. */
static int is_control(uint32_t c) {
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == 0x2028 || c == 0x2029 || (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069) ||
           c == 0x200E || c == 0x200F || c == 0xFEFF;
}

size_t line_escape(const char *text, char *out, size_t cap) {
    size_t n = strlen(text), used = 0;
    for (size_t i = 0; i < n && cap;) {
        int length = utf8_length(text + i, n - i);
        char piece[16];
        int bytes;
        if (length <= 0) {
            bytes = snprintf(piece, sizeof piece, "\xEF\xBF\xBD");
            length = 1;
        } else {
            uint32_t c = utf8_decode(text + i, length);
            if (c == '\n' || c == '\t' || c == '\r') bytes = snprintf(piece, sizeof piece, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
            else if (is_control(c)) bytes = snprintf(piece, sizeof piece, c < 0x100 ? "\\x%02x" : "\\u%04x", (unsigned)c);
            else memcpy(piece, text + i, (size_t)length), bytes = length;
        }
        if (used + (size_t)bytes >= cap) break;
        memcpy(out + used, piece, (size_t)bytes);
        used += (size_t)bytes;
        i += (size_t)length;
    }
    if (cap) out[used] = 0;
    return used;
}

static void remove_line(struct scratchpad *p, int i) {
    memmove(&p->line[i], &p->line[i + 1], (size_t)(p->count - i - 1) * sizeof *p->line);
    p->count--;
}

static int find_line(const struct scratchpad *p, const char *text) {
    for (int i = 0; i < p->count; i++) {
        if (!strcmp(p->line[i].text, text)) return i;
    }
    return -1;
}

enum scratchpad_written scratchpad_write(struct scratchpad *p, const char *note, int floor, uint32_t step) {
    struct scratchpad_line line = {.floor = floor, .step = step};
    while (*note == ' ') note++;
    size_t n = line_escape(note, line.text, sizeof line.text);
    while (n && line.text[n - 1] == ' ') line.text[--n] = 0;
    if (!n) return SCRATCHPAD_IGNORED;
    int at = find_line(p, line.text);
    if (at >= 0) remove_line(p, at);
    else if (p->count == SCRATCHPAD_LINES) remove_line(p, 0);
    p->line[p->count++] = line;
    return at >= 0 ? SCRATCHPAD_RENEWED : SCRATCHPAD_ADDED;
}
