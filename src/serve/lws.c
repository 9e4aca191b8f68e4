/* Loads libwebsockets.so.17 when the first server starts. */
#include "serve/lws.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>

static const char library_name[] = "libwebsockets.so.17";

static struct lws_library library;
static bool loaded;
static char failure[400];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void log_nothing(int level, const char *line) { (void)level, (void)line; }

static void load(void) {
    void *handle = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *why = dlerror();
        snprintf(failure, sizeof failure, "cannot load the web server library %s: %s; install the package libwebsockets17",
                 library_name, why ? why : "unknown reason");
        return;
    }
    const struct { const char *name; void *slot; } wanted[] = {
#define X(name) {#name, &library.name},
        LWS_FUNCTIONS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *symbol = dlsym(handle, wanted[i].name);
        if (!symbol) {
            snprintf(failure, sizeof failure, "%s has no function %s: this build needs libwebsockets 4.1 (package libwebsockets17)",
                     library_name, wanted[i].name);
            dlclose(handle);
            return;
        }
        *(void **)wanted[i].slot = symbol;
    }
    library.lws_set_log_level(0, log_nothing); /* what matters is said by our own errors */
    loaded = true;
}

const struct lws_library *lws_library(struct err *err) {
    pthread_once(&once, load);
    if (loaded) return &library;
    err_set(err, ERR_MISSING, "%s", failure);
    return NULL;
}
