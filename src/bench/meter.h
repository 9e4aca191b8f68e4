/* What the machine tells beside the clock: most memory held, joules used, what it is. */
#ifndef BENCH_METER_H
#define BENCH_METER_H

#include <stdbool.h>
#include <stddef.h>

/* Most resident memory of this process since the last reset, in MiB; NaN when the kernel does not tell. Where it cannot be reset (no
 * /proc/self/clear_refs), since the start. */
void host_memory_reset(void);
double host_memory_peak_mib(void);

/* Joules counted by the hardware: NVML for an NVIDIA card (loaded when asked for), RAPL of the processor's packages otherwise. */
enum { METER_CARDS = 16 };
struct energy_meter {
    const char *source;      /* "NVML", "RAPL", "not available" */
    void *library, *handle[METER_CARDS];
    int cards;               /* whose joules are added up */
    int (*card_energy)(void *handle, unsigned long long *millijoules);
    int packages;
    char card[96];           /* name of the first card, empty without */
};
/* Of `cards` cards from `first` on; 0: of the processor. */
void energy_meter_open(struct energy_meter *m, int first, int cards);
void energy_meter_close(struct energy_meter *m);
/* A reading in joules that only differences give sense to; NaN when not available. */
double energy_meter_read(const struct energy_meter *m);

/* The processor's name and the number of cores this process may use. */
void meter_machine_name(char *out, size_t cap);

#endif
