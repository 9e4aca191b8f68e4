/* Constrained decoding: a JSON schema (a stated subset) becomes an automaton over bytes; at each step it says which
 * tokens may follow. Used so that an action always parses, and for response_format json_schema.
 *
 * Supported: type object (properties in the given order, required = all listed; additionalProperties false), string (enum,
 * const, minLength/maxLength), integer and number (minimum/maximum for integers), boolean, null, array (items, minItems,
 * maxItems), enum and const of scalars, anyOf of these, nesting to 16 levels. Anything else is refused by name.
 * Output is compact JSON (no insignificant white space), so equal values have one spelling. */
#ifndef TEXT_CONSTRAINT_H
#define TEXT_CONSTRAINT_H

#include "text/tokenizer.h"

struct grammar;          /* compiled, shared, immutable */
struct constraint_state; /* one per sequence */

int grammar_compile(const char *schema, size_t n, const struct tokenizer *t, struct grammar **out, struct err *err);
void grammar_free(struct grammar *g);

struct constraint_state *constraint_new(const struct grammar *g);
struct constraint_state *constraint_copy(const struct constraint_state *s);
void constraint_free(struct constraint_state *s);

/* Sets bit i of mask (vocab bits, (vocab + 31) / 32 words) iff token i may come next; returns how many are set. When the
 * document is complete, only end tokens are allowed: returns 0 and sets *done. */
int constraint_mask(struct constraint_state *s, uint32_t *mask, bool *done);
/* The forced continuation: when exactly one byte string can follow up to the next choice, its bytes (not NUL-terminated).
 * Returns its length, 0 when there is a choice now. Lets the engine append several tokens in one forward pass. */
size_t constraint_forced(struct constraint_state *s, const char **bytes);
/* May a longer token come next that begins with the bytes of this one? */
bool constraint_may_extend(const struct constraint_state *s, int32_t token);
/* Advances by one token; -1 if it was not allowed. */
int constraint_accept(struct constraint_state *s, int32_t token);

#endif
