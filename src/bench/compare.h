/* Two result files side by side, cell by cell, figure by figure. Two medians differ when they are further apart than both spreads
 * together and than one part in a hundred; else the difference is within noise. */
#ifndef BENCH_COMPARE_H
#define BENCH_COMPARE_H

#include "bench/result.h"

enum verdict { VERDICT_FASTER, VERDICT_SLOWER, VERDICT_NOISE, VERDICT_NONE };

/* Of b against a; NONE when one of them was not measured. */
enum verdict compare_measures(struct measure a, struct measure b, bool more_is_better);

struct comparison {
    int cells, faster, slower, noise, only_a, only_b, unmeasured;
};
/* Prints the table and the summary on standard output. A cell that stands several times in a file counts as its last line says. */
int compare_files(const char *a, const char *b, struct comparison *out, struct err *err);

#endif
