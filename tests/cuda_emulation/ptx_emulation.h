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

static inline uint4 load_shared_16(const void *p) { return *(const uint4 *)p; }
static inline uint4 load_relaxed_16(const void *p) { return *(const uint4 *)p; }
static inline uint2 load_relaxed_8(const void *p) { return *(const uint2 *)p; }
static inline uint32_t load_relaxed_4(const void *p) { return *(const uint32_t *)p; }
static inline void store_relaxed_16(void *p, uint4 v) { *(uint4 *)p = v; }
static inline void store_relaxed_8(void *p, uint2 v) { *(uint2 *)p = v; }
static inline void store_relaxed_4(void *p, uint32_t v) { *(uint32_t *)p = v; }
static inline float exp2_near(float x) { return exp2f(x); }
void wait_a_little();
void gate_init(uint64_t *b, int count);
static inline void gate_init_done() {}
void gate_arrive(uint64_t *b);
void gate_arrive_for(uint64_t *b, int count);
void gate_expect(uint64_t *b, unsigned bytes);
void gate_wait(uint64_t *b, unsigned parity);
void copy_bulk(void *to, const void *from, unsigned bytes, uint64_t *b);
static inline void copy_bulk_kept(void *to, const void *from, unsigned bytes, uint64_t *b) { copy_bulk(to, from, bytes, b); }
static inline void pair_arrive() {} /* no clusters here */
static inline void pair_wait() {}
static inline void pair_send_16(void *, uint4, uint64_t *, int) {}
static inline void pair_send_8(void *, uint32_t, uint32_t, uint64_t *, int) {}
static inline void fence_copies() {}
void bring_nearer(const void *from, unsigned bytes);
static inline void rest(unsigned) { wait_a_little(); }
void emulated_some_sync(int id, int threads);
template <int ID, int THREADS> static inline void some_sync() { emulated_some_sync(ID, THREADS); }
void emulated_some_arrive(int id, int threads);
template <int THREADS> static inline void some_arrive_at(int id) { emulated_some_arrive(id, THREADS); }
template <int THREADS> static inline void some_sync_at(int id) { emulated_some_sync(id, THREADS); }
template <int N> static inline void more_registers() {}
template <int N> static inline void fewer_registers() {}
static inline int renewed(int v) { return v; }
static inline long long clock_now() { static long long n; return n += 100; }
void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
static inline uint32_t pack_f16(float a, float b) { return f32_to_f16(a) | (uint32_t)f32_to_f16(b) << 16; }
static inline void e4m3_as_f16(uint32_t four, uint32_t *lo, uint32_t *hi) {
    *lo = pack_f16(e4m3_to_f32((uint8_t)four), e4m3_to_f32((uint8_t)(four >> 8)));
    *hi = pack_f16(e4m3_to_f32((uint8_t)(four >> 16)), e4m3_to_f32((uint8_t)(four >> 24)));
}
static inline void stop_kernel() { abort(); }
enum { SHARED_BEGIN = 1024 };
static inline bool shared_begins(const void *) { return true; }
template <int I> static inline uint32_t look_up_bytes(const char *table, uint32_t low, uint32_t high) {
    return *(const uint32_t *)(table + ((low >> I * 8 & 0xFF) | (high >> I * 8 & 0xFF) << 8));
}
static inline uint32_t byte_of(uint32_t word, int i) { return word >> i * 8 & 0xFF; }
#define DYNAMIC_SHARED(name) char *name = (char *)emulated_shared()
#endif
