#include "engine/logits_row.h"

#include <math.h>
#include <stdlib.h>

enum { SLAB_ROWS = 16, SLAB_BYTES = 4 << 20, ALIGN = 256 }; /* 16 rows of 151,936 are 9.7 MB; less where rows are short */

struct logits_slab {
    struct logits_slab *next;
    char *memory;
    struct logits_row rows[];
};

void logits_rows_init(struct logits_rows *p, const struct backend *backend, struct backend_model *device, int vocab) {
    *p = (struct logits_rows){.backend = backend, .device = device,
                              .row_bytes = ((size_t)vocab * sizeof(float) + ALIGN - 1) / ALIGN * ALIGN};
}

static void *memory_take(const struct logits_rows *p, size_t bytes) {
    void *memory = NULL;
    if (p->backend->host_alloc) return p->backend->host_alloc(p->device, bytes);
    return posix_memalign(&memory, ALIGN, bytes) ? NULL : memory;
}

static void memory_free(const struct logits_rows *p, void *memory) {
    if (p->backend->host_free) p->backend->host_free(p->device, memory);
    else free(memory);
}

void logits_rows_free(struct logits_rows *p) {
    for (struct logits_slab *s = p->slabs, *next; s; s = next) {
        next = s->next;
        memory_free(p, s->memory);
        free(s);
    }
    *p = (struct logits_rows){0};
}

static void add_slab(struct logits_rows *p, size_t count) {
    struct logits_slab *s = calloc(1, sizeof *s + count * sizeof *s->rows);
    if (!s) return;
    if (!(s->memory = memory_take(p, count * p->row_bytes))) {
        free(s);
        return;
    }
    for (size_t i = count; i-- > 0;) {
        s->rows[i] = (struct logits_row){.values = (float *)(s->memory + i * p->row_bytes), .next = p->free};
        p->free = &s->rows[i];
    }
    s->next = p->slabs;
    p->slabs = s;
}

void logits_rows_reserve(struct logits_rows *p, int rows) { add_slab(p, (size_t)rows); }

struct logits_row *logits_row_take(struct logits_rows *p) {
    if (!p->free) add_slab(p, p->row_bytes * SLAB_ROWS <= SLAB_BYTES || p->backend->host_alloc ? SLAB_ROWS : 1);
    struct logits_row *r = p->free;
    if (!r) return NULL;
    p->free = r->next;
    r->next = NULL;
    r->refs = 1;
    r->ranked = false;
    r->norm = NAN;
    return r;
}

void logits_row_hold(struct logits_row *r) { r->refs++; }

void logits_row_drop(struct logits_rows *p, struct logits_row *r) {
    if (!r || --r->refs > 0) return;
    r->next = p->free;
    p->free = r;
}
