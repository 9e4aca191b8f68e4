/* Pictures of a result file by gnuplot (optional, found at run time), each as PNG and SVG: for every model the landscape of decode
 * speed over context and batch with the byte floor drawn in, time to the first token against the reused share, memory against context,
 * speed against best-of. A picture whose cells are not in the file is left out, and said. */
#ifndef BENCH_PLOT_H
#define BENCH_PLOT_H

#include "base/err.h"

/* folder: where the pictures go; NULL: beside the file. Prints the names of what it made. */
int plot_results(const char *file, const char *folder, struct err *err);

#endif
