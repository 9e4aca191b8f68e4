/* The text decoder's door inside this room. */
#ifndef GAME_TEXT_H
#define GAME_TEXT_H

#include "game/world.h"

/* As game_text_decode; with last_page only what follows the last page break (a break at the very end does not count: the page is
 * still on the screen while the game waits for the button). */
size_t text_decode(const uint8_t *bytes, size_t n, bool last_page, char *out, size_t cap);

#endif
