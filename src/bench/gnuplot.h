/* Running gnuplot on a script. */
#ifndef BENCH_GNUPLOT_H
#define BENCH_GNUPLOT_H

#include "base/buf.h"
#include "base/err.h"

/* ERR_MISSING when gnuplot is not installed; else what it complained about. */
int gnuplot_run(const struct buf *script, struct err *err);

#endif
