/* A person at the keys. */
#ifndef AGENT_HUMAN_H
#define AGENT_HUMAN_H

#include "agent/control.h"
#include "agent/hands.h"

#define HUMAN_ACTION "keys" /* what the record says instead of an action */

/* One decision of a person: frames run with the keys held, until something was pressed and the game waits for input again, or nothing
 * was pressed for a while, or the keys were handed back. The frames are recorded as presses. Writes what was pressed to words. True: the presses came from a record, waiting included. */
bool human_act(struct hands *h, struct control *c, char *words, size_t cap);

#endif
