/* Loads libmgba.so.0.10 when the first game starts. Linking it would make every sub-command pay for 177 libraries and would keep
 * the program from starting at all where the library is missing. */
#include "emulator/mgba.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>

static const char library_name[] = "libmgba.so.0.10";

static struct mgba library;
static bool loaded;
static char failure[400];
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* mGBA prints every BIOS call to stdout unless a logger swallows it. */
static void log_nothing(struct mLogger *logger, int category, enum mLogLevel level, const char *format, va_list args) {
    (void)logger, (void)category, (void)level, (void)format, (void)args;
}
static struct mLogger quiet = {.log = log_nothing};

static void load(void) {
    void *handle = dlopen(library_name, RTLD_LAZY | RTLD_LOCAL);
    if (!handle) {
        const char *why = dlerror();
        snprintf(failure, sizeof failure, "cannot load the Game Boy Advance emulator %s: %s; install the package libmgba0.10",
                 library_name, why ? why : "unknown reason");
        return;
    }
    const struct { const char *name; void *slot; } wanted[] = {
        {"mLogSetDefaultLogger", &library.set_default_logger},
        {"GBACoreCreate", &library.gba_core_create},
        {"mCoreIsCompatible", &library.is_compatible},
        {"mCoreInitConfig", &library.init_config},
        {"mCoreLoadForeignConfig", &library.load_foreign_config},
        {"mCoreConfigLoadDefaults", &library.config_load_defaults},
        {"mCoreConfigSetIntValue", &library.config_set_int},
        {"mCoreConfigDeinit", &library.config_deinit},
        {"VFileFromConstMemory", &library.file_from_const_memory},
        {"VFileMemChunk", &library.file_mem_chunk},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *symbol = dlsym(handle, wanted[i].name);
        if (!symbol) {
            snprintf(failure, sizeof failure, "%s has no function %s: this build needs libmgba 0.10 (package libmgba0.10)",
                     library_name, wanted[i].name);
            dlclose(handle);
            return;
        }
        *(void **)wanted[i].slot = symbol;
    }
    library.set_default_logger(&quiet);
    loaded = true;
}

const struct mgba *mgba_library(struct err *err) {
    pthread_once(&once, load);
    if (loaded) return &library;
    err_set(err, ERR_MISSING, "%s", failure);
    return NULL;
}
