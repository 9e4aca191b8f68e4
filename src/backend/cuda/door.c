#include "backend/cuda/door.h"

#include "backend/cuda/cuda.h"

const struct backend backend_cuda = {
    .name = "cuda",
    .load = cuda_load,
    .unload = cuda_unload,
    .encode_image = cuda_encode_image,
    .encode_pictures = cuda_encode_pictures,
    .forward = cuda_forward,
    .can_pick = cuda_can_pick,
    .page_alloc = cuda_page_alloc,
    .page_free = cuda_page_free,
    .page_copy = cuda_page_copy,
    .page_bytes = cuda_page_bytes,
    .page_export = cuda_page_export,
    .page_import = cuda_page_import,
    .pages_import = cuda_pages_import,
    .host_alloc = cuda_host_alloc,
    .host_free = cuda_host_free,
    .memory_bytes = cuda_memory_bytes,
    .describe = cuda_describe,
    .ceilings = cuda_ceilings,
};
