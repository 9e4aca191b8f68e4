#include "app/model_list.h"

#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/home.h"
#include "base/buf.h"
#include "base/file.h"
#include "hub/hub.h"

enum { LIST_LIMIT = 1 << 20 };

static int add_name(struct model_list *l, const char *name, size_t n) {
    char **grown = realloc(l->names, (size_t)(l->count + 1) * sizeof *grown);
    if (grown) l->names = grown;
    char *copy = grown ? strndup(name, n) : NULL;
    if (!copy) return -1;
    l->names[l->count++] = copy;
    return 0;
}

int model_list_read(const char *path, bool hub, struct model_list *out, struct err *err) {
    *out = (struct model_list){0};
    struct buf text = {0};
    int result = file_read(path, LIST_LIMIT, &text, err);
    int number = 0;
    if (!result && text.len && memchr(text.data, 0, text.len)) result = err_set(err, ERR_FORMAT, "%s: a zero byte: this is no text", path);
    for (char *line = text.data, *next; !result && line && *line; line = next) {
        size_t n = strcspn(line, "\n");
        next = line + n + (line[n] == '\n');
        line[n] = 0;
        number++;
        char *comment = strchr(line, '#');
        if (comment) *comment = 0;
        while (isspace((unsigned char)*line)) line++;
        n = strlen(line);
        while (n && isspace((unsigned char)line[n - 1])) line[--n] = 0;
        if (!n) continue;
        if (hub && !hub_id_valid(line)) {
            result = err_set(err, ERR_FORMAT, "%s:%d: '%.100s' is no Hub model id (expected owner/name)", path, number, line);
        } else if (add_name(out, line, n)) {
            result = err_set(err, ERR_MEMORY, "%s: out of memory", path);
        }
    }
    buf_free(&text);
    if (result) model_list_free(out);
    return result;
}

void model_list_free(struct model_list *l) {
    for (int i = 0; i < l->count; i++) free(l->names[i]);
    free(l->names);
    *l = (struct model_list){0};
}

int model_list_hub(struct model_list *out, char path[PATH_MAX], struct err *err) {
    const char *file = getenv("HF_MODELS_FILE");
    if (file && *file) snprintf(path, PATH_MAX, "%s", file);
    else home_file("configs/qwen_vl_models_hf.txt", path, PATH_MAX);
    return model_list_read(path, true, out, err);
}

static volatile bool stop_requested;
static void on_interrupt(int signal) {
    (void)signal;
    stop_requested = true;
}

struct progress_line {
    bool terminal;
    double last_percent;
};

static void print_progress(void *user, const struct hub_progress *p) {
    struct progress_line *line = user;
    double percent = p->bytes ? 100.0 * (double)p->bytes_done / (double)p->bytes : 0;
    if (p->note) fprintf(stderr, "%s%s\n", line->terminal ? "\r\033[K" : "", p->note);
    if (!p->bytes) return;
    char eta[32] = "";
    if (p->eta_s >= 0) snprintf(eta, sizeof eta, ", %d:%02d left", (int)p->eta_s / 60, (int)p->eta_s % 60);
    if (line->terminal) {
        int full = (int)(percent * 0.3);
        fprintf(stderr, "\r\033[K[%.*s%*s] %5.1f %%  %d/%d files  %.2f of %.2f GB  %.1f MB/s%s", full, "##############################", 30 - full,
                "", percent, p->files_done, p->files, (double)p->bytes_done * 1e-9, (double)p->bytes * 1e-9, p->bytes_per_s * 1e-6, eta);
    } else if (percent >= line->last_percent + 5 || p->files_done == p->files) {
        if (percent == line->last_percent) return;
        line->last_percent = percent;
        fprintf(stderr, "%5.1f %%  %d/%d files  %.2f of %.2f GB  %.1f MB/s%s\n", percent, p->files_done, p->files, (double)p->bytes_done * 1e-9,
                (double)p->bytes * 1e-9, p->bytes_per_s * 1e-6, eta);
    }
    fflush(stderr);
}

int model_fetch(const char *id, const char *revision, char folder[PATH_MAX], struct err *err) {
    struct hub_settings s;
    if (hub_settings_read(&s, err)) return err->code;
    struct progress_line line = {.terminal = isatty(STDERR_FILENO), .last_percent = -5};
    struct sigaction old, ours = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND}; /* a second Ctrl-C ends the program */
    stop_requested = false;
    sigaction(SIGINT, &ours, &old);
    struct hub_download d = {.id = id, .revision = revision, .on_progress = print_progress, .user = &line, .stop = &stop_requested};
    int result = hub_download(&s, &d, folder, err);
    sigaction(SIGINT, &old, NULL);
    if (line.terminal) fputs("\r\033[K", stderr);
    return result;
}

/* A name of configs/qwen_vl_models.txt: the whole line, or the folder's own name. */
static int resolve_local(const char *name, char folder[PATH_MAX], struct err *err) {
    struct model_list list;
    struct stat st;
    char path[PATH_MAX];
    int result = model_list_read(home_file("configs/qwen_vl_models.txt", path, sizeof path), false, &list, err);
    if (result) return result;
    *folder = 0;
    for (int i = 0; i < list.count && !*folder; i++) {
        const char *line = list.names[i], *slash = strrchr(line, '/');
        if (strcmp(name, line) && strcmp(name, slash ? slash + 1 : line)) continue;
        if (*line == '/') snprintf(folder, PATH_MAX, "%s", line);
        else home_file(line, folder, PATH_MAX);
    }
    model_list_free(&list);
    if (!*folder) {
        return err_set(err, ERR_MISSING, "%s: no such folder, and not in %s; MODEL_BACKEND=local takes folders and the names of that file", name, path);
    }
    if (stat(folder, &st) || !S_ISDIR(st.st_mode)) return err_set(err, ERR_MISSING, "%s: no such folder (named in %s)", folder, path);
    return 0;
}

int model_resolve(const char *name, bool local_only, char folder[PATH_MAX], struct err *err) {
    struct stat st;
    if (!stat(name, &st) && S_ISDIR(st.st_mode)) return snprintf(folder, PATH_MAX, "%s", name), 0;
    const char *backend = getenv("MODEL_BACKEND");
    if (backend && !strcmp(backend, "local")) return resolve_local(name, folder, err);
    if (!hub_id_valid(name)) {
        return err_set(err, ERR_MISSING, "%s: no such folder, and no Hub model id (expected owner/name)", name);
    }
    struct hub_settings s;
    if (hub_settings_read(&s, err)) return err->code;
    struct err missing = {0};
    if (!hub_cached(&s, name, NULL, folder, &missing)) return 0;
    if (local_only || s.offline) return *err = missing, missing.code;
    fprintf(stderr, "%s is not in the cache yet; fetching it to %s\n", name, s.cache);
    return model_fetch(name, NULL, folder, err);
}
