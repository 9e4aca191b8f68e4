/* The CUDA backend's door beside struct backend: is there a device, and how much memory has it. Callable from C on any machine; only
 * there when the program was built with nvcc (HAVE_CUDA). */
#ifndef BACKEND_CUDA_CUDA_H
#define BACKEND_CUDA_CUDA_H

#include <stddef.h>

#include "backend/backend.h"

/* True when a usable device is there; else err says why not. */
bool cuda_available(struct err *err);
/* Free and total memory of the device in use by this thread, or of one by its number; 0 when there is none. */
size_t cuda_memory_free(size_t *total);
size_t cuda_card_memory_free(int card, size_t *total);
/* How many devices there are. */
int cuda_cards(void);
/* Device memory beside weights and pages for batches of `rows` rows. */
size_t cuda_work_bytes(const struct model_config *c, int rows);
/* Of it also, with e4m3 pages: keys and values of one layer, unpacked for a prompt of so many tokens. */
size_t cuda_unpacked_bytes(const struct model_config *c, int64_t tokens);

extern const struct backend backend_cuda;
/* A model that does not fit one card: runs of its layers on several (backend_options.cards); parts.c. */
extern const struct backend backend_cuda_parts;

#endif
