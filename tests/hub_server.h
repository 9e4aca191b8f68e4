/* A Hub on loopback for the tests: a real process that speaks the protocol (facts: qwen3-vl.md §8), on two ports, the second one
 * playing the storage host that signed URLs lead to. The repository's owner says how it misbehaves:
 *
 *   good      all well; two pages of listing      gated     403 GatedRepo          absent   401 RepoNotFound
 *   denied    403                                 limited   429 with Retry-After first, then well
 *   down      503 always                          cut       each GET of the weights ends after 300,000 bytes
 *   corrupt   the first GET has a flipped byte    always    every GET has a flipped byte
 *   expire    cut, and the storage host answers 403 to the first range until HEAD gives a new URL
 *   norange   cut once, then ranges are ignored   moved     a relative redirect to good    drip     cut and then a stall
 */
#ifndef HUB_SERVER_H
#define HUB_SERVER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/sha.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WEIGHT_BYTES = 1000000 };
static const char HUB_COMMIT[] = "0123456789abcdef0123456789abcdef01234567";
static const char CONFIG_TEXT[] = "{\"model_type\": \"qwen3_vl\"}\n", TOKENIZER_TEXT[] = "{\"model\": {}}\n";

/* Counters that the test reads. */
struct hub_seen {
    int heads, gets, storage_gets, ranges, token_at_hub, token_at_storage, limited, expired, requests;
};

struct hub_server {
    pid_t pid;
    int port, storage_port;
    struct hub_seen *seen;
    unsigned char *weights;
    char weights_sha256[65], config_sha1[41], tokenizer_sha1[41];
};

static void hex_of(const unsigned char *digest, int n, char *out) {
    for (int i = 0; i < n; i++) sprintf(out + 2 * i, "%02x", digest[i]);
}

static void blob_sha1(const char *text, char out[41]) {
    unsigned char all[512], digest[20];
    int head = snprintf((char *)all, sizeof all, "blob %zu", strlen(text)) + 1;
    memcpy(all + head, text, strlen(text));
    SHA1(all, (size_t)head + strlen(text), digest);
    hex_of(digest, 20, out);
}

static void send_text(int fd, const char *text) {
    for (size_t n = strlen(text), done = 0; done < n;) {
        ssize_t w = send(fd, text + done, n - done, MSG_NOSIGNAL);
        if (w <= 0) return;
        done += (size_t)w;
    }
}

static void send_bytes(int fd, const unsigned char *data, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t w = send(fd, data + done, n - done, MSG_NOSIGNAL);
        if (w <= 0) return;
        done += (size_t)w;
    }
}

static void send_answer(int fd, const char *status, const char *headers, const char *body, bool head) {
    char text[8192];
    snprintf(text, sizeof text, "HTTP/1.1 %s\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n%s", status, headers, strlen(body), head ? "" : body);
    send_text(fd, text);
}

static void serve_weights(struct hub_server *h, int fd, const char *owner, const char *request) {
    long long from = 0;
    const char *range = strstr(request, "\r\nRange: bytes=");
    h->seen->storage_gets++;
    if (range) {
        h->seen->ranges++;
        from = atoll(range + 15);
    }
    if (!strcmp(owner, "expire") && from && !strstr(request, "sig=2")) {
        h->seen->expired++;
        send_answer(fd, "403 Forbidden", "", "expired", false);
        return;
    }
    if (!strcmp(owner, "norange")) {
        if (h->seen->storage_gets > 1) from = 0, range = NULL;
    }
    if (from >= WEIGHT_BYTES) {
        send_answer(fd, "416 Range Not Satisfiable", "", "", false);
        return;
    }
    char head[512];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %lld\r\n", range ? "206 Partial Content" : "200 OK",
                     WEIGHT_BYTES - from);
    if (range) n += snprintf(head + n, sizeof head - (size_t)n, "Content-Range: bytes %lld-%d/%d\r\n", from, WEIGHT_BYTES - 1, WEIGHT_BYTES);
    snprintf(head + n, sizeof head - (size_t)n, "\r\n");
    send_text(fd, head);
    unsigned char *copy = malloc(WEIGHT_BYTES);
    memcpy(copy, h->weights, WEIGHT_BYTES);
    if (!strcmp(owner, "always") || (!strcmp(owner, "corrupt") && h->seen->storage_gets == 1)) copy[777777] ^= 4;
    long long stop = WEIGHT_BYTES;
    bool cuts = !strcmp(owner, "cut") || !strcmp(owner, "expire") || !strcmp(owner, "drip") || (!strcmp(owner, "norange") && h->seen->storage_gets == 1);
    if (cuts && from + 300000 < stop) stop = from + 300000;
    send_bytes(fd, copy + from, (size_t)(stop - from));
    if (!strcmp(owner, "drip") && h->seen->storage_gets == 1) sleep(4);
    free(copy);
}

static void serve_hub(struct hub_server *h, int fd, const char *method, const char *target, const char *request) {
    char owner[64] = "", text[4096], headers[1024] = "";
    bool head = !strcmp(method, "HEAD");
    if (!strcmp(target, "/api/whoami-v2")) {
        if (strstr(request, "\r\nAuthorization: Bearer hf_good")) send_answer(fd, "200 OK", "", "{\"name\": \"fen\"}", false);
        else send_answer(fd, "401 Unauthorized", "X-Error-Message: Invalid credentials\r\n", "{}", false);
        return;
    }
    const char *at = !strncmp(target, "/api/models/", 12) ? target + 12 : target + 1;
    sscanf(at, "%63[^/]", owner);
    if (!strcmp(owner, "gated")) send_answer(fd, "403 Forbidden", "X-Error-Code: GatedRepo\r\n", "{}", head);
    else if (!strcmp(owner, "absent")) send_answer(fd, "401 Unauthorized", "X-Error-Code: RepoNotFound\r\n", "{}", head);
    else if (!strcmp(owner, "denied")) send_answer(fd, "403 Forbidden", "", "{}", head);
    else if (!strcmp(owner, "down")) send_answer(fd, "503 Service Unavailable", "", "", head);
    else if (!strcmp(owner, "limited") && h->seen->limited++ == 0) send_answer(fd, "429 Too Many Requests", "Retry-After: 1\r\n", "", head);
    else if (strstr(target, "/revision/")) {
        if (!strstr(target, "/revision/main")) send_answer(fd, "404 Not Found", "X-Error-Code: RevisionNotFound\r\n", "{}", false);
        else snprintf(text, sizeof text, "{\"id\": \"x\", \"sha\": \"%s\"}", HUB_COMMIT), send_answer(fd, "200 OK", "", text, false);
    } else if (strstr(target, "/tree/")) {
        if (strstr(target, "cursor=2")) {
            snprintf(text, sizeof text,
                     "[{\"type\":\"file\",\"path\":\"model.safetensors\",\"size\":%d,\"oid\":\"%s\",\"lfs\":{\"oid\":\"%s\",\"size\":%d,\"pointerSize\":134}}]",
                     WEIGHT_BYTES, h->config_sha1, h->weights_sha256, WEIGHT_BYTES);
        } else {
            snprintf(headers, sizeof headers, "Link: <http://127.0.0.1:%d%s&cursor=2>; rel=\"next\"\r\n", h->port, target);
            snprintf(text, sizeof text,
                     "[{\"type\":\"directory\",\"path\":\"onnx\",\"size\":0,\"oid\":\"0\"},{\"type\":\"file\",\"path\":\"README.md\",\"size\":5,\"oid\":\"%s\"},"
                     "{\"type\":\"file\",\"path\":\"config.json\",\"size\":%zu,\"oid\":\"%s\"},{\"type\":\"file\",\"path\":\"tokenizer.json\",\"size\":%zu,\"oid\":\"%s\"}]",
                     h->config_sha1, strlen(CONFIG_TEXT), h->config_sha1, strlen(TOKENIZER_TEXT), h->tokenizer_sha1);
        }
        send_answer(fd, "200 OK", headers, text, false);
    } else if (!strcmp(owner, "moved")) {
        snprintf(headers, sizeof headers, "Location: /good%s\r\n", strchr(target + 1, '/'));
        send_answer(fd, "307 Temporary Redirect", headers, "", head);
    } else if (strstr(target, "/resolve/")) {
        const char *name = strrchr(target, '/') + 1;
        bool config = !strcmp(name, "config.json");
        if (head) h->seen->heads++;
        else h->seen->gets++;
        if (!strcmp(name, "model.safetensors")) {
            snprintf(headers, sizeof headers, "X-Repo-Commit: %s\r\nX-Linked-Etag: \"%s\"\r\nX-Linked-Size: %d\r\nLocation: http://127.0.0.1:%d/%s/blob?sig=%d\r\n",
                     HUB_COMMIT, h->weights_sha256, WEIGHT_BYTES, h->storage_port, owner, h->seen->expired ? 2 : 1);
            send_answer(fd, "302 Found", headers, "", head);
        } else if (config || !strcmp(name, "tokenizer.json")) {
            snprintf(headers, sizeof headers, "X-Repo-Commit: %s\r\nETag: W/\"%s\"\r\n", HUB_COMMIT, config ? h->config_sha1 : h->tokenizer_sha1);
            send_answer(fd, "200 OK", headers, config ? CONFIG_TEXT : TOKENIZER_TEXT, head);
        } else {
            send_answer(fd, "404 Not Found", "X-Error-Code: EntryNotFound\r\n", "", head);
        }
    } else {
        send_answer(fd, "404 Not Found", "", "", head);
    }
}

static void serve_connection(struct hub_server *h, int fd, bool storage) {
    char request[8192], method[16], target[4096];
    size_t n = 0;
    while (n + 1 < sizeof request && (n < 4 || memcmp(request + n - 4, "\r\n\r\n", 4))) {
        ssize_t got = recv(fd, request + n, 1, 0);
        if (got <= 0) return;
        n += (size_t)got;
    }
    request[n] = 0;
    if (sscanf(request, "%15s %4095s", method, target) != 2) return;
    h->seen->requests++;
    bool token = strstr(request, "\r\nAuthorization:") != NULL;
    if (storage) {
        char owner[64] = "";
        sscanf(target + 1, "%63[^/]", owner);
        h->seen->token_at_storage += token;
        serve_weights(h, fd, owner, request);
    } else {
        h->seen->token_at_hub += token;
        serve_hub(h, fd, method, target, request);
    }
}

static int listen_on_loopback(int *port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 64) || getsockname(fd, (struct sockaddr *)&a, &len)) return -1;
    *port = ntohs(a.sin_port);
    return fd;
}

static int hub_server_start(struct hub_server *h) {
    unsigned char digest[32];
    h->weights = malloc(WEIGHT_BYTES);
    for (uint32_t i = 0, x = 1; i < WEIGHT_BYTES; i++) h->weights[i] = (unsigned char)((x = x * 1664525u + 1013904223u) >> 24);
    SHA256(h->weights, WEIGHT_BYTES, digest);
    hex_of(digest, 32, h->weights_sha256);
    blob_sha1(CONFIG_TEXT, h->config_sha1);
    blob_sha1(TOKENIZER_TEXT, h->tokenizer_sha1);
    h->seen = mmap(NULL, sizeof *h->seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int hub = listen_on_loopback(&h->port), storage = listen_on_loopback(&h->storage_port);
    if (hub < 0 || storage < 0) return -1;
    h->pid = fork();
    if (h->pid == 0) {
        signal(SIGCHLD, SIG_IGN);
        for (;;) {
            fd_set set;
            FD_ZERO(&set);
            FD_SET(hub, &set);
            FD_SET(storage, &set);
            if (select((hub > storage ? hub : storage) + 1, &set, NULL, NULL, NULL) <= 0) continue;
            for (int s = 0; s < 2; s++) {
                int listener = s ? storage : hub;
                if (!FD_ISSET(listener, &set)) continue;
                int fd = accept(listener, NULL, NULL);
                if (fd < 0) continue;
                if (fork() == 0) {
                    alarm(20);
                    serve_connection(h, fd, s == 1);
                    shutdown(fd, SHUT_RDWR);
                    _exit(0);
                }
                close(fd);
            }
        }
    }
    close(hub), close(storage);
    return h->pid > 0 ? 0 : -1;
}

static void hub_server_stop(struct hub_server *h) {
    kill(h->pid, SIGKILL);
    waitpid(h->pid, NULL, 0);
    munmap(h->seen, sizeof *h->seen);
    free(h->weights);
}

#endif
