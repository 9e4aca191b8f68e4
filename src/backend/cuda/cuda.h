/* The CUDA backend's door beside struct backend: is there a device, and how much memory has it. Callable from C on any machine; only
 * there when the program was built with nvcc (HAVE_CUDA). */
#ifndef BACKEND_CUDA_CUDA_H
#define BACKEND_CUDA_CUDA_H

#include <stddef.h>

#include "backend/backend.h"

/* True when a usable device is there; else err says why not. */
bool cuda_available(struct err *err);
/* Free and total memory of the device in use; 0 when there is none. */
size_t cuda_memory_free(size_t *total);
/* Device memory beside weights and pages for batches of `rows` rows. */
size_t cuda_work_bytes(const struct model_config *c, int rows);

extern const struct backend backend_cuda;

#endif
