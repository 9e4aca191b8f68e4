#include "record/run_set.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "record/run_room.h"

enum { HEAD_LIMIT = 4 << 20 };

_Static_assert(sizeof((struct run_set *)0)->folder == PATH_MAX, "folders of PATH_MAX bytes");

static int check_arguments(struct run_set *s, const struct json *head, const char *path, struct err *err) {
    s->arguments = json_get(head, "arguments");
    if (!s->arguments) return 0;
    bool strings = s->arguments->type == JSON_ARRAY;
    for (uint32_t i = 0; strings && i < s->arguments->count; i++) strings = s->arguments->items[i]->type == JSON_STRING;
    return strings ? 0 : err_set(err, ERR_FORMAT, "%s: field arguments: expected an array of strings", path);
}

int run_set_create(const char *root, const char *folder, int games, const char *arguments, struct run_set *out, struct err *err) {
    *out = (struct run_set){.games = games};
    char path[PATH_MAX];
    struct buf b = {0};
    int code = run_make_folder(root, folder, out->folder, err);
    if (code) return code;
    buf_printf(&b, "{\"format\":1,\"program\":\"pmd-agent\",\"games\":%d", games);
    if (arguments) buf_printf(&b, ",\"arguments\":%s", arguments);
    buf_str(&b, "}\n");
    snprintf(path, sizeof path, "%.*s/games.json", PATH_MAX - 16, out->folder);
    code = b.failed ? err_set(err, ERR_MEMORY, "%s: out of memory", path) : file_replace(path, b.data, b.len, err);
    buf_free(&b);
    return code;
}

int run_set_open(const char *folder, struct run_set *out, struct err *err) {
    *out = (struct run_set){0};
    char path[PATH_MAX];
    if (snprintf(out->folder, sizeof out->folder, "%s", folder) >= PATH_MAX - 32) return err_set(err, ERR_ARGUMENT, "run folder: path too long");
    snprintf(path, sizeof path, "%.*s/games.json", PATH_MAX - 16, folder);
    bool several = file_exists(path);
    if (!several) snprintf(path, sizeof path, "%.*s/run.json", PATH_MAX - 16, folder);
    if (!several && !file_exists(path)) return err_set(err, ERR_MISSING, "%s: no run (neither run.json nor games.json in it)", folder);
    const struct json *head = json_parse_file(path, HEAD_LIMIT, &out->arena, err);
    int code = head ? check_arguments(out, head, path, err) : err->code;
    if (!code && several) {
        int64_t format = json_as_integer(json_get(head, "format"), -1), games = json_as_integer(json_get(head, "games"), -1);
        if (format != 1) code = err_set(err, ERR_FORMAT, "%s: field format: expected 1, found %lld", path, (long long)format);
        else if (games < 1 || games > RUN_GAMES) code = err_set(err, ERR_FORMAT, "%s: field games: expected 1 to %d, found %lld", path, RUN_GAMES, (long long)games);
        out->games = (int)games;
    }
    if (code) run_set_close(out);
    return code;
}

void run_set_close(struct run_set *s) {
    arena_free(&s->arena);
    *s = (struct run_set){0};
}

const char *run_set_game(const struct run_set *s, int game, char out[4096]) {
    if (s->games) snprintf(out, PATH_MAX, "%.*s/game-%03d", PATH_MAX - 16, s->folder, game + 1);
    else snprintf(out, PATH_MAX, "%s", s->folder);
    return out;
}
