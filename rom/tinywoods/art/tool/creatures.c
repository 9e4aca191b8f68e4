/* creatures.c: the five creatures as clay models.
 *
 * A model is a list of balls (ellipsoids) and tapered limbs (chains of balls) in the creature's own frame: right,
 * forward, up, in pixels, feet at height 0.  It is turned to one of five directions (the other three are mirrored by
 * the hardware), looked at from 40 degrees above, and each pixel takes a step of the part's colour ramp by the slope
 * of the surface.  Then every outer edge and every sharp step of depth gets a dark line: that is what makes it read
 * as pixel art at a glance. */
#include <math.h>
#include <string.h>

#include "art.h"

enum { FLAT = 0 };

struct ball { double r, f, u, rr, rf, ru; int first, steps; int leg; };    /* leg: +1/-1 swings forward/back when walking */

struct model {
    uint32_t palette[16];
    struct ball balls[64];
    int count;
};

static void ball(struct model *m, double r, double f, double u, double rr, double rf, double ru, int first, int steps, int leg)
{
    if (m->count < 64)
        m->balls[m->count++] = (struct ball){ r, f, u, rr, rf, ru, first, steps, leg };
}

static void limb(struct model *m, const double a[3], const double b[3], double ra, double rb, int first, int steps)
{
    for (int i = 0; i <= 5; i++) {
        double t = i / 5.0, r = ra + (rb - ra) * t;

        ball(m, a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t, r, r, r, first, steps, 0);
    }
}

static void pair_limb(struct model *m, double r0, double f0, double u0, double r1, double f1, double u1, double ra, double rb,
                      int first, int steps)
{
    for (int side = -1; side <= 1; side += 2)
        limb(m, (double[3]){ side * r0, f0, u0 }, (double[3]){ side * r1, f1, u1 }, ra, rb, first, steps);
}

static void pair(struct model *m, double r, double f, double u, double rr, double rf, double ru, int first, int steps, int leg)
{
    ball(m, r, f, u, rr, rf, ru, first, steps, leg);
    ball(m, -r, f, u, rr, rf, ru, first, steps, -leg);
}

/* Fen, the leader: an orange fox kit with cream cheeks, a big cream-tipped tail and a leaf behind the ear. */
static void fen(struct model *m)
{
    static const uint32_t colours[16] = { 0, 0x2A1410, 0xA83E10, 0xDD6418, 0xF88A28, 0xFFB458, 0xD8B890, 0xFFF0D0,
                                          0xFFFFF8, 0x5A2818, 0x7C3C20, 0x2F8A38, 0x6CCB50, 0x000000, 0xFFFFFF, 0xE05870 };
    memcpy(m->palette, colours, sizeof colours);
    pair(m, 3.4, 3.2, 1.8, 2.1, 2.3, 2.2, 9, 2, 1);
    pair(m, 3.4, -4.6, 1.8, 2.2, 2.4, 2.2, 9, 2, -1);
    ball(m, 0, -1, 6.4, 5.2, 6.8, 5, 2, 4, 0);
    ball(m, 0, 3.4, 6, 3.8, 3.4, 3.8, 6, 3, 0);
    limb(m, (double[3]){ 0, -6, 7 }, (double[3]){ 0, -11.5, 12 }, 2.2, 4.2, 2, 4);
    ball(m, 0, -12.8, 15.6, 3.4, 3.4, 3.6, 6, 3, 0);
    ball(m, 0, 4.2, 14.4, 7.4, 6, 6.2, 2, 4, 0);
    pair(m, 4.4, 6, 12, 3.4, 3, 2.8, 6, 3, 0);
    ball(m, 0, 9.4, 12, 2.7, 3, 2.2, 6, 3, 0);
    ball(m, 0, 12, 12.8, 1.3, 1.1, 1.1, 13, FLAT, 0);
    pair(m, 3.5, 8.9, 15, 1.35, 1.2, 1.9, 13, FLAT, 0);
    pair(m, 3.1, 9.9, 16, .6, .6, .6, 14, FLAT, 0);
    pair_limb(m, 4.4, 3, 19, 6.6, 2, 25.5, 3, 1, 2, 4);
    pair(m, 6.7, 1.9, 26, 1.4, 1.4, 1.6, 9, 2, 0);
}

/* Moss, the partner: a round green moss ball with a white face, two leaves and a pink flower. */
static void moss(struct model *m)
{
    static const uint32_t colours[16] = { 0, 0x08281C, 0x0E6A48, 0x14905A, 0x22B878, 0x68E0A0, 0xB8D0B0, 0xF0FFE8,
                                          0xFFFFFF, 0x6A4A2A, 0x9A7040, 0xE8609C, 0xFFA0C8, 0x000000, 0xFFFFFF, 0xFFE860 };
    memcpy(m->palette, colours, sizeof colours);
    pair(m, 4.2, 2.4, 1.6, 2.7, 3.2, 1.8, 9, 2, 1);
    ball(m, 0, 0, 9.5, 9.2, 8.4, 8.6, 2, 4, 0);
    ball(m, 0, 4.4, 10.6, 6.6, 4.6, 5.6, 6, 3, 0);
    pair(m, 2.9, 8.2, 12.2, 1.4, 1.2, 2.1, 13, FLAT, 0);
    pair(m, 2.6, 9.4, 13.2, .6, .6, .6, 14, FLAT, 0);
    pair(m, 4.9, 7.8, 9.2, 1.3, 1, .9, 12, FLAT, 0);
    pair(m, 8.8, 1, 7, 2, 2.4, 2.8, 2, 4, 0);
    pair_limb(m, 1, -1, 18, 6.4, -1.5, 22.5, 1.4, 2.2, 2, 4);
    pair(m, 8, -1.6, 23, 2.2, 1.6, 1.6, 3, 3, 0);
    pair(m, 1.9, 1, 18.6, 1.7, 1.6, 1.3, 11, 2, 0);
    pair(m, 1.5, -1.4, 18.8, 1.6, 1.6, 1.3, 11, 2, 0);
    ball(m, 0, .4, 19.6, 1.4, 1.4, 1.2, 15, FLAT, 0);
}

/* Thornling: a crimson seed bristling with pale thorns. */
static void thornling(struct model *m)
{
    static const uint32_t colours[16] = { 0, 0x2A0010, 0x86001C, 0xBE1030, 0xE83048, 0xFF7078, 0xD8A050, 0xFFE090,
                                          0xFFF8D0, 0x50081C, 0x700C28, 0xFFE020, 0xFFF880, 0x000000, 0xFFFFFF, 0x40A040 };
    memcpy(m->palette, colours, sizeof colours);
    pair(m, 3.4, 2, 1.4, 2.2, 2.8, 1.7, 9, 2, 1);
    ball(m, 0, 0, 8.6, 7, 6.8, 7.4, 2, 4, 0);
    for (int i = 0; i < 8; i++) {
        double a = (i + .5) * 0.78539816339744830962, c = cos(a), s = sin(a);

        if (s < 0.9)
            limb(m, (double[3]){ 6 * c, 6 * s, 9 }, (double[3]){ 11.4 * c, 11.4 * s, 10.5 }, 1.9, .6, 6, 3);
    }
    limb(m, (double[3]){ 0, -1, 15 }, (double[3]){ 0, -2, 24 }, 2.4, .7, 6, 3);
    pair_limb(m, 4, -1, 14, 7.4, -1.6, 20, 1.9, .6, 6, 3);
    pair(m, 2.8, 6, 11.2, 2.1, 1.3, 2, 11, FLAT, 0);
    pair(m, 2.4, 7.2, 10.8, 1, .8, 1.4, 13, FLAT, 0);
    ball(m, 0, 6.6, 7, 2.4, 1, .9, 9, FLAT, 0);
}

/* Mudkit: a low violet digger with a long snout, round pink ears and mud on its back. */
static void mudkit(struct model *m)
{
    static const uint32_t colours[16] = { 0, 0x200828, 0x4E1C6A, 0x743098, 0x9C50C8, 0xC888E8, 0x68402C, 0x8C5C3C,
                                          0xB08058, 0xE070A0, 0xFFA8C8, 0xF0E0D0, 0xFFFFFF, 0x000000, 0xFFFFFF, 0x402050 };
    memcpy(m->palette, colours, sizeof colours);
    pair(m, 6, 2.4, 1.5, 2.4, 2.8, 1.8, 9, 2, 1);
    pair(m, 5.8, -7, 1.5, 2.4, 2.6, 1.8, 9, 2, -1);
    ball(m, 0, -3.4, 6, 8, 8.4, 5.6, 2, 4, 0);
    ball(m, 0, -5, 9.6, 5.4, 5.4, 3, 6, 3, 0);
    ball(m, 0, 4.6, 9.4, 6, 5, 5.4, 2, 4, 0);
    limb(m, (double[3]){ 0, 8, 7.8 }, (double[3]){ 0, 11.4, 7 }, 2.8, 1.8, 3, 3);
    ball(m, 0, 12.6, 7.6, 1.7, 1.4, 1.4, 10, FLAT, 0);
    pair(m, 5.6, 3, 14.2, 3.1, 1.8, 3.1, 9, 2, 0);
    pair(m, 3.2, 8.2, 12, 1.5, 1.1, 1.9, 14, FLAT, 0);
    pair(m, 3, 9.2, 11.9, .9, .7, 1.2, 13, FLAT, 0);
    limb(m, (double[3]){ 0, -10, 6 }, (double[3]){ 0, -13, 10 }, 1.8, .9, 2, 4);
}

/* Gloomcap: a tall pale mushroom under a wide dark purple cap with bright spots. */
static void gloomcap(struct model *m)
{
    static const uint32_t colours[16] = { 0, 0x180020, 0x580858, 0x8A1080, 0xB830A8, 0xE070D0, 0xA890B8, 0xD8C8E0,
                                          0xF4ECF8, 0xFF80C0, 0xFFD0E8, 0xFFF060, 0xFFFFFF, 0x000000, 0x604070, 0x806090 };
    memcpy(m->palette, colours, sizeof colours);
    pair(m, 3, 2, 1.4, 2.4, 3, 1.7, 14, 2, 1);
    ball(m, 0, 0, 7, 6, 5.6, 7.2, 6, 3, 0);
    ball(m, 0, -1.6, 18, 11.2, 9.6, 6.2, 2, 4, 0);
    pair(m, 2.6, 5.2, 8.4, 1.7, 1.2, 2.4, 13, FLAT, 0);
    pair(m, 2.5, 6.3, 8.2, .9, .7, 1.2, 11, FLAT, 0);
    ball(m, 0, 1.6, 23.6, 2.9, 2.4, 1.2, 9, 2, 0);
    pair(m, 6.4, 2, 21.4, 2.2, 2.2, 1.6, 9, 2, 0);
    pair(m, 4.6, -5.6, 21.8, 2.3, 2.2, 1.6, 9, 2, 0);
    ball(m, 0, -3.2, 24, 1.6, 1.6, 1, 9, 2, 0);
}

#define ELEVATION 0.66   /* radians above the horizon */

static void draw_pose(const struct model *m, int view, int pose, uint8_t out[SPRITE][SPRITE])
{
    double angle = view * 0.78539816339744830962;     /* 0 = towards the viewer (south), then SE, E, NE, N */
    double fx = sin(angle), fy = cos(angle), rx = -fy, ry = fx;
    double se = sin(ELEVATION), ce = cos(ELEVATION), depth[SPRITE][SPRITE];
    uint8_t part[SPRITE][SPRITE];

    for (int y = 0; y < SPRITE; y++)
        for (int x = 0; x < SPRITE; x++) {
            double px = x + .5 - 16, py = (y + .5 - 27), best = -1e9;
            int colour = 0, id = 0;

            for (int i = 0; i < m->count; i++) {
                const struct ball *b = &m->balls[i];
                double lift = pose && !b->leg ? 1 : 0, swing = pose ? b->leg * 2.2 : 0;
                /* the line of sight P = (px, py*se, -py*ce) + t*(0, ce, se), in the creature's frame about the ball */
                double ox = px, oy = py * se, oz = -py * ce;
                double o[3] = { ox * rx + oy * ry - b->r, ox * fx + oy * fy - (b->f + swing), oz - (b->u + lift) };
                double v[3] = { ce * ry, ce * fy, se }, rad[3] = { b->rr, b->rf, b->ru };
                double a = 0, h = 0, c = -1;

                for (int k = 0; k < 3; k++) {
                    a += v[k] * v[k] / (rad[k] * rad[k]);
                    h += o[k] * v[k] / (rad[k] * rad[k]);
                    c += o[k] * o[k] / (rad[k] * rad[k]);
                }
                if (h * h - a * c < 0)
                    continue;
                double t = (-h + sqrt(h * h - a * c)) / a;
                if (t <= best)
                    continue;
                double n[3], len = 0;
                for (int k = 0; k < 3; k++) {
                    n[k] = (o[k] + t * v[k]) / (rad[k] * rad[k]);
                    len += n[k] * n[k];
                }
                len = sqrt(len);
                double wx = (n[0] * rx + n[1] * fx) / len, wy = (n[0] * ry + n[1] * fy) / len, wz = n[2] / len;
                double light = .22 + .78 * (-.30 * wx + .42 * wy + .86 * wz);
                int step = b->steps ? (int)(light * b->steps) : 0;

                if (step > b->steps - 1)
                    step = b->steps - 1;
                if (step < 0)
                    step = 0;
                best = t;
                colour = b->first + step;
                id = b->first + 1;
            }
            out[y][x] = (uint8_t)colour;
            part[y][x] = (uint8_t)id;
            depth[y][x] = best;
        }

    uint8_t line[SPRITE][SPRITE] = { { 0 } };
    static const int dx[4] = { 1, -1, 0, 0 }, dy[4] = { 0, 0, 1, -1 };
    for (int y = 0; y < SPRITE; y++)
        for (int x = 0; x < SPRITE; x++)
            for (int k = 0; k < 4; k++) {
                int nx = x + dx[k], ny = y + dy[k];

                if (nx < 0 || ny < 0 || nx >= SPRITE || ny >= SPRITE || !part[ny][nx])
                    continue;
                if (!part[y][x])
                    line[y][x] = 1;                                             /* outside */
                else if (depth[ny][nx] - depth[y][x] > 4.5)
                    line[y][x] = 1;                                             /* behind a nearer part */
            }
    for (int y = 0; y < SPRITE; y++)
        for (int x = 0; x < SPRITE; x++)
            if (line[y][x])
                out[y][x] = 1;
}

void creature_draw(int creature, struct creature_picture *picture)
{
    static void (*const build[CREATURES])(struct model *) = { fen, moss, thornling, mudkit, gloomcap };
    struct model m = { .count = 0 };

    build[creature](&m);
    memcpy(picture->palette, m.palette, sizeof m.palette);
    for (int view = 0; view < VIEWS; view++)
        for (int pose = 0; pose < POSES; pose++)
            draw_pose(&m, view, pose, picture->pixel[view][pose]);
}
