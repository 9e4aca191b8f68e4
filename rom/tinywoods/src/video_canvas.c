/* video_canvas.c: BG0 as a bitmap. A letter row is up to seven bits; each bit becomes a nibble, the nibbles of a row and of the
 * row above give the drop shadow, and both land in one or two words of video memory. */
#include "video_parts.h"
#include "art_data.h"

static const u16 nibbles[16] = {
    0x0000, 0x000F, 0x00F0, 0x00FF, 0x0F00, 0x0F0F, 0x0FF0, 0x0FFF, 0xF000, 0xF00F, 0xF0F0, 0xF0FF, 0xFF00, 0xFF0F, 0xFFF0, 0xFFFF
};

#define ARM_INLINE static inline __attribute__((target("arm"), always_inline))

ARM_INLINE u32 *canvas_word(int x, int y)
{
    return &CANVAS[((y >> 3) * CANVAS_COLS + (x >> 3)) * 8 + (y & 7)];
}

IWRAM_CODE void canvas_clear(int col, int row, int cols, int rows)
{
    for (int y = row; y < row + rows; y++) {
        u32 *word = &CANVAS[(y * CANVAS_COLS + col) * 8];

        for (int i = 0; i < cols * 8; i += 8) {
            word[i] = word[i + 1] = word[i + 2] = word[i + 3] = 0;
            word[i + 4] = word[i + 5] = word[i + 6] = word[i + 7] = 0;
        }
    }
}

IWRAM_CODE void canvas_rect(int x, int y, int w, int h, int ink)
{
    if (x < 0)
        w += x, x = 0;
    if (y < 0)
        h += y, y = 0;
    if (x + w > SCREEN_W)
        w = SCREEN_W - x;
    if (y + h > SCREEN_H)
        h = SCREEN_H - y;
    if (w <= 0)
        return;
    for (; h > 0; h--, y++)
        for (int left = x; left < x + w; left = (left | 7) + 1) {
            u32 *word = canvas_word(left, y), mask = 0xFFFFFFFFu << 4 * (left & 7);

            if ((left | 7) >= x + w)
                mask &= 0xFFFFFFFFu >> 4 * (8 - ((x + w) & 7));
            *word = (*word & ~mask) | (0x11111111u * (u32)ink & mask);
        }
}

ARM_INLINE void put_word(int x, int y, u32 mask, u32 value)
{
    int shift = 4 * (x & 7);
    u32 *word = canvas_word(x, y);

    *word = (*word & ~(mask << shift)) | value << shift;
    if (shift && mask >> (32 - shift) && x < SCREEN_W - 8)
        word[8] = (word[8] & ~(mask >> (32 - shift))) | value >> (32 - shift);
}

IWRAM_CODE void canvas_letter(int x, int y, int code, int ink)
{
    const u8 *rows = art_font_rows[code - 32];
    u32 above = 0;

    if (x < 0 || y < 0 || x >= SCREEN_W || y + ART_FONT_ROWS >= SCREEN_H)
        return;
    for (int r = 0; r <= ART_FONT_ROWS; r++) {
        u32 bits = r < ART_FONT_ROWS ? rows[r] : 0;
        u32 mask = nibbles[bits & 15] | (u32)nibbles[bits >> 4] << 16;
        u32 shadow = (mask << 4 | above | above << 4) & ~mask;

        if (mask | shadow)
            put_word(x, y + r, mask | shadow, (mask & 0x11111111u * (u32)ink) | (shadow & 0x11111111u * INK_SHADOW));
        above = mask;
    }
}

int letter_width(int code)
{
    return code == LETTER_GAP ? 6 : code == LETTER_ELLIPSIS ? 6 : code >= 32 ? art_font_width[code - 32] : 0;
}

static int colour_of(char name, int plain_ink)
{
    switch (name) {
    case 'W': return INK_RED;
    case 'H': case 'I': return INK_GREEN;
    case 'G': case 'M': return INK_CYAN;
    case 'C': case 'D': case 'N': return INK_YELLOW;
    default: return plain_ink;
    }
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int letter_of(u8 byte)
{
    switch (byte) {
    case 0xE9: return 'e';
    case 0x85: return LETTER_ELLIPSIS;
    case 0x91: case 0x92: return '\'';
    case 0x93: case 0x94: return '"';
    case 0x60: return LETTER_GAP;
    case '\n': case '\r': return LETTER_NEWLINE;
    default: return byte >= 32 && byte < 127 ? byte : 127;
    }
}

int letter_next(const char **text, int *ink, int plain_ink)
{
    const char *p = *text;
    u8 byte = (u8)*p;

    if (!byte)
        return LETTER_END;
    if (byte == '~' && hex_digit(p[1]) >= 0 && hex_digit(p[2]) >= 0) {
        *text = p + 3;
        return letter_of((u8)(hex_digit(p[1]) << 4 | hex_digit(p[2])));
    }
    if ((byte >= 0x81 && byte <= 0x84) || byte == 0x87) {          /* two-byte signs: the buttons are known */
        *text = p[1] ? p + 2 : p + 1;
        return byte != 0x87 ? 127 : (u8)p[1] == 0x50 ? 'A' : (u8)p[1] == 0x51 ? 'B' : (u8)p[1] == 0x52 ? '+' : 127;
    }
    if (byte != '#') {
        *text = p + 1;
        return letter_of(byte);
    }
    switch (p[1]) {
    case 0: *text = p + 1; return LETTER_SKIP;
    case 'C': case 'c': *ink = colour_of(p[2], plain_ink); *text = p[2] ? p + 3 : p + 2; return LETTER_SKIP;
    case 'R': case 'r': *ink = plain_ink; *text = p + 2; return LETTER_SKIP;
    case 'n': *text = p + 2; return LETTER_NEWLINE;
    case 'P': *text = p + 2; return LETTER_PAGE;
    case '=': case 'y': case '.': case '~': case '_': *text = p[2] ? p + 3 : p + 2; return LETTER_SKIP;
    case '>':
        for (p += 2; *p >= '0' && *p <= '9'; p++)
            ;
        *text = *p == '.' ? p + 1 : p;
        return LETTER_SKIP;
    case '[':
        while (*p && *p != ']')
            p++;
        *text = *p ? p + 1 : p;
        return LETTER_SKIP;
    default: *text = p + 2; return LETTER_SKIP;
    }
}

int canvas_text(int x, int y, const char *text, int ink)
{
    int now = ink, code;

    while (text && (code = letter_next(&text, &now, ink)) != LETTER_END && code != LETTER_NEWLINE && code != LETTER_PAGE) {
        if (code >= 32) {
            canvas_letter(x, y, code, now);
        } else if (code == LETTER_ELLIPSIS) {
            for (int i = 0; i < 3; i++)
                canvas_letter(x + 2 * i, y, '.', now);
        }
        x += letter_width(code);
    }
    return x;
}

int text_width(const char *text)
{
    int width = 0, ink = 0, code;

    while (text && (code = letter_next(&text, &ink, 0)) != LETTER_END && code != LETTER_NEWLINE && code != LETTER_PAGE)
        width += letter_width(code);
    return width;
}

u32 text_hash(u32 hash, const char *text)
{
    hash = hash * 16777619u + (u32)(text != 0);
    for (int i = 0; text && text[i] && i < 64; i++)
        hash = (hash ^ (u8)text[i]) * 16777619u;
    return hash;
}

void canvas_frame(int x, int y, int w, int h)
{
    canvas_rect(x + 2, y, w - 4, 1, INK_FRAME_DARK);
    canvas_rect(x + 2, y + h - 1, w - 4, 1, INK_FRAME_DARK);
    canvas_rect(x, y + 2, 1, h - 4, INK_FRAME_DARK);
    canvas_rect(x + w - 1, y + 2, 1, h - 4, INK_FRAME_DARK);
    canvas_rect(x + 1, y + 1, w - 2, 2, INK_FRAME);
    canvas_rect(x + 1, y + h - 3, w - 2, 2, INK_FRAME);
    canvas_rect(x + 1, y + 1, 2, h - 2, INK_FRAME);
    canvas_rect(x + w - 3, y + 1, 2, h - 2, INK_FRAME);
}

/* Letters blown up for the logo: the upper rows in one colour, the lower ones in another, a shadow behind all. */
void canvas_big(int x, int y, int scale, const char *text, int ink, int ink_low)
{
    for (int pass = 0; pass < 2; pass++) {
        int left = x;

        for (const char *p = text; p && *p >= ' ' && *p < 127; p++) {
            const u8 *rows = art_font_rows[*p - 32];

            for (int r = 0; r < ART_FONT_ROWS; r++)
                for (int b = 0; b < 7; b++) {
                    if (!(rows[r] >> b & 1))
                        continue;
                    if (pass)
                        canvas_rect(left + b * scale, y + r * scale, scale, scale, r < 4 ? ink : ink_low);
                    else
                        canvas_rect(left + b * scale - 2, y + r * scale - 2, scale + 4, scale + 5, INK_SHADOW);
                }
            left += art_font_width[*p - 32] * scale;
        }
    }
}
