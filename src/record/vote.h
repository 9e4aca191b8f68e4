/* Best of n, as it is recorded: one of the answers to a question and how often it was given. Counted by agent/ballot.h. */
#ifndef RECORD_VOTE_H
#define RECORD_VOTE_H

struct vote {
    char answer[96];        /* the text, cut where it is longer */
    int count;
    double log_probability; /* summed over its ballots */
    double probability;     /* likewise */
};

#endif
