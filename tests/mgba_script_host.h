/* mGBA's own Lua host, as its window runs it, in a process of its own: a ROM, a script, and a callback after every frame. */
#ifndef MGBA_SCRIPT_HOST_H
#define MGBA_SCRIPT_HOST_H

#include <dlfcn.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "emulator/internal.h"
#include <mgba/core/scripting.h>
#include <mgba/script/context.h>

static int host_loop(const char *rom_path, const char *script_path) {
    struct buf rom = {0};
    struct emulator *e;
    struct err err = {0};
    if (file_read(rom_path, 1 << 25, &rom, &err) || emulator_open(rom.data, rom.len, NULL, &e, &err)) return 3;
    void *lib = dlopen("libmgba.so.0.10", RTLD_LAZY);
    void (*init)(struct mScriptContext *), (*stdlib)(struct mScriptContext *), (*socket)(struct mScriptContext *);
    void (*attach_core)(struct mScriptContext *, struct mCore *), (*trigger)(struct mScriptContext *, const char *);
    struct mScriptEngineContext *(*engine)(struct mScriptContext *, struct mScriptEngine2 *);
    struct VFile *(*open_file)(const char *, int);
    *(void **)&init = dlsym(lib, "mScriptContextInit");
    *(void **)&stdlib = dlsym(lib, "mScriptContextAttachStdlib");
    *(void **)&socket = dlsym(lib, "mScriptContextAttachSocket");
    *(void **)&attach_core = dlsym(lib, "mScriptContextAttachCore");
    *(void **)&trigger = dlsym(lib, "mScriptContextTriggerCallback");
    *(void **)&engine = dlsym(lib, "mScriptContextRegisterEngine");
    *(void **)&open_file = dlsym(lib, "VFileOpen");
    struct mScriptEngine2 **lua = dlsym(lib, "mSCRIPT_ENGINE_LUA");
    if (!init || !stdlib || !socket || !attach_core || !trigger || !engine || !open_file || !lua) return 4;
    static struct mScriptContext context;
    init(&context);
    stdlib(&context);
    socket(&context);
    struct mScriptEngineContext *l = engine(&context, *lua);
    attach_core(&context, e->core);
    struct VFile *file = open_file(script_path, 0);
    if (!l || !file || !l->load(l, script_path, file) || !l->run(l)) return 5;
    emulator_run(e, 0, 1, true); /* from here on every frame is drawn */
    for (;;) {
        e->core->runFrame(e->core);
        trigger(&context, "frame");
        usleep(100); /* alone it need not run faster than anybody looks */
    }
}

/* Returns the process; end it with SIGKILL. */
static pid_t host_start(const char *rom_path, int port) {
    char text[16];
    snprintf(text, sizeof text, "%d", port);
    fflush(NULL);
    pid_t child = fork();
    if (child) return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setenv("PMD_REMOTE_PORT", text, 1);
    _exit(host_loop(rom_path, "configs/mgba/remote.lua"));
}

#endif
