/* The functions behind struct backend, written in the .cu files. */
#ifndef BACKEND_CUDA_DOOR_H
#define BACKEND_CUDA_DOOR_H

#include "backend/backend.h"

int cuda_load(struct checkpoint *c, const struct backend_options *o, struct backend_model **out, struct err *err);
void cuda_unload(struct backend_model *m);
int cuda_encode_image(struct backend_model *m, const struct patches *p, struct vision_features *out, struct err *err);
int cuda_encode_pictures(struct backend_model *m, const struct prepared_picture *pictures, int count, struct vision_features *out, struct err *err);
int cuda_forward(struct backend_model *m, const struct span *spans, int count, struct err *err);
int32_t cuda_page_alloc(struct backend_model *m);
void cuda_page_free(struct backend_model *m, int32_t page);
int cuda_page_copy(struct backend_model *m, int32_t to, int32_t from, int tokens, struct err *err);
size_t cuda_page_bytes(const struct backend_model *m);
int cuda_page_export(struct backend_model *m, int32_t page, void *out, struct err *err);
int cuda_page_import(struct backend_model *m, int32_t page, const void *in, struct err *err);
int cuda_pages_import(struct backend_model *m, const int32_t *pages, const void *const *in, int count, struct err *err);
void *cuda_host_alloc(struct backend_model *m, size_t bytes);
void cuda_host_free(struct backend_model *m, void *memory);
bool cuda_can_pick(const struct backend_model *m, const struct pick *p);
size_t cuda_memory_bytes(const struct backend_model *m);
void cuda_describe(const struct backend_model *m, struct backend_info *out);
int cuda_ceilings(const struct backend_options *o, struct backend_ceilings *out, struct err *err);

#endif
