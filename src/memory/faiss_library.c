/* Finds libpmd-faiss.so: PMD_FAISS_LIBRARY, else beside the program, else in the folder above it (test programs), else where the
 * system looks. */
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory/faiss_shim.h"
#include "memory/vector_index.h"

#define LIBRARY "libpmd-faiss.so"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const struct faiss_shim *shim;
static struct err trouble;

static void find(char path[PATH_MAX]) {
    const char *named = getenv("PMD_FAISS_LIBRARY");
    if (named && *named) {
        snprintf(path, PATH_MAX, "%s", named);
        return;
    }
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    self[n > 0 ? n : 0] = 0;
    for (int up = 0; up < 2; up++) {
        char *slash = strrchr(self, '/');
        if (!slash) break;
        *slash = 0;
        if (snprintf(path, PATH_MAX, "%s/" LIBRARY, self) < PATH_MAX && access(path, R_OK) == 0) return;
    }
    snprintf(path, PATH_MAX, LIBRARY);
}

static void load(void) {
    char path[PATH_MAX];
    find(path);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        err_set(&trouble, ERR_MISSING, "the vector index needs FAISS: %s (Debian packages libfaiss-dev to build " LIBRARY " with `make`, libopenblas0 and "
                "libgomp1 to run it)", dlerror());
        return;
    }
    const struct faiss_shim *(*entry)(void) = (const struct faiss_shim *(*)(void))(uintptr_t)dlsym(library, "pmd_faiss_shim");
    const struct faiss_shim *found = entry ? entry() : NULL;
    if (!found || found->abi != FAISS_SHIM_ABI) {
        err_set(&trouble, ERR_MISSING, "%s: not the FAISS library of this program (version %d, expected %d): build it again with `make`", path,
                found ? found->abi : 0, FAISS_SHIM_ABI);
        dlclose(library);
        return;
    }
    shim = found; /* stays loaded: OpenMP's threads do not survive an unload */
}

const struct faiss_shim *faiss_library(struct err *err) {
    pthread_once(&once, load);
    if (!shim && err) *err = trouble;
    return shim;
}
