/* The parts of a tokenizer and the functions that build them. Private to this room. */
#ifndef TEXT_PARTS_H
#define TEXT_PARTS_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/arena.h"
#include "base/json.h"
#include "text/token_trie.h"

enum { MAX_SPLITS = 8 };

struct added_token {
    const char *text;
    uint32_t len;
    int32_t id;
};

/* Tokens searched in text, leftmost-longest: grouped by first byte, longest first within a group. */
struct added_set {
    struct added_token *tokens;
    size_t count;
    uint32_t first[257]; /* group of byte b: tokens[first[b]] .. tokens[first[b + 1]) */
    int only_byte;       /* the first byte of all of them, -1 when they differ */
};

struct tokenizer {
    struct vocabulary v;
    struct arena arena;
    bool nfc;
    pcre2_code *splits[MAX_SPLITS];
    int split_count;
    struct added_set raw, normalized; /* matched before and after normalisation */
    struct added_token *by_text;      /* all added tokens, ordered by text */
    size_t by_text_count;
    struct token_trie_once *trie; /* for constrained decoding, built on first use */
};

/* tokenizer.c: a tokenizer from the text of a tokenizer.json (tokenizer_open without the file; for the fuzz target). */
int tokenizer_parse(const char *json, size_t n, const char *path, struct tokenizer **out, struct err *err);

/* tokenizer_file.c: fills t from the text of a tokenizer.json; path names it in errors. */
int tokenizer_read(struct tokenizer *t, const char *json, size_t n, const char *path, struct err *err);

/* added_tokens.c */
int added_tokens_read(struct tokenizer *t, const struct json *list, const char *path, struct err *err);
/* Finds the first added token in text[from..n): its start, or n when there is none. */
size_t added_find(const struct added_set *set, const char *text, size_t n, size_t from, const struct added_token **found);

/* split.c: adds a split pattern in the dialect of tokenizer.json (Oniguruma's). */
int split_add(struct tokenizer *t, const char *regex, size_t n, const char *path, struct err *err);
/* Cuts text into fragments and encodes each. */
int split_encode(const struct tokenizer *t, const char *text, size_t n, struct token_list *out, struct err *err);

/* normal_form.c */
enum text_form { TEXT_NFC, TEXT_MAYBE_NOT_NFC };
/* Offset of the first byte that is not UTF-8, n when all is well; *form says whether NFC could change the text. */
size_t text_check(const char *text, size_t n, enum text_form *form);
/* malloc'ed NFC of valid UTF-8; NULL when out of memory. */
char *text_nfc(const char *text, size_t n, size_t *length);

/* byte_level.c: the alphabet that shows bytes as printable characters (facts §7.3). */
/* The byte of code point c, -1 when c is not in the alphabet. */
int byte_level_byte(uint32_t c);

#endif
