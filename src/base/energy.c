/* powercap lists a zone for each package ("intel-rapl:0", on AMD too), with parts below it ("intel-rapl:0:0"). Counted are packages and
 * "dram", which is not in its package; "core" and "uncore" are, and "psys" is the whole machine again. */
#include "base/energy.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool read_line(const char *zone, const char *name, char out[64]) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%.*s/%s", PATH_MAX - 40, zone, name);
    FILE *f = fopen(path, "r");
    bool ok = f && fgets(out, 64, f);
    if (f) fclose(f);
    if (ok) out[strcspn(out, "\n")] = 0;
    return ok;
}

static bool read_counter(int fd, uint64_t *out) {
    char text[32];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n <= 0) return false;
    text[n] = 0;
    *out = strtoull(text, NULL, 10);
    return true;
}

static void add_zone(struct energy_meter *m, const char *root, const char *entry) {
    char zone[PATH_MAX], path[PATH_MAX], name[64], range[64];
    snprintf(zone, sizeof zone, "%.*s/%s", PATH_MAX / 2, root, entry);
    if (m->count == ENERGY_ZONES || !read_line(zone, "name", name)) return;
    if (strncmp(name, "package", 7) && strcmp(name, "dram")) return;
    snprintf(path, sizeof path, "%.*s/energy_uj", PATH_MAX - 20, zone);
    int i = m->count, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    m->range[i] = read_line(zone, "max_energy_range_uj", range) ? strtoull(range, NULL, 10) : 0;
    if (!read_counter(fd, &m->last[i])) {
        close(fd);
        return;
    }
    m->fd[i] = fd;
    m->count++;
}

void energy_open(struct energy_meter *m, const char *root) {
    *m = (struct energy_meter){0};
    if (!root) root = "/sys/class/powercap";
    DIR *d = opendir(root);
    for (struct dirent *e; d && (e = readdir(d));)
        if (strchr(e->d_name, ':')) add_zone(m, root, e->d_name);
    if (d) closedir(d);
}

double energy_read(struct energy_meter *m) {
    if (!m->count) return NAN;
    for (int i = 0; i < m->count; i++) {
        uint64_t now;
        if (!read_counter(m->fd[i], &now)) continue;
        uint64_t used = now >= m->last[i] ? now - m->last[i] : now + m->range[i] - m->last[i];
        m->joules += (double)used * 1e-6;
        m->last[i] = now;
    }
    return m->joules;
}

void energy_close(struct energy_meter *m) {
    for (int i = 0; i < m->count; i++) close(m->fd[i]);
    m->count = 0;
}
