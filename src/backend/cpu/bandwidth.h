/* The yardstick of decoding: how fast this machine reads memory, measured now with the same number of threads. */
#ifndef BACKEND_CPU_BANDWIDTH_H
#define BACKEND_CPU_BANDWIDTH_H

#include "backend/backend.h"

/* Bytes per second: the best of a few passes over 512 MiB with `threads` threads (0: as the pool chooses). About 0.3 s. */
int cpu_read_bandwidth(int threads, double *out, struct err *err);
/* The same and the speed of products, with the options of a model. About 0.5 s. */
int cpu_ceilings(const struct backend_options *o, struct backend_ceilings *out, struct err *err);

#endif
