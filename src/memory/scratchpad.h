/* A scratchpad that the model writes to and reads in its prompt: few short lines, each with where it was written. What is written is data: it
 * is shown as a quotation, on one line, with control characters escaped, and it cannot become control tokens (the engine sees to that).
 * It is persisted as the `note` of a step in the run; a resumed run fills it again from there. */
#ifndef MEMORY_SCRATCHPAD_H
#define MEMORY_SCRATCHPAD_H

#include <stddef.h>
#include <stdint.h>

enum { SCRATCHPAD_LINES = 6, SCRATCHPAD_BYTES = 120 /* of a line */ };

struct scratchpad_line {
    char text[SCRATCHPAD_BYTES + 1];
    int floor;
    uint32_t step;
};
struct scratchpad { /* a zeroed one is empty */
    struct scratchpad_line line[SCRATCHPAD_LINES]; /* oldest first */
    int count;
};

enum scratchpad_written { SCRATCHPAD_IGNORED, SCRATCHPAD_ADDED, SCRATCHPAD_RENEWED };
/* Adds a note; the oldest line gives way. A note that is there already moves to the end with its new place; an empty one is ignored; a
 * long one is cut at a character. */
enum scratchpad_written scratchpad_write(struct scratchpad *p, const char *note, int floor, uint32_t step);

/* One line of valid UTF-8 without control characters (they become \\n, \\t, \\x1b ..., other invalid bytes U+FFFD), at most cap - 1 bytes, cut at
 * a character. Returns the length. */
size_t line_escape(const char *text, char *out, size_t cap);

#endif
