/* The {names} of prompt templates. Private to this room. */
#ifndef AGENT_PROMPT_FIELDS_H
#define AGENT_PROMPT_FIELDS_H

#include "agent/prompt.h"

int prompt_field_find(const char *name, size_t n); /* -1 unknown */
/* Appends the value of a field; false: it has none now. */
bool prompt_field_value(const struct prompt_view *v, int field, struct buf *out);

/* prompt_world.c: the longer ones, about what is seen. False: nothing to tell. */
bool tell_map(const struct world *w, struct buf *out);    /* around the leader, with x and y at its edges */
bool tell_team(const struct world *w, struct buf *out);
bool tell_foes(const struct world *w, struct buf *out);
bool tell_items(const struct world *w, struct buf *out);
bool tell_bag(const struct world *w, struct buf *out);
bool tell_moves(const struct world *w, struct buf *out);
bool tell_stairs(const struct world *w, struct buf *out);
bool tell_choices(const struct world *w, struct buf *out);
bool tell_skills(const struct prompt_view *v, struct buf *out);
bool tell_rows(const struct world *w, struct buf *out);   /* all that is known of the floor, a line each row, with the x of its first sign */
bool tell_offers(const struct prompt_view *v, struct buf *out); /* names only */
bool tell_rates(const struct prompt_view *v, struct buf *out);  /* how the skills did so far, a line each */
void tell_catalogue(const struct skill_set *skills, struct buf *out); /* all that can be chosen; NULL: actions */

#endif
