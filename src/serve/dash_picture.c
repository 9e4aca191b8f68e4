/* Pictures for the page: lossless, a palette and one byte a pixel, deflated with the fastest level. Costs:
 * bench/results/dashboard.md. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/clock.h"
#include "record/png_file.h"
#include "serve/dash_room.h"

enum { HEAD = 8, KIND_SAME = 0, KIND_PALETTE = 1, KIND_RGB = 2 };

static void put_head(uint8_t head[HEAD], int kind, int game, int colours, uint64_t frame) {
    head[0] = (uint8_t)kind, head[1] = (uint8_t)game, head[2] = (uint8_t)colours, head[3] = (uint8_t)(colours >> 8);
    for (int i = 0; i < 4; i++) head[4 + i] = (uint8_t)(frame >> 8 * i);
}

void dash_pack_picture(const uint8_t *rgb, int game, uint64_t frame, struct buf *out) {
    uint8_t raw[3 * 256 + FRAME_PIXELS], palette[3 * 256], head[HEAD];
    int colours = picture_palette(rgb, FRAME_PIXELS, raw, palette);
    const uint8_t *data = rgb;
    uLong n = FRAME_PIXELS * 3;
    if (colours) {
        memmove(raw + 3 * colours, raw, FRAME_PIXELS);
        memcpy(raw, palette, 3 * (size_t)colours);
        data = raw, n = 3 * (uLong)colours + FRAME_PIXELS;
    }
    put_head(head, colours ? KIND_PALETTE : KIND_RGB, game, colours, frame);
    uLongf bytes = compressBound(n);
    buf_append(out, head, HEAD);
    if (!buf_reserve(out, bytes)) return;
    if (compress2((Bytef *)out->data + out->len, &bytes, data, n, 1) == Z_OK) out->len += bytes;
}

void dash_picture(struct dash *d, int game, const uint8_t *rgb, uint64_t frame) {
    struct dash_game *g = &d->games[game];
    int looks = atomic_load_explicit(&g->looks, memory_order_relaxed);
    if (!looks) return;
    double now = clock_seconds();
    /* On the average, not from one picture to the next: one that follows a late one closely is not too many. */
    double period = looks == 2 ? 1 / 61.0 : 0.1;
    if (now < g->due - period / 2) return;
    g->due = (g->due > now - period ? g->due : now - period) + period;
    pthread_mutex_lock(&d->lock);
    if (!g->last && !(g->last = malloc(FRAME_PIXELS * 3))) {
        pthread_mutex_unlock(&d->lock);
        return;
    }
    uint8_t same[HEAD];
    const void *data = same;
    size_t bytes = HEAD;
    if (g->last_valid && !memcmp(g->last, rgb, FRAME_PIXELS * 3)) {
        put_head(same, KIND_SAME, game, 0, frame);
    } else {
        memcpy(g->last, rgb, FRAME_PIXELS * 3);
        buf_clear(&g->packed);
        dash_pack_picture(rgb, game, frame, &g->packed);
        g->last_valid = !g->packed.failed;
        data = g->packed.data, bytes = g->packed.len;
    }
    g->sent++;
    g->bytes += bytes;
    /* A picture takes the place of one that waits. "As before" must not: the one that waits may be newer than what is shown. */
    dash_send_lookers(d, game, true, data == same ? 0 : game + 1, data, bytes, true);
    pthread_mutex_unlock(&d->lock);
}
