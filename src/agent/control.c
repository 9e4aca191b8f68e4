#include "agent/control.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

enum { TAP_FRAMES = 4 }; /* the game looks at its keys once a frame, but not in every frame */
static const double frames_per_second = 16777216.0 / 280896, look_again_seconds = 0.05;

struct control {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_bool human, draw;
    bool paused;
    int steps;            /* decisions that may be finished while paused */
    double speed;
    uint32_t held, tapped;
    int tap_left;
    char note[CONTROL_NOTE];
    const struct key_press *script; /* private to the thread that plays, as the next */
    int script_count;
    double pace_start;
    uint64_t pace_frame;
    double pace_speed;
};

struct control *control_new(double speed) {
    struct control *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    c->speed = speed;
    return c;
}

void control_free(struct control *c) {
    if (!c) return;
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
    free(c);
}

static void change(struct control *c) { pthread_cond_broadcast(&c->changed); }

void control_pause(struct control *c, bool paused) {
    pthread_mutex_lock(&c->lock);
    c->paused = paused;
    c->steps = 0;
    change(c);
    pthread_mutex_unlock(&c->lock);
}

void control_step(struct control *c) {
    pthread_mutex_lock(&c->lock);
    c->paused = true;
    c->steps = 1;
    change(c);
    pthread_mutex_unlock(&c->lock);
}

void control_speed(struct control *c, double times) {
    pthread_mutex_lock(&c->lock);
    c->speed = times;
    change(c);
    pthread_mutex_unlock(&c->lock);
}

void control_take_over(struct control *c, bool human) {
    pthread_mutex_lock(&c->lock);
    atomic_store(&c->human, human);
    c->held = c->tapped = 0;
    if (human) c->paused = false;
    change(c);
    pthread_mutex_unlock(&c->lock);
}

void control_keys(struct control *c, uint32_t keys) {
    pthread_mutex_lock(&c->lock);
    uint32_t fresh = keys & ~c->held;
    if (fresh) {
        c->tapped = c->tap_left > 0 ? c->tapped | fresh : fresh;
        c->tap_left = TAP_FRAMES;
    }
    c->held = keys;
    pthread_mutex_unlock(&c->lock);
}

void control_note(struct control *c, const char *text) {
    pthread_mutex_lock(&c->lock);
    size_t n = strnlen(text, CONTROL_NOTE - 1);
    memcpy(c->note, text, n);
    c->note[n] = 0;
    pthread_mutex_unlock(&c->lock);
}

void control_draw(struct control *c, bool draw) { atomic_store(&c->draw, draw); }

void control_read(struct control *c, struct control_state *out) {
    pthread_mutex_lock(&c->lock);
    *out = (struct control_state){.paused = c->paused, .human = atomic_load(&c->human), .speed = c->speed};
    memcpy(out->note, c->note, sizeof out->note);
    pthread_mutex_unlock(&c->lock);
}

/* ---- the thread that plays ---- */

bool control_human(struct control *c) { return c && (c->script || atomic_load_explicit(&c->human, memory_order_relaxed)); }

bool control_draws(const struct control *c) { return c && atomic_load_explicit(&c->draw, memory_order_relaxed); }

void control_script(struct control *c, const struct key_press *presses, int count) {
    c->script = presses;
    c->script_count = count;
}

const struct key_press *control_take_script(struct control *c, int *count) {
    const struct key_press *script = c->script;
    *count = c->script_count;
    c->script = NULL;
    return script;
}

uint32_t control_held(struct control *c) {
    pthread_mutex_lock(&c->lock);
    uint32_t keys = c->held;
    if (c->tap_left > 0) keys |= c->tapped, c->tap_left--;
    pthread_mutex_unlock(&c->lock);
    return keys;
}

void control_add_note(struct control *c, char *prompt, size_t cap) {
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    size_t n = strlen(prompt), more = strlen(c->note);
    if (more && n + more + sizeof "\nnote " <= cap) {
        memcpy(prompt + n, "\nnote ", 6);
        memcpy(prompt + n + 6, c->note, more + 1);
    }
    pthread_mutex_unlock(&c->lock);
}

/* Lock held. A signal handler cannot wake us: look at *stop now and then. */
static void wait_a_while(struct control *c) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(look_again_seconds * 1e9);
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_cond_timedwait(&c->changed, &c->lock, &until);
}

static double wait_while_paused(struct control *c, const volatile bool *stop) {
    pthread_mutex_lock(&c->lock);
    while (c->paused && c->steps == 0 && !(stop && *stop)) wait_a_while(c);
    double speed = atomic_load(&c->human) ? 1 : c->speed;
    pthread_mutex_unlock(&c->lock);
    return speed;
}

void control_gate(struct control *c, uint64_t frame, bool paced, const volatile bool *stop) {
    if (!c) return;
    double speed = wait_while_paused(c, stop);
    if ((stop && *stop) || !paced || speed <= 0) return;
    double now = clock_seconds(), due = c->pace_start + (double)(frame - c->pace_frame) / (frames_per_second * speed);
    /* Thinking and pauses are not caught up; a counter that began anew and another speed begin a new count. */
    if (due < now - 0.1 || frame < c->pace_frame || speed != c->pace_speed || due > now + 5) {
        c->pace_start = now, c->pace_frame = frame, c->pace_speed = speed;
        return;
    }
    if (due <= now) return;
    struct timespec rest = {(time_t)(due - now), (long)((due - now - (double)(time_t)(due - now)) * 1e9)};
    nanosleep(&rest, NULL);
}

void control_step_done(struct control *c, uint64_t frame, const volatile bool *stop) {
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    if (c->steps > 0) c->steps--;
    pthread_mutex_unlock(&c->lock);
    control_gate(c, frame, false, stop);
}
