#include "agent/home.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

const char *home_file(const char *name, char *out, size_t cap) {
    const char *home = getenv("PMD_HOME");
    if (home && *home) return snprintf(out, cap, "%s/%s", home, name), out;
    snprintf(out, cap, "%s", name);
    if (file_exists(out)) return out;
    char program[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n > 0) {
        program[n] = 0;
        for (char *slash; (slash = strrchr(program, '/'));) {
            *slash = 0;
            snprintf(out, cap, "%s/%s", program, name);
            if (file_exists(out)) return out;
        }
    }
    snprintf(out, cap, "%s", name);
    return out;
}
