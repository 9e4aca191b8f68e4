/* Energy as the processor's own counters tell it (RAPL, Linux powercap): packages and their memory. */
#ifndef BASE_ENERGY_H
#define BASE_ENERGY_H

#include <stdbool.h>
#include <stdint.h>

enum { ENERGY_ZONES = 32 };
struct energy_meter {
    int count;            /* 0: nothing here can be read (no such counter, or not without root) */
    int fd[ENERGY_ZONES];
    uint64_t last[ENERGY_ZONES], range[ENERGY_ZONES];
    double joules;        /* since energy_open */
};

/* root: NULL, or a folder in the place of /sys/class/powercap. */
void energy_open(struct energy_meter *m, const char *root);
/* Joules since energy_open; NAN without counters. Call it at least every few minutes: the counters wrap. */
double energy_read(struct energy_meter *m);
void energy_close(struct energy_meter *m);

#endif
