#include "bench/meter.h"

#include <dlfcn.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

void host_memory_reset(void) {
    FILE *f = fopen("/proc/self/clear_refs", "we");
    if (!f) return;
    fputs("5", f); /* proc(5): resets VmHWM */
    fclose(f);
}

double host_memory_peak_mib(void) {
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    long kib = -1;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %ld", &kib) == 1) break;
    if (f) fclose(f);
    return kib < 0 ? NAN : (double)kib / 1024;
}

static bool read_package(int i, double *joules) {
    char path[80];
    unsigned long long micro;
    snprintf(path, sizeof path, "/sys/class/powercap/intel-rapl:%d/energy_uj", i);
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%llu", &micro) == 1;
    if (f) fclose(f);
    if (ok) *joules += (double)micro * 1e-6;
    return ok;
}

static bool open_nvml(struct energy_meter *m, int first, int cards) {
    m->library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (!m->library) return false;
    int (*init)(void) = (int (*)(void))dlsym(m->library, "nvmlInit_v2");
    int (*by_index)(unsigned, void **) = (int (*)(unsigned, void **))dlsym(m->library, "nvmlDeviceGetHandleByIndex_v2");
    int (*name)(void *, char *, unsigned) = (int (*)(void *, char *, unsigned))dlsym(m->library, "nvmlDeviceGetName");
    m->card_energy = (int (*)(void *, unsigned long long *))dlsym(m->library, "nvmlDeviceGetTotalEnergyConsumption");
    unsigned long long millijoules;
    if (!init || !by_index || cards > METER_CARDS || init()) return false;
    for (m->cards = 0; m->cards < cards; m->cards++)
        if (by_index((unsigned)(first + m->cards), &m->handle[m->cards])) return false;
    if (name && name(m->handle[0], m->card, sizeof m->card)) m->card[0] = 0;
    return m->card_energy && m->card_energy(m->handle[0], &millijoules) == 0;
}

void energy_meter_open(struct energy_meter *m, int first, int cards) {
    double joules = 0;
    *m = (struct energy_meter){.source = "not available"};
    if (cards > 0) {
        if (open_nvml(m, first, cards)) m->source = "NVML";
        return;
    }
    while (m->packages < 8 && read_package(m->packages, &joules)) m->packages++;
    if (m->packages) m->source = "RAPL";
}

void energy_meter_close(struct energy_meter *m) {
    if (m->library) dlclose(m->library);
    *m = (struct energy_meter){0};
}

double energy_meter_read(const struct energy_meter *m) {
    unsigned long long millijoules;
    double joules = 0;
    if (!strcmp(m->source, "NVML")) {
        for (int i = 0; i < m->cards; i++) {
            if (m->card_energy(m->handle[i], &millijoules)) return NAN;
            joules += (double)millijoules * 1e-3;
        }
        return joules;
    }
    if (strcmp(m->source, "RAPL")) return NAN;
    for (int i = 0; i < m->packages; i++)
        if (!read_package(i, &joules)) return NAN;
    return joules;
}

void meter_machine_name(char *out, size_t cap) {
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256], name[96] = "unknown processor";
    cpu_set_t set;
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        snprintf(name, sizeof name, "%.90s", colon + 2);
        name[strcspn(name, "\n")] = 0;
        break;
    }
    if (f) fclose(f);
    int cores = sched_getaffinity(0, sizeof set, &set) ? 0 : CPU_COUNT(&set);
    snprintf(out, cap, "%s, %d cores", name, cores);
}
