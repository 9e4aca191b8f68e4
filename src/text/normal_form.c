/* UTF-8 check and Unicode NFC (utf8proc), with a quick answer for text that is in NFC already: most of it.
 *
 * A text is in NFC when every character is a starter whose NFC quick check is "yes" (UAX #15). Below U+0300 that holds for
 * every character. Of the rest, the blocks below are known to hold no other kind; anything else goes to utf8proc. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/parts.h"

/* Characters that utf8proc reorders or joins and Hugging Face's tokenizers does not: its normaliser knows Unicode 9, and these
 * came later; and U+11A7, which utf8proc takes for an empty final jamo and swallows. Found by comparing both over all code points
 * (tools/check_tokenizer.py keeps watch). To it they are inert. */
static const struct {
    uint32_t first, last;
} inert[] = {
    {0x07FD, 0x07FD},   {0x0898, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},   {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},
    {0x0EBA, 0x0EBA},   {0x11A7, 0x11A7},   {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},
    {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
    {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F},
    {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
};

static bool is_inert(uint32_t c) {
    size_t low = 0, high = sizeof inert / sizeof *inert;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c > inert[middle].last) low = middle + 1;
        else if (c < inert[middle].first) high = middle;
        else return true;
    }
    return false;
}

/* True only if c has combining class 0, NFC quick check "yes" and never joins what stands before it. Checked for every code
 * point against utf8proc's own NFC by tests/test_text_tokenizer.c. */
static bool surely_nfc(uint32_t c) {
    if (c < 0x0300) return true;
    if (c >= 0x4E00 && c <= 0x9FFF) return true;        /* CJK unified ideographs */
    if (c >= 0x3041 && c <= 0x3096) return true;        /* Hiragana without the combining sound marks */
    if (c >= 0x30A1 && c <= 0x30FF) return true;        /* Katakana */
    if (c >= 0xAC00 && c <= 0xD7A3) return true;        /* Hangul syllables (a following jamo is outside these ranges) */
    if (c >= 0x0400 && c <= 0x0482) return true;        /* Cyrillic letters */
    if (c >= 0x1100 && c <= 0x11FF) return c == 0x11A7; /* jamo are joined by arithmetic, not by the tables asked below */
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)c);
    bool decomposes = p->decomp_seqindex != UINT16_MAX && p->decomp_type == 0;
    bool joins = p->comb_index != UINT16_MAX && p->comb_index >= 0x8000;
    return (p->combining_class == 0 && !decomposes && !joins) || is_inert(c);
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

/* Text is rewritten only where it needs it: from the character before one that is not surely in NFC up to the next that
 * is. Both ends are boundaries that normalisation does not cross. An inert character before stays out of it: utf8proc would
 * take it for a mark. */
char *text_nfc(const char *text, size_t n, size_t *length) {
    struct buf out = {0};
    size_t kept = 0, previous = 0; /* text[0..kept) is in out */
    buf_reserve(&out, n);
    for (size_t i = 0; i < n && !out.failed;) {
        int len = utf8_length(text + i, n - i);
        if (surely_nfc(utf8_decode(text + i, len))) {
            previous = i;
            i += (size_t)len;
            continue;
        }
        size_t end = i;
        while (end < n) {
            len = utf8_length(text + end, n - end);
            if (surely_nfc(utf8_decode(text + end, len))) break;
            end += (size_t)len;
        }
        if (previous < kept || is_inert(utf8_decode(text + previous, utf8_length(text + previous, n - previous)))) previous = i;
        buf_append(&out, text + kept, previous - kept);
        utf8proc_uint8_t *part = NULL;
        utf8proc_ssize_t bytes = utf8proc_map((const utf8proc_uint8_t *)text + previous, (utf8proc_ssize_t)(end - previous),
                                              &part, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (bytes < 0) out.failed = true;
        else buf_append(&out, part, (size_t)bytes);
        free(part);
        kept = previous = i = end;
    }
    buf_append(&out, text + kept, n - kept);
    if (out.failed) buf_free(&out);
    *length = out.len;
    return out.data;
}
