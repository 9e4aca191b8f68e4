/* Byte-level BPE from tokenizer.json (facts §7): NFC, split regex by PCRE2, merges in both spellings. */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

struct tokenizer;

int tokenizer_open(const char *folder, struct tokenizer **out, struct err *err);
void tokenizer_close(struct tokenizer *t);

struct token_list {
    int32_t *ids;
    size_t count, cap;
};
int token_list_add(struct token_list *list, int32_t id); /* -1 when out of memory */
void token_list_free(struct token_list *list);

/* Appends the ids of text (n bytes of valid UTF-8, else an error that names the offset). parse_special: added tokens
 * in the text are recognised as Hugging Face does; false: everything is ordinary text, so user input cannot forge
 * control tokens. Thread-safe on one tokenizer. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, bool parse_special, struct token_list *out,
                     struct err *err);
/* Appends the bytes of ids; a caller that streams must itself hold back incomplete UTF-8. skip_special drops tokens
 * with the special flag. Unknown ids are an error. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special, struct buf *out,
                     struct err *err);
/* The raw bytes of one token (added tokens: their text); NULL for ids without a token. */
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *len);
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
bool tokenizer_is_added(const struct tokenizer *t, int32_t id);
/* Id of an added token by its text, -1 when absent. */
int32_t tokenizer_added_id(const struct tokenizer *t, const char *text);
int32_t tokenizer_vocab(const struct tokenizer *t); /* highest id + 1 */

#endif
