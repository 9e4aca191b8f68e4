/* A film of the game, made by ffmpeg, which gets the pictures through a socket. Needs the package ffmpeg at run time only. */
#ifndef RECORD_VIDEO_H
#define RECORD_VIDEO_H

#include <stdint.h>

#include "base/err.h"
#include "emulator/emulator.h"

struct canvas;
struct video;

/* Starts ffmpeg (an error names the missing package). The film appears at path only when it is complete; before that it is a
 * hidden temporary file beside it, which is removed on failure. 480x320 (each pixel doubled), half the game's 59.73 pictures
 * a second, H.264 yuv420p. */
int video_open(const char *path, struct video **out, struct err *err);
/* The same with a strip of so many rows (an even number) below the picture for words; video_strip gives it to draw on. It stays as it was drawn. */
int video_open_captioned(const char *path, int strip_rows, struct video **out, struct err *err);
void video_strip(struct video *v, struct canvas *out);
/* A picture (240x160 RGB) with its frame number in place of an emulator. */
int video_add_picture(struct video *v, const uint8_t *rgb, uint64_t number, struct err *err);
/* Call whenever a new picture may have been drawn: takes the emulator's newest picture. Game time is film time: the picture
 * before is repeated for the frames in between, and time in which the game stands still (the model thinks) is not filmed. */
int video_add(struct video *v, struct emulator *e, struct err *err);
/* The game's frame counter starts anew (next episode). */
void video_cut(struct video *v);
/* Finishes the film (keep) or throws it away; frees v in every case. v may be NULL. Never raises SIGPIPE. */
int video_close(struct video *v, bool keep, struct err *err);

#endif
