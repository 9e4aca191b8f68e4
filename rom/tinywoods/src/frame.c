/* frame.c: one frame of the game. The processor sleeps in the BIOS until VBlank, the picture is written, then the keys
 * are sampled once and the clocks that run by frames (heartbeat, play time, message strip) move.
 */
#include "game.h"
#include "video.h"

enum { TAP_MIN = 2, TAP_MAX = 11, REPEAT_FIRST = 48, REPEAT_NEXT = 5, TAP_SPOILT = 100, FADE_STEP = 3 };

static u32 counter;
static u16 held, pressed, repeated, tapped;
static u8 b_frames, r_frames, repeat_frames;

static void wait_vblank(void)
{
    asm volatile("swi 5" ::: "r0", "r1", "r2", "r3", "memory");
}

/* Frames that a key was down; a tap is reported when it goes up in time and nothing else was pressed with it. */
static u16 tap(u16 key, u8 *frames_down, u16 now)
{
    u16 result = 0;

    if (now & key) {
        if (*frames_down < TAP_SPOILT)
            (*frames_down)++;
        if (now & ~key & (KEY_PAD | KEY_A | KEY_L | KEY_B))
            *frames_down = TAP_SPOILT;
    } else {
        if (*frames_down >= TAP_MIN && *frames_down <= TAP_MAX)
            result = key;
        *frames_down = 0;
    }
    return result;
}

static void read_keys(void)
{
    u16 now = (u16)(~REG_KEYINPUT & 0x3FF);

    pressed = now & (u16)~held;
    tapped = (u16)(tap(KEY_B, &b_frames, now) | tap(KEY_R, &r_frames, now));
    repeated = pressed;
    if (now & KEY_PAD && now == held) {
        if (++repeat_frames >= REPEAT_FIRST) {
            repeat_frames = REPEAT_FIRST - REPEAT_NEXT;
            repeated |= now & KEY_PAD;
        }
    } else {
        repeat_frames = 0;
    }
    held = now;
    G_INPUTS[0] = held;
    G_INPUTS[1] = pressed;
    G_INPUTS[2] = repeated;
    G_INPUTS[3] = tapped;
}

static void clocks(void)
{
    struct play_time *time = G_PLAY_TIME;

    counter++;
    if (G_MAIN_MODE == 1)
        G_DUNGEON_FRAMES = G_DUNGEON_FRAMES + 1;
    if (++time->frames >= 60) {
        time->frames = 0;
        if (++time->seconds >= 60) {
            time->seconds = 0;
            if (++time->minutes >= 60) {
                time->minutes = 0;
                time->hours++;
            }
        }
    }
    if (G_DUNGEON && G_FLOOR_LIVE)
        strip_tick();
}

void frame(void)
{
    wait_vblank();
    video_frame();
    read_keys();
    clocks();
}

void frames(int count)
{
    while (count-- > 0)
        frame();
}

static void fade(int to)
{
    s32 now = G_BRIGHTNESS;

    while (now != to) {
        now += to > now ? FADE_STEP : -FADE_STEP;
        now = now < 0 ? 0 : now > 31 ? 31 : now;
        G_BRIGHTNESS = now;
        frame();
    }
}

void fade_out(void)
{
    fade(0);
}

void fade_in(void)
{
    fade(31);
}

u16 keys_held(void)
{
    return held;
}

u16 keys_pressed(void)
{
    return pressed;
}

u16 keys_repeated(void)
{
    return repeated;
}

u16 keys_short(void)
{
    return tapped;
}

void keys_consume(void)
{
    pressed = repeated = tapped = 0;
    if (held & KEY_B)
        b_frames = TAP_SPOILT;
    if (held & KEY_R)
        r_frames = TAP_SPOILT;
}

u32 frame_counter(void)
{
    return counter;
}
