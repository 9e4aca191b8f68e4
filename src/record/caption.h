/* Words on pictures, in the letters of Tiny Woods (rom/tinywoods/art/font.txt, built in). ASCII; other characters become a diamond. */
#ifndef RECORD_CAPTION_H
#define RECORD_CAPTION_H

#include <stdint.h>

enum { CAPTION_ROWS = 9 }; /* of a letter, seven of them above the line */

struct canvas { /* RGB rows */
    uint8_t *rgb;
    int width, height;
};

/* Width in pixels at this scale. */
int caption_width(const char *text, int scale);
/* Draws one line with its upper left corner at x, y; what does not fit is left out. Returns x behind it. */
int caption_draw(struct canvas *c, int x, int y, int scale, uint32_t colour /* 0xRRGGBB */, const char *text);
void caption_fill(struct canvas *c, int x, int y, int width, int height, uint32_t colour);

#endif
