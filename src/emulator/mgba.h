/* libmgba 0.10 behind dlopen: the few functions that are called by name, and the headers in the order they need.
 *
 * Private to this room. <mgba/flags.h> must come before every other mGBA header: without it struct mCore lacks the members of
 * the debugger build and every function pointer behind them is off by 56 bytes. */
#ifndef EMULATOR_MGBA_H
#define EMULATOR_MGBA_H

#include <mgba/flags.h>

#include <mgba/core/config.h>
#include <mgba/core/core.h>
#include <mgba/core/interface.h>
#include <mgba/core/log.h>
#include <mgba/core/serialize.h>
#include <mgba/gba/core.h>
#include <mgba/internal/gba/gba.h>
#include <mgba-util/vfs.h>

#undef UNUSED
#undef LIKELY
#undef UNLIKELY

#include "base/err.h"

/* The layout of libmgba 0.10.1; another one would call wrong functions. */
_Static_assert(sizeof(struct mCore) == 5480, "mGBA headers of another version, or <mgba/flags.h> was not the first of them");

struct mgba {
    void (*set_default_logger)(struct mLogger *logger);
    struct mCore *(*gba_core_create)(void);
    enum mPlatform (*is_compatible)(struct VFile *file);
    void (*init_config)(struct mCore *core, const char *port);
    void (*load_foreign_config)(struct mCore *core, const struct mCoreConfig *config);
    void (*config_load_defaults)(struct mCoreConfig *config, const struct mCoreOptions *options);
    void (*config_set_int)(struct mCoreConfig *config, const char *key, int value);
    void (*config_deinit)(struct mCoreConfig *config);
    struct VFile *(*file_from_const_memory)(const void *memory, size_t size);
    struct VFile *(*file_mem_chunk)(const void *memory, size_t size);
};

/* Loads the library on the first call (90 to 200 ms; thread-safe) and keeps it. NULL with a sentence naming the package when it
 * is not there. */
const struct mgba *mgba_library(struct err *err);

#endif
