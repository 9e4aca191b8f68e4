/* Best of n: several answers to one question, and which of them is taken. */
#ifndef AGENT_BALLOT_H
#define AGENT_BALLOT_H

#include <stdbool.h>

#include "record/vote.h"

enum { VOTE_MAX = 32 };

struct ballot {
    const char *text;       /* NULL: this one failed and has no vote */
    double log_probability; /* of its tokens that were a choice */
};
/* Counts. Same text, same answer. by_sum false: the most votes win, among equals the larger sum of log-probabilities, then who came first;
 * true: the largest sum of probabilities. Fills votes (at most n) in the order of the first ballot of each, *count of them, and
 * returns the number of the first ballot of the winner, -1 when no ballot has a text. */
int vote_count(const struct ballot *ballots, int n, bool by_sum, struct vote *votes, int *count);

#endif
