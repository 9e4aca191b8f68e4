#include "backend/cpu/held_weights.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/cpu/model.h"
#include "checkpoint/place.h"

enum { LINE = 64, HUGE_PAGE = 2 << 20, PIECE = 4 << 20 };

size_t held_weights_bytes(const struct checkpoint *c) {
    static const char layers[] = "model.language_model.layers.", embed[] = "model.language_model.embed_tokens.", head[] = "lm_head.";
    const char *last = checkpoint_config(c)->text.tied ? embed : head;
    size_t sum = HUGE_PAGE;
    for (size_t i = 0; i < checkpoint_tensor_count(c); i++) {
        const struct tensor *t = checkpoint_tensor_at(c, i);
        if (!strncmp(t->name, layers, sizeof layers - 1) || !strncmp(t->name, last, strlen(last))) sum += (t->bytes + LINE - 1) / LINE * LINE;
    }
    return sum;
}

/* One array on its way: `bytes` from *view to `to`; a piece of it is a work item. */
struct move {
    const void **view;
    size_t bytes, to;
    int fd; /* of `place`, -1: copied from *view */
    struct file_place place;
    int64_t end; /* items up to and including this move */
};
struct moves {
    struct move *move;
    int count, capacity;
    char *memory;
    size_t bytes;
    pthread_mutex_t lock;
    struct err *err; /* the first failure, behind lock */
    int failed;
};

/* NULL and empty arrays are left alone. */
static int move_add(struct moves *all, const void **view, size_t bytes, struct err *err) {
    if (!*view || !bytes) return 0;
    if (all->count == all->capacity) {
        int capacity = all->capacity ? 2 * all->capacity : 256;
        struct move *grown = realloc(all->move, (size_t)capacity * sizeof *grown);
        if (!grown) return err_set(err, ERR_MEMORY, "out of memory");
        all->move = grown;
        all->capacity = capacity;
    }
    int64_t before = all->count ? all->move[all->count - 1].end : 0;
    all->move[all->count++] = (struct move){.view = view, .bytes = bytes, .to = all->bytes, .fd = -1, .end = before + (int64_t)((bytes + PIECE - 1) / PIECE)};
    all->bytes += (bytes + LINE - 1) / LINE * LINE;
    return 0;
}

/* A matrix and those of its factors that grow with it. */
static int move_weight(struct moves *all, struct linear_weight *w, struct err *err) {
    size_t n = (size_t)w->out * (size_t)w->in, data = 0;
    switch (w->storage) {
    case STORAGE_F32: data = 4 * n; break;
    case STORAGE_F16:
    case STORAGE_BF16: data = 2 * n; break;
    case STORAGE_FP8_BLOCK: data = n; break;
    case STORAGE_NF4: data = (n + 1) / 2; break;
    }
    int r = move_add(all, &w->data, data, err);
    if (r || w->storage != STORAGE_NF4) return r;
    size_t blocks = (n + (size_t)w->block_size - 1) / (size_t)w->block_size;
    return w->absmax_f32 ? move_add(all, (const void **)&w->absmax_f32, 4 * blocks, err) : move_add(all, (const void **)&w->absmax_u8, blocks, err);
}

static void fail(struct moves *all, const struct err *why) {
    pthread_mutex_lock(&all->lock);
    if (!all->failed) {
        all->failed = why->code;
        if (all->err) *all->err = *why;
    }
    pthread_mutex_unlock(&all->lock);
}

static void item_move(void *context, int64_t i, int thread) {
    (void)thread;
    struct moves *all = context;
    int low = 0, high = all->count - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (i < all->move[middle].end) high = middle;
        else low = middle + 1;
    }
    const struct move *m = &all->move[low];
    size_t at = (size_t)(i - (low ? all->move[low - 1].end : 0)) * PIECE, end = m->bytes - at < PIECE ? m->bytes : at + PIECE;
    if (m->fd < 0) {
        memcpy(all->memory + m->to + at, (const char *)*m->view + at, end - at);
        return;
    }
    while (at < end) {
        ssize_t n = pread(m->fd, all->memory + m->to + at, end - at, (off_t)(m->place.offset + at));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            struct err why = {0};
            if (n < 0) err_set(&why, ERR_IO, "%s: reading weights at byte %zu: %s", m->place.file, m->place.offset + at, strerror(errno));
            else
                err_set(&why, ERR_FORMAT, "%s: reading weights: the file ends at byte %zu, expected %zu more; it was cut short since it was opened",
                        m->place.file, m->place.offset + at, m->bytes - at);
            fail(all, &why);
            return;
        }
        at += (size_t)n;
    }
}

/* A descriptor for the file of each move; the same file is opened once. */
static int open_files(struct moves *all, const struct checkpoint *c, struct err *err) {
    for (int i = 0; i < all->count; i++) {
        struct move *m = &all->move[i];
        if (!checkpoint_place(c, *m->view, m->bytes, &m->place)) continue;
        for (int k = i - 1; k >= 0 && m->fd < 0; k--)
            if (all->move[k].fd >= 0 && all->move[k].place.file == m->place.file) m->fd = all->move[k].fd;
        if (m->fd < 0) m->fd = open(m->place.file, O_RDONLY | O_CLOEXEC);
        if (m->fd < 0) return err_set(err, errno == ENOENT ? ERR_MISSING : ERR_IO, "%s: cannot open: %s", m->place.file, strerror(errno));
    }
    return 0;
}

static void close_files(struct moves *all) {
    for (int i = 0; i < all->count; i++) {
        int fd = all->move[i].fd;
        if (fd < 0) continue;
        for (int k = i; k < all->count; k++)
            if (all->move[k].fd == fd) all->move[k].fd = -1;
        close(fd);
    }
}

int hold_weights(struct backend_model *m, struct err *err) {
    struct moves all = {.err = err};
    int r = 0;
    bool tied = m->w.head.data == m->w.embed.data;
    for (int n = 0; n < m->w.config.text.layers && !r; n++) {
        struct decoder_layer *l = &m->w.layers[n];
        struct linear_weight *const matrices[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        for (size_t i = 0; i < sizeof matrices / sizeof *matrices && !r; i++) r = move_weight(&all, matrices[i], err);
    }
    if (!r) r = move_weight(&all, &m->w.head, err);
    if (!r) r = open_files(&all, m->w.checkpoint, err);
    void *memory = MAP_FAILED;
    size_t mapped = all.bytes + HUGE_PAGE;
    if (!r) {
        memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) r = err_set(err, ERR_MEMORY, "no memory to hold %.1f MiB of weights: %s", (double)mapped / 1048576.0, strerror(errno));
    }
    if (!r) {
        madvise(memory, mapped, MADV_HUGEPAGE); /* a hint: refusal costs only speed */
        all.memory = (char *)(((uintptr_t)memory + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
        pthread_mutex_init(&all.lock, NULL);
        pool_run(m->pool, all.move[all.count - 1].end, item_move, &all);
        pthread_mutex_destroy(&all.lock);
        r = all.failed;
    }
    close_files(&all);
    if (!r) {
        mprotect(memory, mapped, PROT_READ);
        for (int i = 0; i < all.count; i++) *all.move[i].view = all.memory + all.move[i].to;
        if (tied) m->w.embed = m->w.head;
        m->held = memory;
        m->held_bytes = mapped;
    } else if (memory != MAP_FAILED) {
        munmap(memory, mapped);
    }
    free(all.move);
    return r;
}
