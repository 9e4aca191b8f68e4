/* The game's text: one byte a character, much like Windows-1252; lead bytes 0x81-0x84 and 0x87 take a second one (Shift-JIS
 * symbols, kana and the game's own icons); `~` and two hex digits is an escaped byte; `#` begins a layout code. */
#include "game/text.h"

#include <string.h>

#include "base/utf8.h"

struct sink {
    char *out;
    size_t cap, len;
    bool full;
};

static void put(struct sink *s, const char *text) {
    size_t n = strlen(text);
    if (s->full || s->len + n >= s->cap) {
        s->full = true; /* whole characters only */
        return;
    }
    memcpy(s->out + s->len, text, n);
    s->len += n;
}

static void put_code_point(struct sink *s, uint32_t c) {
    char text[5];
    text[utf8_encode(c, text)] = 0;
    put(s, text);
}

/* 0x80 to 0xBF where they are not Latin-1; 0 = drawn as nothing. */
static const uint16_t high[0x40] = {
    [0x00] = 0x20AC, [0x02] = 0x201A, [0x03] = 0x192, [0x04] = 0x201E, [0x05] = 0x2026, [0x06] = 0x2020, [0x07] = 0x2021,
    [0x08] = 0x2C6, [0x09] = 0x2030, [0x0A] = 0x160, [0x0B] = 0x2039, [0x0C] = 0x152, [0x0E] = 0x17D, [0x11] = 0x2018,
    [0x12] = 0x2019, [0x13] = 0x201C, [0x14] = 0x201D, [0x15] = 0x2022, [0x16] = 0x2013, [0x17] = 0x2014, [0x18] = 0x2DC,
    [0x19] = 0x2122, [0x1A] = 0x161, [0x1B] = 0x203A, [0x1C] = 0x153, [0x1E] = 0x17E, [0x1F] = 0x178, [0x20] = ' ',
    [0x21] = 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7, 0xA8, 0xA9, 0xAA, 0xAB, 0xAC, '-', 0xAE, 0xAF, 0xB0, 0xB1, 0xB2, 0xB3,
    0xB4, 0xB5, 0xB6, [0x37] = 0x201E, [0x38] = 0x201A, [0x39] = 0xB9, [0x3A] = 0x2070, [0x3B] = 0xBB, [0x3C] = 0x2190,
    [0x3D] = 0x2642, [0x3E] = 0x2640, [0x3F] = 0xBF,
};

static void put_byte(struct sink *s, uint8_t b) {
    if (b == '`') {
        put(s, " "); /* a six-pixel gap */
    } else if (b < 0x20 || b == 0x7F) {
        return;
    } else if (b < 0x80 || b >= 0xC0) {
        put_code_point(s, b);
    } else if (high[b - 0x80]) {
        put_code_point(s, high[b - 0x80]);
    }
}

struct pair { uint16_t code; const char *text; };
static const struct pair symbols[] = {
    {0x8140, " "}, {0x8141, "、"}, {0x8142, "。"}, {0x8143, "，"}, {0x8144, "．"}, {0x8145, "・"}, {0x8146, "："}, {0x8147, "；"},
    {0x8148, "？"}, {0x8149, "！"}, {0x814A, "゛"}, {0x814B, "゜"}, {0x815B, "ー"}, {0x815E, "／"}, {0x8160, "〜"}, {0x8163, "…"},
    {0x8164, "‥"}, {0x8169, "（"}, {0x816A, "）"}, {0x8175, "「"}, {0x8176, "」"}, {0x8177, "『"}, {0x8178, "』"}, {0x817B, "＋"},
    {0x817C, "−"}, {0x8181, "＝"}, {0x8183, "＜"}, {0x8184, "＞"}, {0x8187, "∞"}, {0x8190, "＄"}, {0x8193, "％"}, {0x8194, "＃"},
    {0x8195, "＆"}, {0x8196, "＊"}, {0x8197, "＠"}, {0x819B, "○"}, {0x81A8, "→"}, {0x81A9, "←"}, {0x81AA, "↑"}, {0x81AB, "↓"},
    {0x81F4, "♪"}, {0x83C8, "κ"}, {0x8486, "R"}, {0x8742, "★"}, {0x8746, "♥"}, {0x8747, "♥"}, {0x8748, "♥"}, {0x8749, "♥"},
    {0x874A, "♥"}, {0x874B, "♥"}, {0x874C, "♥"}, {0x874D, "♥"}, {0x874E, "TM"}, {0x874F, "ORB"}, {0x8750, "A"}, {0x8751, "B"},
    {0x8752, "+"}, {0x8753, "START"}, {0x8771, ""}, {0x8772, "SELECT"}, {0x8773, ""}, {0x8774, "L"}, {0x83BF, "Poké"}, {0x83C4, ""},
};

static void put_pair(struct sink *s, uint8_t lead, uint8_t trail) {
    uint16_t code = (uint16_t)(lead << 8 | trail);
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        if (symbols[i].code == code) {
            put(s, symbols[i].text);
            return;
        }
    }
    /* Shift-JIS: rows in the order of Unicode. */
    if (code >= 0x824F && code <= 0x8258) put_code_point(s, 0xFF10 + (code - 0x824Fu));
    else if (code >= 0x8260 && code <= 0x8279) put_code_point(s, 0xFF21 + (code - 0x8260u));
    else if (code >= 0x8281 && code <= 0x829A) put_code_point(s, 0xFF41 + (code - 0x8281u));
    else if (code >= 0x829F && code <= 0x82F1) put_code_point(s, 0x3041 + (code - 0x829Fu));
    else if (code >= 0x8340 && code <= 0x8396 && trail != 0x7F) put_code_point(s, 0x30A1 + (code - 0x8340u) - (trail > 0x7F));
    /* the rest are icons without words (marks, mail) */
}

static int hex_digit(uint8_t c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The code at p[0] == '#': how many bytes it has (at most n). *page and *line say what it does to the picture. */
static size_t layout_code(const uint8_t *p, size_t n, bool *page, bool *line, bool *literal) {
    size_t length = 2;
    *page = *line = *literal = false;
    if (n < 2) return n;
    switch (p[1]) {
    case '#': *literal = true; break;
    case 'P': case 'p': *page = true; break;
    case 'n': *line = true; break;
    case 'C': case 'c': case 'y': case '.': case ';': case '~': length = 3; break;
    case '=': case '_': length = n > 3 && p[3] == '.' ? 4 : 3; break;
    case 'S': length = 4; break;
    case '>':
        while (length < n && p[length] >= '0' && p[length] <= '9') length++;
        if (length < n && p[length] == '.') length++;
        break;
    case '[':
        while (length < n && p[length] && p[length] != ']') length++;
        if (length < n && p[length] == ']') length++;
        break;
    default: break; /* #R #r #W #+ #: and whatever is not known: nothing is drawn */
    }
    return length < n ? length : n;
}

size_t text_decode(const uint8_t *p, size_t n, bool last_page, char *out, size_t cap) {
    struct sink s = {.out = out, .cap = cap};
    bool break_due = false; /* a page break that counts once something follows it */
    if (!cap) return 0;
    const uint8_t *end = memchr(p, 0, n);
    if (end) n = (size_t)(end - p);
    for (size_t i = 0; i < n;) {
        uint8_t b = p[i];
        bool page = false, line = b == '\n' || b == '\r' || b == 0x1D, literal = false;
        size_t length = 1;
        int h, l;
        if (b == 0x1B) break; /* end of string */
        if (b == '#') length = layout_code(p + i, n - i, &page, &line, &literal);
        if (page) {
            break_due = true;
            i += length;
            continue;
        }
        if (b == '#' && !line && !literal) {
            i += length;
            continue;
        }
        if (break_due) {
            if (last_page) s.len = 0, s.full = false;
            else put(&s, "\n");
            break_due = false;
        }
        if (line) {
            put(&s, "\n");
        } else if (literal) {
            put(&s, "#");
        } else if (b == '~' && n - i > 2 && (h = hex_digit(p[i + 1])) >= 0 && (l = hex_digit(p[i + 2])) >= 0) {
            put_byte(&s, (uint8_t)(h << 4 | l));
            length = 3;
        } else if ((b >= 0x81 && b <= 0x84) || b == 0x87) {
            if (n - i > 1) put_pair(&s, b, p[i + 1]), length = 2;
        } else {
            put_byte(&s, b);
        }
        i += length;
    }
    out[s.len] = 0;
    return s.len;
}

size_t game_text_decode(const uint8_t *bytes, size_t n, char *out, size_t cap) { return text_decode(bytes, n, false, out, cap); }
