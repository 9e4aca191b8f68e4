#include "checkpoint/place.h"

#include "checkpoint/room.h"

bool checkpoint_place(const struct checkpoint *c, const void *view, size_t bytes, struct file_place *out) {
    for (size_t f = 0; f < c->file_count; f++) {
        const struct safetensors *s = &c->files[f];
        uintptr_t start = (uintptr_t)s->map.data, at = (uintptr_t)view;
        if (s->count == 0 || at < start || at - start > s->map.bytes || bytes > s->map.bytes - (at - start)) continue;
        *out = (struct file_place){s->tensors[0].file, at - start};
        return true;
    }
    return false;
}
