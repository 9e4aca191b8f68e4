#include "agent/ballot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool beats(const struct vote *a, const struct vote *b, bool by_sum) {
    if (by_sum) return a->probability > b->probability;
    return a->count != b->count ? a->count > b->count : a->log_probability > b->log_probability;
}

int vote_count(const struct ballot *ballots, int n, bool by_sum, struct vote *votes, int *count) {
    int first[VOTE_MAX], winner = -1;
    *count = 0;
    for (int i = 0; i < n && i < VOTE_MAX; i++) {
        if (!ballots[i].text) continue;
        int v = 0;
        while (v < *count && strcmp(ballots[first[v]].text, ballots[i].text)) v++;
        if (v == *count) {
            votes[v] = (struct vote){0};
            snprintf(votes[v].answer, sizeof votes[v].answer, "%s", ballots[i].text);
            first[v] = i;
            ++*count;
        }
        votes[v].count++;
        votes[v].log_probability += ballots[i].log_probability;
        votes[v].probability += exp(ballots[i].log_probability);
    }
    for (int v = 0; v < *count; v++) {
        if (winner < 0 || beats(&votes[v], &votes[winner], by_sum)) winner = v;
    }
    return winner < 0 ? -1 : first[winner];
}
