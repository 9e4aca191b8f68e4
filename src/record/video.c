/* ffmpeg reads rgb24 pictures from a socket pair instead of a pipe: send() has MSG_NOSIGNAL, so a dying ffmpeg is an error of
 * ours and never a SIGPIPE. It runs in a process group of its own, so that Ctrl-C in the terminal ends the game and not the film.
 * Data: 480 * 320 * 3 = 450 KiB a picture, 30 pictures a game second. */
#include "record/video.h"

#include "record/caption.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SCALE = 2, FRAMES_PER_PICTURE = 2, WIDTH = FRAME_WIDTH * SCALE, HEIGHT = FRAME_HEIGHT * SCALE,
       LONGEST_STILL = 600 /* pictures: a gap beyond it is no game time but a jump of the counter */ };
/* 16777216 Hz / 280896 cycles a frame = 59.7275 frames a second, halved. */
#define RATE "16777216/561792"

struct video {
    char *path, *temporary;
    pid_t pid;
    int to_ffmpeg, messages;
    bool have_picture, failed;
    uint64_t next_frame;  /* game frame of the next picture */
    uint64_t last_number; /* of the newest picture taken */
    uint8_t rgb[FRAME_PIXELS * 3];
    int strip_rows;
    size_t bytes;
    uint8_t scaled[]; /* WIDTH * (HEIGHT + strip_rows) * 3 */
};

static void video_free(struct video *v) {
    if (v->to_ffmpeg >= 0) close(v->to_ffmpeg);
    if (v->messages >= 0) close(v->messages);
    free(v->path);
    free(v->temporary);
    free(v);
}

/* The temporary file keeps the ending of the name, since ffmpeg chooses the container by it. */
static char *temporary_name(const char *path) {
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    char *name = NULL;
    if (asprintf(&name, "%.*s.unfinished-%ld-%s", folder, path, (long)getpid(), path + folder) < 0) return NULL;
    return name;
}

static _Noreturn void become_ffmpeg(int input, int messages, int failure, int rows, const char *output) {
    char size[32];
    snprintf(size, sizeof size, "%dx%d", WIDTH, rows);
    setpgid(0, 0);
    int null = open("/dev/null", O_WRONLY);
    if (dup2(input, 0) < 0 || dup2(null, 1) < 0 || dup2(messages, 2) < 0) _exit(127);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    char *const arguments[] = {"ffmpeg", "-hide_banner", "-loglevel", "error", "-y", "-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", size,
                               "-framerate", RATE, "-i", "pipe:0", "-an", "-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p",
                               "-movflags", "+faststart", "-threads", "1", (char *)output, NULL};
    execvp("ffmpeg", arguments);
    int e = errno;
    if (write(failure, &e, sizeof e) < 0) { /* the parent then sees an early end instead of the reason */
    }
    _exit(127);
}

int video_open(const char *path, struct video **out, struct err *err) { return video_open_captioned(path, 0, out, err); }

void video_strip(struct video *v, struct canvas *out) { *out = (struct canvas){v->scaled + WIDTH * HEIGHT * 3, WIDTH, v->strip_rows}; }

int video_open_captioned(const char *path, int strip_rows, struct video **out, struct err *err) {
    *out = NULL;
    size_t bytes = (size_t)WIDTH * (size_t)(HEIGHT + strip_rows) * 3;
    struct video *v = calloc(1, sizeof *v + bytes);
    if (!v) return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    v->strip_rows = strip_rows;
    v->bytes = bytes;
    v->to_ffmpeg = v->messages = -1;
    v->pid = -1;
    v->path = strdup(path);
    char *name = temporary_name(path);
    /* "file:" keeps a name with a colon or a leading dash from being read as something else. */
    char *output = NULL;
    if (name && asprintf(&output, "file:%s", name) < 0) output = NULL;
    v->temporary = name;
    if (!v->path || !output) {
        video_free(v);
        free(output);
        return err_set(err, ERR_MEMORY, "%s: out of memory", path);
    }
    int probe = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (probe < 0) {
        int code = err_set(err, ERR_IO, "%s: cannot create the film: %s", path, strerror(errno));
        video_free(v);
        free(output);
        return code;
    }
    close(probe);
    int sockets[2] = {-1, -1}, failure[2] = {-1, -1}, e = 0;
    v->messages = memfd_create("ffmpeg-messages", MFD_CLOEXEC);
    if (v->messages < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0 || pipe2(failure, O_CLOEXEC) != 0) e = errno;
    if (!e) {
        v->pid = fork();
        if (v->pid == 0) become_ffmpeg(sockets[1], v->messages, failure[1], HEIGHT + strip_rows, output);
        if (v->pid < 0) e = errno;
    }
    free(output);
    v->to_ffmpeg = sockets[0];
    if (sockets[1] >= 0) close(sockets[1]);
    if (failure[1] >= 0) close(failure[1]);
    if (!e) {
        int reason;
        ssize_t n;
        while ((n = read(failure[0], &reason, sizeof reason)) < 0 && errno == EINTR) continue;
        if (n == sizeof reason) {
            e = reason;
            waitpid(v->pid, NULL, 0);
        }
    }
    if (failure[0] >= 0) close(failure[0]);
    if (e) {
        unlink(v->temporary);
        video_free(v);
        if (e == ENOENT) return err_set(err, ERR_MISSING, "ffmpeg was not found: films need the package ffmpeg (apt-get install ffmpeg)");
        return err_set(err, ERR_IO, "cannot start ffmpeg: %s", strerror(e));
    }
    *out = v;
    return 0;
}

/* What ffmpeg said last, for the error message. */
static const char *last_message(struct video *v, char *text, size_t cap) {
    ssize_t n = pread(v->messages, text, cap - 1, 0);
    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return text[0] ? text : "no reason given";
}

static int send_picture(struct video *v, struct err *err) {
    size_t done = 0;
    while (done < v->bytes) {
        ssize_t n = send(v->to_ffmpeg, v->scaled + done, v->bytes - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            int e = errno;
            char text[300];
            v->failed = true;
            /* Its last words come before its end: wait for that. */
            close(v->to_ffmpeg);
            v->to_ffmpeg = -1;
            if (v->pid > 0) waitpid(v->pid, NULL, 0);
            v->pid = -1;
            return err_set(err, ERR_IO, "%s: ffmpeg ended early (%s): %s", v->path, strerror(e), last_message(v, text, sizeof text));
        }
        done += (size_t)n;
    }
    return 0;
}

static void scale_up(struct video *v) {
    for (int y = 0; y < FRAME_HEIGHT; y++) {
        uint8_t *row = v->scaled + (size_t)y * SCALE * WIDTH * 3;
        const uint8_t *from = v->rgb + (size_t)y * FRAME_WIDTH * 3;
        for (int x = 0; x < WIDTH; x++) memcpy(row + 3 * x, from + 3 * (x / SCALE), 3);
        for (int k = 1; k < SCALE; k++) memcpy(row + (size_t)k * WIDTH * 3, row, WIDTH * 3);
    }
}

int video_add(struct video *v, struct emulator *e, struct err *err) {
    uint8_t rgb[FRAME_PIXELS * 3];
    uint64_t number = emulator_frame(e, rgb);
    return video_add_picture(v, rgb, number, err);
}

int video_add_picture(struct video *v, const uint8_t *rgb, uint64_t number, struct err *err) {
    if (v->failed) return err_set(err, ERR_STATE, "%s: the film was ended by an earlier error", v->path);
    if (number == 0 || (v->have_picture && number == v->last_number)) return 0;
    if (v->have_picture && number > v->last_number && number / FRAMES_PER_PICTURE < v->next_frame + LONGEST_STILL) {
        for (; v->next_frame < number / FRAMES_PER_PICTURE; v->next_frame++) {
            if (send_picture(v, err)) return err ? err->code : ERR_IO;
        }
    } else {
        v->next_frame = number / FRAMES_PER_PICTURE; /* first picture, or the counter began anew */
    }
    bool due = number / FRAMES_PER_PICTURE >= v->next_frame;
    v->have_picture = true;
    v->last_number = number;
    memcpy(v->rgb, rgb, sizeof v->rgb);
    scale_up(v);
    if (!due) return 0; /* it replaces the one not yet repeated */
    v->next_frame = number / FRAMES_PER_PICTURE + 1;
    return send_picture(v, err);
}

void video_cut(struct video *v) { v->have_picture = false; }

int video_close(struct video *v, bool keep, struct err *err) {
    if (!v) return 0;
    int code = 0, status = 0;
    char text[300];
    if (v->to_ffmpeg >= 0) close(v->to_ffmpeg);
    v->to_ffmpeg = -1;
    if (v->pid > 0) {
        if (!keep) kill(v->pid, SIGTERM);
        while (waitpid(v->pid, &status, 0) < 0 && errno == EINTR) continue;
        if (keep && !v->failed && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
            code = err_set(err, ERR_IO, "%s: ffmpeg failed: %s", v->path, last_message(v, text, sizeof text));
        }
    }
    bool good = keep && !v->failed && code == 0;
    if (good && rename(v->temporary, v->path) != 0) {
        code = err_set(err, ERR_IO, "%s: cannot put the film in place: %s", v->path, strerror(errno));
        good = false;
    }
    if (!good) unlink(v->temporary);
    video_free(v);
    return code;
}
