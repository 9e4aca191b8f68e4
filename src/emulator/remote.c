/* A game in an mGBA at the other end of a socket. The protocol is written down at the head of configs/mgba/remote.lua, which is the other
 * side of it.
 *
 * What is at the other end is not trusted: every length is checked against what may come and against what has come, every wait has an
 * end. A connection that breaks is made again; since the remote game stands still for a while, its frame number says how far the request
 * that was cut off had come, and only the rest is asked for. When that fails the emulator has failed for good (emulator_failed). */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "emulator/internal.h"

enum { VERSION = 1, LIMIT = 2 << 20, PAGE = 4096, EWRAM_PAGES = 64, PAGES = 72, MOST_AHEAD = 64, EWRAM_BYTES = 0x40000, IWRAM_BYTES = 0x8000 };
enum operation { HELLO = 1, RUN, RESET, WRITE, SAVE, LOAD };
enum { WANT_MEMORY = 1, WANT_PICTURE = 2 };
static const double answer_seconds = 10, slowest_frames_per_second = 10, again_seconds = 4;

struct remote {
    char host[256], port[8];
    int fd;
    uint32_t next_id, frame; /* frame: the remote's own count, as it must be now */
    struct buf out;          /* requests sent ahead, not yet handed to the socket */
    int ahead;               /* answers to them that are still to come */
    struct { uint32_t address, value; } written[MOST_AHEAD]; /* since the last run: again if the connection breaks before the next */
    int written_count;
    uint8_t reply[LIMIT];
    uint32_t reply_bytes;
    uint8_t memory[EWRAM_BYTES + IWRAM_BYTES];
};

static void put(uint8_t *p, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++) p[i] = (uint8_t)(v >> 8 * i);
}
static uint32_t u16(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }
static uint32_t u32(const uint8_t *p) { return u16(p) | u16(p + 2) << 16; }

static int lost(const struct remote *r, struct err *err, const char *what) {
    return err_set(err, ERR_NETWORK, "the remote emulator at %s:%s %s", r->host, r->port, what);
}

/* ---- bytes --------------------------------------------------------------------------------------------------------------------- */

static int wait_for(struct remote *r, short events, double deadline, struct err *err) {
    for (;;) {
        double left = deadline - clock_seconds();
        if (left <= 0) return lost(r, err, "does not answer");
        struct pollfd p = {r->fd, events, 0};
        int n = poll(&p, 1, (int)(left * 1000) + 1);
        if (n > 0) return 0;
        if (n < 0 && errno != EINTR) return lost(r, err, strerror(errno));
    }
}

static int send_all(struct remote *r, const void *data, size_t n, double deadline, struct err *err) {
    const char *p = data;
    while (n) {
        ssize_t done = send(r->fd, p, n, MSG_NOSIGNAL);
        if (done > 0) p += done, n -= (size_t)done;
        else if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (wait_for(r, POLLOUT, deadline, err)) return err->code;
        } else if (done < 0 && errno != EINTR) return lost(r, err, strerror(errno));
    }
    return 0;
}

static int receive_all(struct remote *r, void *data, size_t n, double deadline, struct err *err) {
    char *p = data;
    int on = 1;
    while (n) {
        /* The script cannot switch Nagle's algorithm off: its last segment waits for our acknowledgement, which Linux delays by 40 ms. */
        setsockopt(r->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
        ssize_t got = recv(r->fd, p, n, 0);
        if (got > 0) p += got, n -= (size_t)got;
        else if (got == 0) return lost(r, err, "closed the connection");
        else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (wait_for(r, POLLIN, deadline, err)) return err->code;
        } else if (errno != EINTR) return lost(r, err, strerror(errno));
    }
    return 0;
}

/* ---- requests and replies ------------------------------------------------------------------------------------------------------ */

/* Appends a request to `to`; returns its id. */
static uint32_t add_request(struct remote *r, struct buf *to, enum operation operation, const void *body, size_t bytes) {
    uint8_t head[9];
    put(head, 5 + bytes, 4);
    put(head + 4, ++r->next_id, 4);
    head[8] = (uint8_t)operation;
    buf_append(to, head, sizeof head);
    buf_append(to, body, bytes);
    return r->next_id;
}

/* The next reply, which must be to this request, into r->reply. */
static int take_reply(struct remote *r, uint32_t id, double deadline, struct err *err) {
    uint8_t head[9];
    if (receive_all(r, head, sizeof head, deadline, err)) return err->code;
    uint32_t length = u32(head);
    if (length < 5 || length > LIMIT) return err_set(err, ERR_FORMAT, "the remote emulator at %s:%s sent a reply of %u bytes: expected 5 to %d", r->host, r->port, length, LIMIT);
    if (u32(head + 4) != id) return err_set(err, ERR_FORMAT, "the remote emulator at %s:%s answered request %u, expected %u", r->host, r->port, u32(head + 4), id);
    r->reply_bytes = length - 5;
    if (receive_all(r, r->reply, r->reply_bytes, deadline, err)) return err->code;
    if (head[8] == 0) return 0;
    int n = r->reply_bytes > 300 ? 300 : (int)r->reply_bytes;
    for (int i = 0; i < n; i++) r->reply[i] = r->reply[i] < ' ' || r->reply[i] > '~' ? '?' : r->reply[i];
    return err_set(err, ERR_STATE, "the remote emulator at %s:%s refuses: %.*s", r->host, r->port, n, (const char *)r->reply);
}

/* Sends what waits and this request, and takes all replies up to its own. */
static int ask(struct remote *r, enum operation operation, const void *body, size_t bytes, double seconds, struct err *err) {
    double deadline = clock_seconds() + seconds;
    if (r->fd < 0) return lost(r, err, "is not connected");
    uint32_t first = r->next_id - (uint32_t)r->ahead + 1, id = add_request(r, &r->out, operation, body, bytes);
    int code = r->out.failed ? err_set(err, ERR_MEMORY, "out of memory for a request") : send_all(r, r->out.data, r->out.len, deadline, err);
    buf_clear(&r->out);
    for (uint32_t n = first; n != id && !code; n++) {
        code = take_reply(r, n, deadline, err);
        if (!code) r->ahead--;
    }
    return code ? code : take_reply(r, id, deadline, err);
}

/* ---- the connection ------------------------------------------------------------------------------------------------------------ */

static int open_socket(struct remote *r, double deadline, struct err *err) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    int problem = getaddrinfo(r->host, r->port, &hints, &list);
    if (problem) return err_set(err, ERR_NETWORK, "%s:%s: %s", r->host, r->port, gai_strerror(problem));
    int reason = 0;
    for (struct addrinfo *a = list; a && r->fd < 0; a = a->ai_next) {
        r->fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
        if (r->fd < 0) continue;
        socklen_t size = sizeof reason;
        if (connect(r->fd, a->ai_addr, a->ai_addrlen) == 0) break;
        reason = errno;
        if (reason == EINPROGRESS && !wait_for(r, POLLOUT, deadline, err) && !getsockopt(r->fd, SOL_SOCKET, SO_ERROR, &reason, &size) && !reason) break;
        close(r->fd);
        r->fd = -1;
    }
    freeaddrinfo(list);
    if (r->fd < 0) {
        return err_set(err, ERR_NETWORK, "no emulator answers at %s:%s (%s): is mGBA running, with the script configs/mgba/remote.lua loaded?", r->host, r->port,
                       reason ? strerror(reason) : "no address");
    }
    int on = 1;
    setsockopt(r->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return 0;
}

static void hang_up(struct remote *r) {
    if (r->fd >= 0) close(r->fd);
    r->fd = -1;
    buf_clear(&r->out);
    r->ahead = 0;
}

/* Connects and says hello. *frame: where the remote game stands. */
static int greet(struct emulator *e, uint32_t *frame, struct err *err) {
    struct remote *r = e->remote;
    uint8_t version[4];
    put(version, VERSION, 4);
    int code = open_socket(r, clock_seconds() + answer_seconds, err);
    if (!code) code = ask(r, HELLO, version, sizeof version, answer_seconds, err);
    if (!code && r->reply_bytes != 28) code = err_set(err, ERR_FORMAT, "%s:%s: no pmd-agent script answers there (a greeting of %u bytes)", r->host, r->port, r->reply_bytes);
    if (!code && u32(r->reply) != VERSION) code = err_set(err, ERR_FORMAT, "%s:%s: the script speaks version %u, expected %d", r->host, r->port, u32(r->reply), VERSION);
    if (!code && u32(r->reply + 8) != e->header.crc32) {
        code = err_set(err, ERR_FORMAT, "%s:%s: another ROM runs there: checksum %08x, expected %08x (\"%s\")", r->host, r->port, u32(r->reply + 8), e->header.crc32,
                       e->header.title);
    }
    if (code) hang_up(r);
    else *frame = u32(r->reply + 4);
    return code;
}

static int fail(struct emulator *e, const struct err *err) {
    hang_up(e->remote);
    if (!e->failure.code) e->failure = *err;
    return err->code;
}

/* Tries for a while; *frame as in greet. */
static int connect_again(struct emulator *e, uint32_t *frame, struct err *err) {
    double end = clock_seconds() + again_seconds;
    hang_up(e->remote);
    for (;;) {
        int code = greet(e, frame, err);
        if (!code || code == ERR_FORMAT || clock_seconds() > end) return code;
        nanosleep(&(struct timespec){0, 100 * 1000 * 1000}, NULL);
    }
}

static void add_write(struct remote *r, uint32_t address, uint32_t value) {
    uint8_t body[8];
    put(body, address, 4);
    put(body + 4, value, 4);
    add_request(r, &r->out, WRITE, body, sizeof body);
    r->ahead++;
}

/* On a new connection, where no frame has run since: what was written may not have come. */
static void write_again(struct remote *r) {
    for (int i = 0; i < r->written_count; i++) add_write(r, r->written[i].address, r->written[i].value);
}

/* A request that may be done twice. */
static int ask_surely(struct emulator *e, enum operation operation, const void *body, size_t bytes, struct err *err) {
    struct remote *r = e->remote;
    if (e->failure.code) return *err = e->failure, err->code;
    int code = ask(r, operation, body, bytes, answer_seconds, err);
    if (code != ERR_NETWORK) return code;
    uint32_t frame;
    if ((code = connect_again(e, &frame, err))) return fail(e, err);
    if (frame != r->frame && operation != RESET && operation != LOAD) {
        lost(r, err, "was away, and the game went on without us");
        return fail(e, err);
    }
    write_again(r);
    code = ask(r, operation, body, bytes, answer_seconds, err);
    return code == ERR_NETWORK ? fail(e, err) : code;
}

/* ---- a run --------------------------------------------------------------------------------------------------------------------- */

static int take_picture(struct emulator *e, const uint8_t *data, size_t bytes, struct err *err) {
    png_image image = {.version = PNG_IMAGE_VERSION};
    static _Thread_local uint8_t rgb[FRAME_PIXELS * 3];
    bool ok = png_image_begin_read_from_memory(&image, data, bytes) && image.width == FRAME_WIDTH && image.height == FRAME_HEIGHT;
    image.format = PNG_FORMAT_RGB;
    ok = ok && png_image_finish_read(&image, NULL, rgb, 0, NULL);
    png_image_free(&image);
    if (!ok) return err_set(err, ERR_FORMAT, "the remote emulator at %s:%s sent no picture of %dx%d (%zu bytes)", e->remote->host, e->remote->port, FRAME_WIDTH, FRAME_HEIGHT, bytes);
    for (int i = 0; i < FRAME_PIXELS; i++) e->pixels[i] = rgb[3 * i] | (uint32_t)rgb[3 * i + 1] << 8 | (uint32_t)rgb[3 * i + 2] << 16;
    return 0;
}

static int broken_reply(const struct remote *r, struct err *err) {
    return err_set(err, ERR_FORMAT, "the remote emulator at %s:%s sent a reply to a run that breaks off or makes no sense (%u bytes)", r->host, r->port, r->reply_bytes);
}

/* The reply to a run: frame, pages, picture. */
static int take_run(struct emulator *e, bool draw, uint32_t expected, struct err *err) {
    struct remote *r = e->remote;
    const uint8_t *p = r->reply, *end = p + r->reply_bytes;
    if (end - p < 10) return broken_reply(r, err);
    uint32_t frame = u32(p), pages = u16(p + 4);
    p += 6;
    for (uint32_t i = 0; i < pages; i++, p += 2 + PAGE) {
        if (end - p < 2 + PAGE || u16(p) >= PAGES) return broken_reply(r, err);
        memcpy(r->memory + u16(p) * PAGE, p + 2, PAGE);
    }
    if (end - p < 4 || u32(p) != (size_t)(end - p - 4)) return broken_reply(r, err);
    if (frame != expected) {
        return err_set(err, ERR_STATE, "the remote emulator at %s:%s went on by itself: it is at frame %u, expected %u", r->host, r->port, frame, expected);
    }
    return draw ? take_picture(e, p + 4, (size_t)(end - p - 4), err) : 0;
}

static int ask_run(struct emulator *e, uint32_t keys, uint32_t frames, bool draw, struct err *err) {
    uint8_t body[7];
    put(body, keys, 2);
    put(body + 2, frames, 4);
    body[6] = WANT_MEMORY | (draw ? WANT_PICTURE : 0);
    return ask(e->remote, RUN, body, sizeof body, answer_seconds + frames / slowest_frames_per_second, err);
}

static void remote_run(struct emulator *e, uint32_t keys, int frames, bool draw) {
    struct remote *r = e->remote;
    struct err err = {0};
    uint32_t target = r->frame + (uint32_t)frames, at = r->frame;
    int code = ask_run(e, keys, (uint32_t)frames, draw, &err);
    if (code == ERR_NETWORK && !(code = connect_again(e, &at, &err))) {
        if (at - r->frame > (uint32_t)frames) code = lost(r, &err, "was away, and the game went on without us");
        else if (at == r->frame) write_again(r);
        if (!code) code = ask_run(e, keys, target - at, draw, &err);
    }
    if (!code) code = take_run(e, draw, target, &err);
    if (code) {
        fail(e, &err);
        return;
    }
    r->written_count = 0;
    r->frame = target;
    e->frames += (uint64_t)frames;
    if (draw && frames > 0) frame_publish(&e->exchange, e->pixels, e->frames);
}

/* ---- the rest ------------------------------------------------------------------------------------------------------------------ */

static int take_frame(struct emulator *e, struct err *err) {
    struct remote *r = e->remote;
    if (r->reply_bytes != 4) return broken_reply(r, err);
    r->frame = u32(r->reply);
    return 0;
}

static int refresh_memory(struct emulator *e, struct err *err) {
    int code = ask_run(e, 0, 0, false, err);
    return code ? code : take_run(e, false, e->remote->frame, err);
}

static void remote_reset(struct emulator *e) {
    struct err err = {0};
    e->remote->written_count = 0; /* what was written before is gone with the reset */
    int code = ask_surely(e, RESET, NULL, 0, &err);
    if (!code) code = take_frame(e, &err);
    if (!code) code = refresh_memory(e, &err);
    if (code) fail(e, &err);
}

/* Sent with the next request; nobody waits for it. */
static void remote_write32(struct emulator *e, uint32_t address, uint32_t value) {
    struct remote *r = e->remote;
    struct err err;
    if (e->failure.code) return;
    if (r->written_count == MOST_AHEAD && refresh_memory(e, &err)) { /* waits for all of them */
        fail(e, &err);
        return;
    }
    if (r->written_count == MOST_AHEAD) r->written_count = 0;
    r->written[r->written_count].address = address;
    r->written[r->written_count++].value = value;
    add_write(r, address, value);
    /* Our own picture of the memory has it at once, as in this process. */
    uint8_t *to = NULL;
    if (address >= 0x02000000 && address <= 0x02000000 + EWRAM_BYTES - 4) to = e->ewram + (address - 0x02000000);
    else if (address >= 0x03000000 && address <= 0x03000000 + IWRAM_BYTES - 4) to = e->iwram + (address - 0x03000000);
    if (to) put(to, value, 4);
}

static int remote_state_save(struct emulator *e, struct buf *out, struct err *err) {
    int code = ask_surely(e, SAVE, NULL, 0, err);
    if (code) return code;
    buf_append(out, e->remote->reply, e->remote->reply_bytes);
    return out->failed ? err_set(err, ERR_MEMORY, "out of memory for a save state") : 0;
}

static int remote_state_load(struct emulator *e, const void *state, size_t bytes, struct err *err) {
    if (bytes > LIMIT - 5) return err_set(err, ERR_LIMIT, "save state: %zu bytes, at most %d go to a remote emulator", bytes, LIMIT - 5);
    int code = ask_surely(e, LOAD, state, bytes, err);
    if (!code) code = take_frame(e, err);
    if (!code) code = refresh_memory(e, err);
    if (code) return code;
    e->frames = 0;
    frame_publish(&e->exchange, NULL, 0);
    return 0;
}

static int remote_save_cartridge(struct emulator *e, struct err *err) {
    (void)e;
    return err_set(err, ERR_STATE, "the cartridge save of a remote game is mGBA's own");
}

static void remote_close(struct emulator *e) {
    if (!e->remote) return;
    hang_up(e->remote);
    buf_free(&e->remote->out);
    free(e->remote);
}

static const struct emulator_kind remote_kind = {remote_close, remote_reset, remote_run, remote_write32, remote_state_save, remote_state_load, remote_save_cartridge};

int emulator_connect(const char *host, int port, const void *rom, size_t bytes, struct emulator **out, struct err *err) {
    *out = NULL;
    struct rom_header header;
    int code = rom_header_read(rom, bytes, &header, err);
    if (code) return code;
    if (port < 1 || port > 65535) return err_set(err, ERR_ARGUMENT, "port %d: expected 1 to 65535", port);
    struct emulator *e = calloc(1, sizeof *e);
    if (!e) return err_set(err, ERR_MEMORY, "out of memory for an emulator");
    e->kind = &remote_kind;
    e->header = header;
    frame_exchange_init(&e->exchange);
    if (!(e->remote = calloc(1, sizeof *e->remote)) || !(e->rom = rom_image_acquire(rom, bytes, header.crc32))) {
        emulator_close(e);
        return err_set(err, ERR_MEMORY, "out of memory for a ROM of %zu bytes", bytes);
    }
    struct remote *r = e->remote;
    r->fd = -1;
    snprintf(r->port, sizeof r->port, "%d", port);
    e->ewram = r->memory;
    e->iwram = r->memory + EWRAM_BYTES;
    if (snprintf(r->host, sizeof r->host, "%s", host) >= (int)sizeof r->host) code = err_set(err, ERR_ARGUMENT, "%.60s...: host name too long", host);
    if (!code) code = greet(e, &r->frame, err);
    if (!code) code = refresh_memory(e, err);
    if (code) {
        emulator_close(e);
        return code;
    }
    *out = e;
    return 0;
}
