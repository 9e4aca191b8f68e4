/* UTF-8 check and Unicode NFC (utf8proc), with a quick answer for text that is in NFC already: most of it.
 *
 * A text is in NFC when every character is a starter whose NFC quick check is "yes" (UAX #15). Below U+0300 that holds for
 * every character. Of the rest, the blocks below are known to hold no other kind; anything else goes to utf8proc. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/parts.h"

/* Ranges in which every code point has combining class 0 and NFC quick check "yes". Checked exhaustively against
 * utf8proc by tests/test_text_tokenizer.c. */
static bool surely_nfc(uint32_t c) {
    if (c < 0x0300) return true;
    if (c >= 0x4E00 && c <= 0x9FFF) return true; /* CJK unified ideographs */
    if (c >= 0x3041 && c <= 0x3096) return true; /* Hiragana without the combining sound marks */
    if (c >= 0x30A1 && c <= 0x30FF) return true; /* Katakana */
    if (c >= 0xAC00 && c <= 0xD7A3) return true; /* Hangul syllables (a following jamo is outside these ranges) */
    if (c >= 0x0400 && c <= 0x0482) return true; /* Cyrillic letters */
    if (c >= 0x2010 && c <= 0x2027) return true; /* dashes, quotes, bullets, dots */
    if (c >= 0x3001 && c <= 0x3029) return true; /* CJK punctuation */
    if (c >= 0xFF01 && c <= 0xFF60) return true; /* full-width forms */
    if (c >= 0x3400 && c <= 0x4DBF) return true; /* CJK extension A */
    return c >= 0x1F300 && c <= 0x1FAFF;         /* emoji */
}

size_t text_check(const char *text, size_t n, enum text_form *form) {
    *form = TEXT_NFC;
    size_t i = 0;
    while (i < n) {
        uint64_t word;
        while (i + 8 <= n && (memcpy(&word, text + i, 8), (word & 0x8080808080808080u) == 0)) i += 8;
        if (i >= n) break;
        if (!(text[i] & 0x80)) {
            i++;
            continue;
        }
        int len = utf8_length(text + i, n - i);
        if (len <= 0) return i;
        if (*form == TEXT_NFC && !surely_nfc(utf8_decode(text + i, len))) *form = TEXT_MAYBE_NOT_NFC;
        i += (size_t)len;
    }
    return n;
}

char *text_nfc(const char *text, size_t n, size_t *length) {
    utf8proc_uint8_t *out = NULL;
    utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &out, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (len < 0) return NULL;
    *length = (size_t)len;
    return (char *)out;
}
