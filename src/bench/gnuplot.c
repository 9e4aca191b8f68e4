#include "bench/gnuplot.h"

#include <errno.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int start(int script, int messages, pid_t *pid) {
    posix_spawn_file_actions_t actions;
    char *const arguments[] = {"gnuplot", "-", NULL};
    int e = posix_spawn_file_actions_init(&actions);
    if (e) return e;
    e = posix_spawn_file_actions_adddup2(&actions, script, 0);
    if (!e) e = posix_spawn_file_actions_adddup2(&actions, messages, 1);
    if (!e) e = posix_spawn_file_actions_adddup2(&actions, messages, 2);
    if (!e) e = posix_spawnp(pid, "gnuplot", &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    return e;
}

int gnuplot_run(const struct buf *script, struct err *err) {
    int in = memfd_create("script", MFD_CLOEXEC), out = memfd_create("messages", MFD_CLOEXEC), r = 0, status = 0;
    pid_t pid;
    if (script->failed) r = err_set(err, ERR_MEMORY, "out of memory for a picture");
    else if (in < 0 || out < 0 || write(in, script->data, script->len) != (ssize_t)script->len || lseek(in, 0, SEEK_SET))
        r = err_set(err, ERR_IO, "cannot hand a script to gnuplot: %s", strerror(errno));
    int e = r ? 0 : start(in, out, &pid);
    if (e == ENOENT)
        r = err_set(err, ERR_MISSING, "gnuplot is not installed; the pictures need it: apt-get install gnuplot-nox fonts-dejavu-core");
    else if (e) r = err_set(err, ERR_IO, "cannot start gnuplot: %s", strerror(e));
    if (!r) {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
        if (!WIFEXITED(status) || WEXITSTATUS(status)) {
            char text[400];
            ssize_t n = pread(out, text, sizeof text - 1, 0);
            text[n > 0 ? n : 0] = 0;
            r = err_set(err, ERR_IO, "gnuplot failed (status %d): %s", WIFEXITED(status) ? WEXITSTATUS(status) : -1, text);
        }
    }
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    return r;
}
