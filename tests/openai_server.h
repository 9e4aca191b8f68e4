/* An OpenAI-compatible server on loopback for the tests: a real process. The first folder of the path says how it behaves; it answers
 * with the first action of the schema's enum that it was sent:
 *
 *   good      streams in pieces of 1 to 3 bytes, CRLF, comments, log-probabilities, usage chunk; or whole where no stream is asked for
 *   plain     never streams, whatever it is asked       busy      429 with Retry-After once, then plain
 *   broken    500 always                                later     plain once, then 500 always
 *   garbage   200 and no JSON                           cut       the stream ends in mid-chunk     short   less than Content-Length
 *   dance     an action that does not exist             silent    no answer for 5 s                stall   a piece of the stream, then none
 *   moved     redirects to plain                        old       400 for logprobs, then plain     oops    an error event in the stream
 *   flood     an endless answer                         nolist    404 for /models, then plain      empty   an empty list of models
 *   denied    401, repeating the key                    limit     finish_reason length             null    content null
 */
#ifndef OPENAI_SERVER_H
#define OPENAI_SERVER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct openai_seen { /* shared with the server's processes */
    int posts, keys, moved_posts;
    char body[1 << 18]; /* of the last POST */
};

struct openai_server {
    pid_t pid;
    int port;
    struct openai_seen *seen;
};

static bool send_all(int fd, const char *text, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t w = send(fd, text + done, n - done, MSG_NOSIGNAL);
        if (w <= 0) return false;
        done += (size_t)w;
    }
    return true;
}

static void reply(int fd, const char *status, const char *headers, const char *body) {
    char text[8192];
    int n = snprintf(text, sizeof text, "HTTP/1.1 %s\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n%s", status, headers, strlen(body), body);
    send_all(fd, text, (size_t)n);
}

static const char JSON_TYPE[] = "Content-Type: application/json\r\n";

static void reply_plain(int fd, const char *content, const char *finish) {
    char body[2048];
    snprintf(body, sizeof body,
             "{\"id\":\"c\",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":%s},\"logprobs\":null,"
             "\"finish_reason\":\"%s\"}],\"usage\":{\"prompt_tokens\":120,\"completion_tokens\":9,\"total_tokens\":129,"
             "\"prompt_tokens_details\":{\"cached_tokens\":100}}}",
             content, finish);
    reply(fd, "200 OK", JSON_TYPE, body);
}

static int stream_head(int fd) {
    static const char head[] = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n";
    return send_all(fd, head, strlen(head));
}

/* Token by token: {" action ": " NAME "} ; the name is split in two, with probabilities 1/2 and 1/4. */
static void reply_stream(int fd, const char *name) {
    char text[8192];
    int half = (int)strlen(name) / 2;
    int n = snprintf(text, sizeof text, ": hello\r\n\r\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\r\n\r\n");
    char tokens[4][64] = {"{\\\"action\\\": \\\"", "", "", "\\\"}"};
    snprintf(tokens[1], 64, "%.*s", half, name);
    snprintf(tokens[2], 64, "%s", name + half);
    static const char *const logprobs[] = {"-3.0", "-0.693147180559945", "-1.386294361119891", "-5"};
    for (int i = 0; i < 4; i++) {
        n += snprintf(text + n, sizeof text - (size_t)n,
                      "id: %d\r\ndata:{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":{\"content\":[{\"token\":\"%s\",\"logprob\":%s,"
                      "\"top_logprobs\":[]}]},\"finish_reason\":null}]}\r\n\r\n", i, tokens[i], tokens[i], logprobs[i]);
    }
    n += snprintf(text + n, sizeof text - (size_t)n,
                  "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r\n"
                  "data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":120,\"completion_tokens\":9,\"prompt_tokens_details\":{\"cached_tokens\":100}}}\r\n\r\n"
                  "data: [DONE]\r\n\r\n");
    stream_head(fd);
    for (int i = 0, piece; i < n; i += piece) {
        piece = 1 + i % 3;
        if (piece > n - i) piece = n - i;
        if (!send_all(fd, text + i, (size_t)piece)) return;
        if (i % 97 == 0) usleep(500);
    }
}

static void serve_question(struct openai_server *s, int fd, const char *mode, const char *body) {
    char name[64] = "", content[128];
    const char *list = strstr(body, "\"enum\":[\"");
    if (list) sscanf(list + 9, "%63[a-z_]", name);
    snprintf(content, sizeof content, "\"{\\\"action\\\": \\\"%s\\\"}\"", strcmp(mode, "dance") ? name : "dance");
    static const char part[] = "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"choices\":";
    int post = ++s->seen->posts;
    if (!strcmp(mode, "moved")) reply(fd, "307 Temporary Redirect", "Location: /plain/v1/chat/completions\r\n", "");
    else if (!strcmp(mode, "busy") && post == 1) reply(fd, "429 Too Many Requests", "Retry-After: 1\r\n", "{\"error\":{\"message\":\"slow down\"}}");
    else if (!strcmp(mode, "broken") || (!strcmp(mode, "later") && post > 1)) reply(fd, "500 Internal Server Error", JSON_TYPE, "{\"error\":{\"message\":\"kaputt\\u001b[31m\"}}");
    else if (!strcmp(mode, "garbage")) reply(fd, "200 OK", JSON_TYPE, "{\"choices\": [ oh");
    else if (!strcmp(mode, "old") && strstr(body, "\"logprobs\"")) reply(fd, "400 Bad Request", JSON_TYPE, "{\"error\":{\"message\":\"logprobs are not supported\"}}");
    else if (!strcmp(mode, "limit")) reply_plain(fd, content, "length");
    else if (!strcmp(mode, "null")) reply_plain(fd, "null", "stop");
    else if (!strcmp(mode, "short")) send_all(fd, part, strlen(part));
    else if (!strcmp(mode, "silent")) sleep(5);
    else if (!strcmp(mode, "cut") || !strcmp(mode, "stall") || !strcmp(mode, "oops")) {
        static const char first[] = "data: {\"choices\":[{\"delta\":{\"content\":\"{\\\"act\"},\"finish_reason\":null}]}\n\n";
        static const char half[] = "data: {\"choices\":[{\"del", error[] = "data: {\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\"}}\n\n";
        stream_head(fd);
        send_all(fd, first, strlen(first));
        if (*mode == 'c') send_all(fd, half, strlen(half));
        if (*mode == 'o') send_all(fd, error, strlen(error));
        if (*mode == 's') sleep(5);
    } else if (!strcmp(mode, "flood")) {
        char blanks[4096];
        memset(blanks, ' ', sizeof blanks);
        stream_head(fd);
        while (send_all(fd, blanks, sizeof blanks)) {}
    } else if (!strcmp(mode, "good") && strstr(body, "\"stream\":true")) reply_stream(fd, name);
    else reply_plain(fd, content, "stop");
}

static void serve(struct openai_server *s, int fd) {
    static char request[1 << 18];
    char mode[32] = "", path[64] = "", method[8] = "", key[256] = "";
    size_t n = 0;
    char *end = NULL;
    while (n + 1 < sizeof request && !end) {
        ssize_t got = recv(fd, request + n, sizeof request - 1 - n, 0);
        if (got <= 0) return;
        request[n += (size_t)got] = 0;
        end = strstr(request, "\r\n\r\n");
    }
    const char *length = end ? strcasestr(request, "\r\nContent-Length:") : NULL, *token = end ? strstr(request, "\r\nAuthorization: Bearer ") : NULL;
    size_t want = end ? (size_t)(end + 4 - request) + (length && length < end ? (size_t)atoll(length + 17) : 0) : 0;
    if (!end || want >= sizeof request) return;
    for (ssize_t got; n < want; request[n += (size_t)got] = 0) {
        if ((got = recv(fd, request + n, want - n, 0)) <= 0) return;
    }
    if (sscanf(request, "%7s /%31[^/]/v1%63s", method, mode, path) != 3) return;
    if (token && token < end) s->seen->keys++, sscanf(token + 24, "%255s", key);
    if (!strcmp(mode, "denied")) {
        char body[400];
        snprintf(body, sizeof body, "{\"error\":{\"message\":\"bad key %s\",\"type\":\"authentication_error\"}}", key);
        reply(fd, "401 Unauthorized", JSON_TYPE, body);
    } else if (!strcmp(path, "/models")) {
        if (!strcmp(mode, "nolist")) reply(fd, "404 Not Found", "", "no");
        else reply(fd, "200 OK", JSON_TYPE, !strcmp(mode, "empty") ? "{\"data\":[]}" : "{\"object\":\"list\",\"data\":[{\"id\":\"tiny-vl\"},{\"id\":\"other\"}]}");
    } else if (!strcmp(path, "/chat/completions") && !strcmp(method, "POST")) {
        snprintf(s->seen->body, sizeof s->seen->body, "%s", end + 4);
        serve_question(s, fd, mode, end + 4);
    } else {
        reply(fd, "404 Not Found", "", "");
    }
}

static int openai_server_start(struct openai_server *s) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    s->seen = mmap(NULL, sizeof *s->seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 64) || getsockname(fd, (struct sockaddr *)&a, &len)) return -1;
    s->port = ntohs(a.sin_port);
    if ((s->pid = fork()) == 0) {
        signal(SIGCHLD, SIG_IGN);
        for (;;) {
            int c = accept(fd, NULL, NULL);
            if (c >= 0 && fork() == 0) {
                alarm(20);
                serve(s, c);
                shutdown(c, SHUT_RDWR);
                _exit(0);
            }
            if (c >= 0) close(c);
        }
    }
    close(fd);
    return s->pid > 0 ? 0 : -1;
}

static void openai_server_stop(struct openai_server *s) {
    kill(s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
    munmap(s->seen, sizeof *s->seen);
}

#endif
