/* Twins of the inline PTX in src/backend/cuda/ptx.h, by the words of the PTX manual. */
#ifndef CUDA_EMULATION_PTX_H
#define CUDA_EMULATION_PTX_H
#include "cuda_bf16.h"

void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
void load_matrices(uint32_t r[4], const void *p);
void load_matrices_turned(uint32_t r[4], const void *p);
uint32_t turn_matrix(uint32_t v);
void copy_async_16(void *to, const void *from);
void copy_async_commit();
void emulated_copy_wait(int left);
template <int LEFT> static inline void copy_async_wait() { emulated_copy_wait(LEFT); }
static inline uint4 load_streamed(const void *p) { return *(const uint4 *)p; }
static inline void prefetch_l2(const void *) {}
static inline void wait_for_input() {}
static inline void let_next_start() {}
static inline float2 e4m3_pair(unsigned two) { return {e4m3_to_f32((uint8_t)two), e4m3_to_f32((uint8_t)(two >> 8))}; }
uint8_t e4m3_of(float x);
#define DYNAMIC_SHARED(name) char *name = (char *)emulated_shared()
#endif
