#include "record/caption.h"

#include <pthread.h>
#include <stddef.h>
#include <string.h>

/* The font as the ROM's artist wrote it: six blocks of nine rows, sixteen characters of five columns a row with '|' between. */
__asm__(".pushsection .rodata\n"
        "caption_font: .incbin \"rom/tinywoods/art/font.txt\"\n"
        "caption_font_end: .byte 0\n"
        ".popsection\n");
extern const char caption_font[], caption_font_end[];

enum { COLUMNS = 5, PER_BLOCK = 16, FIRST = ' ', LAST = '~', DIAMOND = LAST + 1, SPACE_WIDTH = 3, GAP = 1, ROW_LENGTH = PER_BLOCK * (COLUMNS + 1) - 1 };

/* Row `row` of a character, COLUMNS bytes; NULL: the file has no such row. Skips the comment lines, which begin with ';'. */
static const char *glyph_row(int character, int row) {
    int block = (character - FIRST) / PER_BLOCK, at = (character - FIRST) % PER_BLOCK, wanted = block * CAPTION_ROWS + row, seen = 0;
    for (const char *line = caption_font; line < caption_font_end;) {
        const char *end = memchr(line, '\n', (size_t)(caption_font_end - line));
        if (!end) break;
        if (*line != ';' && end - line >= ROW_LENGTH && seen++ == wanted) return line + at * (COLUMNS + 1);
        line = end + 1;
    }
    return NULL;
}

/* The rows of all characters as bits, made at the first use. */
static struct {
    uint8_t rows[DIAMOND - FIRST + 1][CAPTION_ROWS], width[DIAMOND - FIRST + 1];
} letters;
static pthread_once_t letters_once = PTHREAD_ONCE_INIT;

static void read_letters(void) {
    for (int c = FIRST; c <= DIAMOND; c++) {
        for (int y = 0; y < CAPTION_ROWS; y++) {
            const char *row = glyph_row(c, y);
            for (int x = 0; row && x < COLUMNS; x++) {
                if (row[x] != '#') continue;
                letters.rows[c - FIRST][y] |= (uint8_t)(1 << x);
                if (letters.width[c - FIRST] <= x) letters.width[c - FIRST] = (uint8_t)(x + 1);
            }
        }
        if (!letters.width[c - FIRST]) letters.width[c - FIRST] = SPACE_WIDTH;
    }
}

/* The next character: ASCII, or the diamond for a whole UTF-8 sequence. */
static int take_character(const char **text) {
    unsigned char c = (unsigned char)*(*text)++;
    while (c >= 0x80 && ((unsigned char)**text & 0xC0) == 0x80) (*text)++;
    return c < FIRST || c > LAST ? DIAMOND : c;
}

int caption_width(const char *text, int scale) {
    int width = 0;
    pthread_once(&letters_once, read_letters);
    while (*text) width += (letters.width[take_character(&text) - FIRST] + GAP) * scale;
    return width;
}

void caption_fill(struct canvas *c, int x, int y, int width, int height, uint32_t colour) {
    for (int row = y < 0 ? 0 : y; row < y + height && row < c->height; row++) {
        for (int column = x < 0 ? 0 : x; column < x + width && column < c->width; column++) {
            uint8_t *p = c->rgb + 3 * ((size_t)row * (size_t)c->width + (size_t)column);
            p[0] = (uint8_t)(colour >> 16), p[1] = (uint8_t)(colour >> 8), p[2] = (uint8_t)colour;
        }
    }
}

int caption_draw(struct canvas *c, int x, int y, int scale, uint32_t colour, const char *text) {
    pthread_once(&letters_once, read_letters);
    while (*text) {
        int character = take_character(&text) - FIRST, width = letters.width[character];
        if (x + width * scale > c->width) break;
        for (int row = 0; row < CAPTION_ROWS; row++) {
            for (int column = 0; column < width; column++) {
                if (letters.rows[character][row] >> column & 1) caption_fill(c, x + column * scale, y + row * scale, scale, scale, colour);
            }
        }
        x += (width + GAP) * scale;
    }
    return x;
}
