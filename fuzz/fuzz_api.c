/* Bodies of requests to a whole API over a tiny checkpoint; the first byte chooses the endpoint. Whatever comes, there must be an
 * answer with a status, and it must not be 500. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "serve/api.h"

static int start(void) {
    struct http_server *http;
    struct api *api;
    struct qvl_model *model;
    struct err err;
    struct api_options o = {.model_name = "m", .seconds = 0.2, .parallel = 2, .image_pixels = 10000, .images = 2};
    struct qvl_options q = {.threads = 1, .kv_bytes = 8 << 20, .context = 512};
    if (http_start(&(struct http_options){0}, &http, &err) || api_start(http, &o, &api, &err) ||
        qvl_load("tests/golden/tiny-a", &q, &model, &err)) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    api_ready(api, model);
    return http_port(http);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const paths[] = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"};
    static int port;
    if (!port) port = start();
    if (size == 0) return 0;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger reset = {1, 0};
    struct buf b = {0};
    char answer[65536];
    size_t n = 0;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (connect(fd, (struct sockaddr *)&a, sizeof a)) abort();
    buf_printf(&b, "POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n", paths[data[0] % 5], size - 1);
    buf_append(&b, data + 1, size - 1);
    if (send(fd, b.data, b.len, MSG_NOSIGNAL) != (ssize_t)b.len) abort();
    for (ssize_t r = 1; r && n + 1 < sizeof answer;) { /* libFuzzer's clock interrupts */
        r = recv(fd, answer + n, sizeof answer - 1 - n, 0);
        if (r < 0 && errno != EINTR) break;
        if (r > 0) n += (size_t)r;
    }
    answer[n] = 0;
    close(fd);
    buf_free(&b);
    if (strncmp(answer, "HTTP/1.1 ", 9) || !strncmp(answer + 9, "500", 3)) {
        fprintf(stderr, "%s\n", answer);
        abort();
    }
    return 0;
}
