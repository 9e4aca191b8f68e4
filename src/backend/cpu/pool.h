/* The backend's own threads: a fixed team that spins briefly and then sleeps; one parallel region at a time. */
#ifndef BACKEND_CPU_POOL_H
#define BACKEND_CPU_POOL_H

#include <stdint.h>

#include "base/err.h"

struct pool;

/* threads 0: one per physical core this process may use (affinity and cgroup quota respected). */
int pool_new(int threads, struct pool **out, struct err *err);
void pool_free(struct pool *p);
int pool_threads(const struct pool *p);

/* Calls work(context, i, thread) for i in [0, count), spread over the team in contiguous shares with stealing at the end;
 * returns when all are done. thread < pool_threads(p). Not reentrant. */
void pool_run(struct pool *p, int64_t count, void (*work)(void *context, int64_t i, int thread), void *context);

#endif
