/* What a sweep prints on standard output: the results as a Markdown table, or the plan with its estimates. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "bench/estimate.h"
#include "bench/result.h"
#include "bench/sweep.h"

void report_results(const struct results *l);

void report_plan_heading(const struct sweep *s, const struct qvl_ceilings *device, size_t cells);
void report_plan_cell(const struct sweep *s, const struct cell *c, const struct model_facts *f, const struct cell_estimate *e);
void report_plan_end(double seconds);

#endif
