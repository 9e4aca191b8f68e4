/* Settings of the Hub from the environment, as the Hugging Face tools read them. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "hub/hub.h"

static bool is_true(const char *name) {
    const char *v = getenv(name);
    return v && (!strcmp(v, "1") || !strcasecmp(v, "on") || !strcasecmp(v, "yes") || !strcasecmp(v, "true"));
}

/* Trims white space, then one pair of quotes (people write them in .env files), then white space again. */
static void clean(const char *text, char *out, size_t cap) {
    while (isspace((unsigned char)*text)) text++;
    size_t n = strlen(text);
    while (n && isspace((unsigned char)text[n - 1])) n--;
    if (n >= 2 && (text[0] == '"' || text[0] == '\'') && text[n - 1] == text[0]) text++, n -= 2;
    while (n && isspace((unsigned char)*text)) text++, n--;
    while (n && isspace((unsigned char)text[n - 1])) n--;
    snprintf(out, cap, "%.*s", (int)(n < cap ? n : cap - 1), text);
}

/* A path from the environment: cleaned, ~ expanded. False when unset or empty. */
static bool path_from(const char *name, char out[PATH_MAX]) {
    const char *v = getenv(name);
    if (!v) return false;
    char text[PATH_MAX];
    clean(v, text, sizeof text);
    if (!*text) return false;
    const char *home = getenv("HOME");
    if (text[0] == '~' && (text[1] == '/' || !text[1]) && home) {
        if ((size_t)snprintf(out, PATH_MAX, "%s%s", home, text + 1) >= PATH_MAX) return false;
    } else {
        snprintf(out, PATH_MAX, "%s", text);
    }
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') out[--n] = 0;
    return true;
}

static int append(char out[PATH_MAX], const char *more, struct err *err) {
    size_t n = strlen(out);
    if ((size_t)snprintf(out + n, PATH_MAX - n, "%s", more) >= PATH_MAX - n) {
        return err_set(err, ERR_ARGUMENT, "the cache folder's path is longer than %d characters", PATH_MAX - 1);
    }
    return 0;
}

static int seconds_from(const char *name, int otherwise) {
    const char *v = getenv(name);
    int n = v ? atoi(v) : 0;
    return n > 0 && n <= 86400 ? n : otherwise;
}

static int read_token(struct hub_settings *out, const char *home, struct err *err) {
    static const char *const names[] = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"};
    if (is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return 0;
    for (int i = 0; i < 3 && !*out->token; i++) {
        const char *v = getenv(names[i]);
        if (!v) continue;
        clean(v, out->token, sizeof out->token);
        if (*out->token) out->token_source = names[i];
    }
    char path[PATH_MAX];
    if (!*out->token && (path_from("HF_TOKEN_PATH", path) || (size_t)snprintf(path, sizeof path, "%s/token", home) < sizeof path) &&
        file_exists(path)) {
        struct buf text = {0};
        if (file_read(path, 4096, &text, err)) return buf_free(&text), err->code;
        clean(text.data ? text.data : "", out->token, sizeof out->token);
        buf_free(&text);
        if (*out->token) out->token_source = "token file";
    }
    for (const char *p = out->token; *p; p++) {
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7F) {
            return err_set(err, ERR_ARGUMENT, "the token from %s holds white space or control characters", out->token_source);
        }
    }
    return 0;
}

int hub_settings_read(struct hub_settings *out, struct err *err) {
    struct err unwanted = {0};
    if (!err) err = &unwanted;
    *out = (struct hub_settings){.head_timeout_s = seconds_from("HF_HUB_ETAG_TIMEOUT", 10),
                                 .read_timeout_s = seconds_from("HF_HUB_DOWNLOAD_TIMEOUT", 10),
                                 .retry_pause_s = 1.0};
    const char *endpoint = getenv("HF_ENDPOINT");
    clean(endpoint && *endpoint ? endpoint : "https://huggingface.co", out->endpoint, sizeof out->endpoint);
    size_t n = strlen(out->endpoint);
    while (n && out->endpoint[n - 1] == '/') out->endpoint[--n] = 0;
    if (strncmp(out->endpoint, "http://", 7) && strncmp(out->endpoint, "https://", 8)) {
        return err_set(err, ERR_ARGUMENT, "HF_ENDPOINT: '%s' is no http(s) URL", out->endpoint);
    }
    char home[PATH_MAX];
    if (!path_from("HF_HOME", home)) {
        if (path_from("XDG_CACHE_HOME", home)) {
            if (append(home, "/huggingface", err)) return err->code;
        } else {
            const char *user = getenv("HOME");
            if ((size_t)snprintf(home, sizeof home, "%s/.cache/huggingface", user && *user ? user : "/tmp") >= sizeof home) {
                return err_set(err, ERR_ARGUMENT, "HOME: path too long");
            }
        }
    }
    if (!path_from("HF_HUB_CACHE", out->cache) && !path_from("HUGGINGFACE_HUB_CACHE", out->cache)) {
        snprintf(out->cache, sizeof out->cache, "%s", home);
        if (append(out->cache, "/hub", err)) return err->code;
    }
    out->offline = is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE");
    return read_token(out, home, err);
}

bool hub_id_valid(const char *id) {
    int slashes = 0;
    size_t n = strlen(id);
    if (!n || n > 192) return false;
    for (const char *p = id; *p; p++) {
        if (*p == '/') slashes++;
        else if (!isalnum((unsigned char)*p) && !strchr("-_.", *p)) return false;
        bool edge = p == id || p[-1] == '/' || !p[1] || p[1] == '/';
        if (edge && strchr("-./", *p)) return false;
        if (p[0] == p[1] && strchr("-.", *p)) return false; /* "--" separates owner and name in the cache */
    }
    return slashes == 1;
}
