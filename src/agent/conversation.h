/* What was said so far in a game, so that the next question only adds to it: exchanges of a turn of ours (picture and words) and the
 * model's reply. Whoever answers repeats them before the new turn, so all but the newest turn of a prompt is known to the prompt cache.
 *
 * It grows to `limit` exchanges; then the older three quarters go at once (conversation_make_room), and the next prompt is computed anew behind
 * the system text. Between two such trims a prompt only ever begins with the one before, its reply included, token by token.
 *
 * What a line of a prompt has told is remembered too (conversation_tells): a line marked with ~ in the template is left out while the
 * exchanges that are still there say the same. */
#ifndef AGENT_CONVERSATION_H
#define AGENT_CONVERSATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { HISTORY_MAX = 64, HISTORY_HUB = 16 }; /* exchanges: at most, and for models of the Hub */

/* One exchange; owned by its conversation. */
struct exchange {
    char *text;            /* of our turn, without the picture */
    uint8_t *rgb;          /* width x height x 3, or NULL: a turn without a picture */
    int width, height;
    char *reply;
    int32_t *reply_tokens; /* as they were generated, thought and end token included; NULL: not known, the text counts */
    int reply_token_count;
    bool again;            /* asked once more after a refusal: belongs to the exchange before it */
    char *wire;            /* whoever answers may keep the turn here in the form in which he sends it; malloc'ed */
};

struct told_line {
    uint64_t key, text;    /* which line; what it said */
    int64_t exchange;      /* number of the exchange that said it */
};
enum { TOLD_LINES = 256 };

struct conversation {
    int limit;             /* 0: nothing is kept */
    int count;
    int64_t first;         /* number of the oldest exchange kept; numbers are never used twice */
    struct exchange list[HISTORY_MAX + 2]; /* (count) room beyond the limit for questions asked again in one decision */
    struct told_line told[TOLD_LINES];
    int told_count, place; /* place: floor that told is about */
};

/* limit: 0 to HISTORY_MAX. */
void conversation_begin(struct conversation *c, int limit);
/* Forgets all exchanges; frees them. Numbers go on. */
void conversation_forget(struct conversation *c);
/* Before the first turn of a decision: when it is full, all but the newest quarter go. */
void conversation_make_room(struct conversation *c);
/* Appends an exchange, everything copied. Out of memory: everything is forgotten instead, which costs time only. */
void conversation_add(struct conversation *c, const struct exchange *e);

/* Does this line (key) of the next turn say something else than what the kept exchanges say last? Then it is noted as said by the next
 * exchange, and true. Without a conversation (NULL, or limit 0) always true. */
bool conversation_tells(struct conversation *c, uint64_t key, const char *text, size_t n);
/* Has a kept exchange said anything under this key? */
bool conversation_knows(const struct conversation *c, uint64_t key);
/* What was told on another floor does not hold on this one: then the next turn says all of it again. */
void conversation_place(struct conversation *c, int floor);

#endif
