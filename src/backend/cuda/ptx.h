/* The instructions that C++ has no words for, one small function each. tests/cuda_emulation/ptx.h holds their twins for the host. */
#ifndef BACKEND_CUDA_PTX_H
#define BACKEND_CUDA_PTX_H

#ifdef CUDA_EMULATION
#include "ptx_emulation.h"
#elif defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

/* c (16 x 8, fp32) += a (16 x 16) b (16 x 8), bf16. Lane 4 g + t holds: a rows g, g + 8, columns 2t, 2t + 1 (a[0], a[1]) and 2t + 8, 2t + 9
 * (a[2], a[3]); b rows 2t, 2t + 1 (b0) and 2t + 8, 2t + 9 (b1) of column g; c rows g (c[0], c[1]) and g + 8, columns 2t, 2t + 1. */
__device__ static inline void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* The same of f16. */
__device__ static inline void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/* Four 8 x 8 matrices of 16-bit values: lane i points to row i % 8 of matrix i / 8 in shared memory. */
__device__ static inline void load_matrices(uint32_t r[4], const void *p) {
    unsigned s = (unsigned)__cvta_generic_to_shared(p);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(s) : "memory");
}
__device__ static inline void load_matrices_turned(uint32_t r[4], const void *p) {
    unsigned s = (unsigned)__cvta_generic_to_shared(p);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(s) : "memory");
}
/* 16 bytes of shared memory, where it stands in the program. */
__device__ static inline uint4 load_shared_16(const void *p) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"((unsigned)__cvta_generic_to_shared(p)) : "memory");
    return v;
}
/* The 8 x 8 matrix that the warp holds (row g, columns 2t and 2t + 1 in lane 4 g + t), turned. */
__device__ static inline uint32_t turn_matrix(uint32_t v) {
    uint32_t r;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
    return r;
}
/* 16 bytes to shared memory, past the first-level cache; there after copy_async_wait<n>, n = groups that may still be under way. */
__device__ static inline void copy_async_16(void *to, const void *from) {
    unsigned s = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(s), "l"(from) : "memory");
}
__device__ static inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ static inline void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
/* Read once: past the first-level cache. */
__device__ static inline uint4 load_streamed(const void *p) {
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
__device__ static inline void prefetch_l2(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

/* Everything that the kernels before this one wrote may be read after it. */
__device__ static inline void wait_for_input() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/* The next kernel may start its prologue. */
__device__ static inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ static inline float2 e4m3_pair(unsigned two) {
    __half2_raw h = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)two, __NV_E4M3);
    return __half22float2(*(__half2 *)&h);
}
/* Nearest, ties to even, saturating at 448. */
__device__ static inline uint8_t e4m3_of(float x) { return (uint8_t)__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }

/* ---- words that blocks of one kernel hand to each other through memory: whole 32-bit words, no order among them ---- */

__device__ static inline uint4 load_relaxed_16(const void *p) {
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
    return v;
}
__device__ static inline uint2 load_relaxed_8(const void *p) {
    uint2 v;
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
    return v;
}
__device__ static inline uint32_t load_relaxed_4(const void *p) {
    uint32_t v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
__device__ static inline void store_relaxed_16(void *p, uint4 v) {
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ static inline void store_relaxed_8(void *p, uint2 v) { asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1,%2};" ::"l"(p), "r"(v.x), "r"(v.y) : "memory"); }
__device__ static inline void store_relaxed_4(void *p, uint32_t v) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
/* 2^x to two ulp; 0 where that is below 2^-126. */
__device__ static inline float exp2_near(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
/* In loops that wait for another block or warp; in the emulation the others run here. */
__device__ static inline void wait_a_little() {}

/* ---- barriers in shared memory and the copy engine (sm_90; nothing on older devices, whose kernels do not come here) ---- */

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define SM_90(...) __VA_ARGS__
#else
#define SM_90(...)
#endif
__device__ static inline unsigned in_shared(const void *p) { return (unsigned)__cvta_generic_to_shared(p); }
__device__ static inline void gate_init(uint64_t *b, int count) { SM_90(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(in_shared(b)), "r"(count) : "memory");) }
/* After gate_init, before __syncthreads: the copy engine sees the barriers. */
__device__ static inline void gate_init_done() { SM_90(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");) }
__device__ static inline void gate_arrive(uint64_t *b) { SM_90(asm volatile("{ .reg .b64 s; mbarrier.arrive.shared::cta.b64 s, [%0]; }" ::"r"(in_shared(b)) : "memory");) }
/* For so many who would arrive. */
__device__ static inline void gate_arrive_for(uint64_t *b, int count) {
    SM_90(asm volatile("{ .reg .b64 s; mbarrier.arrive.shared::cta.b64 s, [%0], %1; }" ::"r"(in_shared(b)), "r"(count) : "memory");)
}
/* Arrives and lets the phase wait for so many bytes of copies more. */
__device__ static inline void gate_expect(uint64_t *b, unsigned bytes) {
    SM_90(asm volatile("{ .reg .b64 s; mbarrier.arrive.expect_tx.shared::cta.b64 s, [%0], %1; }" ::"r"(in_shared(b)), "r"(bytes) : "memory");)
}
/* Until the phase of this parity is over (of a new barrier: the one before its first, parity 1, is). */
__device__ static inline void gate_wait(uint64_t *b, unsigned parity) {
    SM_90(unsigned done; do asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                                          : "=r"(done) : "r"(in_shared(b)), "r"(parity) : "memory");
          while (!done);)
}
/* bytes: a multiple of 16, as are both addresses. Read once: leaves the second-level cache first. */
__device__ static inline void copy_bulk(void *to, const void *from, unsigned bytes, uint64_t *b) {
    SM_90(uint64_t policy; asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
          asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(in_shared(to)), "l"(from),
                       "r"(bytes), "r"(in_shared(b)), "l"(policy) : "memory");)
}
/* The same, to be read again by others. */
__device__ static inline void copy_bulk_kept(void *to, const void *from, unsigned bytes, uint64_t *b) {
    SM_90(asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(in_shared(to)), "l"(from), "r"(bytes),
                       "r"(in_shared(b)) : "memory");)
}
/* To the second-level cache, ahead of a copy of the same bytes; aligned as copies are. */
__device__ static inline void bring_nearer(const void *from, unsigned bytes) { SM_90(asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");) }
/* Gives way to the other warps for about so long. */
__device__ static inline void rest(unsigned ns) { SM_90(__nanosleep(ns);) }
/* Between a thread's own writes to shared memory and copies to the same place that begin after a barrier behind this. */
__device__ static inline void fence_copies() { SM_90(asm volatile("fence.proxy.async.shared::cta;" ::: "memory");) }
/* Two blocks of a cluster (grids of one dimension): all threads of both meet, publishing nothing but barriers made before gate_init_done; values to the other
 * one's shared memory, and to its barrier that so many bytes came. */
__device__ static inline void pair_arrive() { SM_90(asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");) }
__device__ static inline void pair_wait() { SM_90(asm volatile("barrier.cluster.wait.aligned;" ::: "memory");) }
__device__ static inline void pair_send_16(void *to, uint4 v, uint64_t *b, int rank) {
    SM_90(asm volatile("{ .reg .b32 a, g; mapa.shared::cluster.u32 a, %0, %6; mapa.shared::cluster.u32 g, %5, %6;\n"
                       "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [a], {%1,%2,%3,%4}, [g]; }" ::"r"(in_shared(to)), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w),
                       "r"(in_shared(b)), "r"(rank) : "memory");)
}
__device__ static inline void pair_send_8(void *to, uint32_t x, uint32_t y, uint64_t *b, int rank) {
    SM_90(asm volatile("{ .reg .b32 a, g; mapa.shared::cluster.u32 a, %0, %4; mapa.shared::cluster.u32 g, %3, %4;\n"
                       "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [a], {%1,%2}, [g]; }" ::"r"(in_shared(to)), "r"(x), "r"(y), "r"(in_shared(b)), "r"(rank)
                       : "memory");)
}
/* A barrier of some warps of the block. */
template <int ID, int THREADS> __device__ static inline void some_sync() { asm volatile("bar.sync %0, %1;" ::"n"(ID), "n"(THREADS) : "memory"); }
/* The same, by number: arrive does not wait; of the threads some arrive and some sync. */
template <int THREADS> __device__ static inline void some_arrive_at(int id) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "n"(THREADS) : "memory"); }
template <int THREADS> __device__ static inline void some_sync_at(int id) { asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(THREADS) : "memory"); }
/* Registers a thread of this warpgroup has from here on; what others give back can be had. */
template <int N> __device__ static inline void more_registers() { SM_90(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));) }
template <int N> __device__ static inline void fewer_registers() { SM_90(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));) }
/* The same number; what is computed from it is not kept in registers from further out. */
__device__ static inline int renewed(int v) {
    asm volatile("" : "+r"(v));
    return v;
}
__device__ static inline long long clock_now() { /* not before a barrier in front of it */
    long long t;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(t)::"memory");
    return t;
}
/* Four e4m3 values as two pairs of f16; exact. */
__device__ static inline void e4m3_as_f16(uint32_t four, uint32_t *lo, uint32_t *hi) {
#if __CUDA_ARCH__ >= 900
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %2; cvt.rn.f16x2.e4m3x2 %0, l; cvt.rn.f16x2.e4m3x2 %1, h; }" : "=r"(*lo), "=r"(*hi) : "r"(four));
#else /* as it stands, one bit further right, it is f16 of 1/256 of the value, small numbers included */
    uint32_t a[2] = {__byte_perm(four, 0, 0x1404), __byte_perm(four, 0, 0x3424)};
    for (int i = 0; i < 2; i++) {
        a[i] = (a[i] & 0x80008000u) | (a[i] & 0x7F007F00u) >> 1;
        __half2 v;
        memcpy(&v, &a[i], 4);
        v = __hmul2(v, __float2half2_rn(256.0f));
        memcpy(i ? hi : lo, &v, 4);
    }
#endif
}
__device__ static inline uint32_t pack_f16(float a, float b) {
    __half2 v = __floats2half2_rn(a, b);
    uint32_t r;
    memcpy(&r, &v, 4);
    return r;
}
/* A word of the table at the beginning of the block's own shared memory, at byte I of high (all of them below 128) over byte I of low. That memory
 * begins where the instruction says, which saves an addition: behind what the device keeps of it. */
enum { SHARED_BEGIN = 1024 };
__device__ static inline void stop_kernel() { __trap(); }
__device__ static inline bool shared_begins(const void *p) { return in_shared(p) == SHARED_BEGIN; }
template <int I> __device__ static inline uint32_t look_up_bytes(const char *, uint32_t low, uint32_t high) {
    uint32_t at, v; /* the upper half: the sign of high's byte, 0 */
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(at) : "r"(low), "r"(high), "n"((0xCC + 0x11 * I) << 8 | (4 + I) << 4 | I));
    asm volatile("ld.shared.u32 %0, [%1 + %2];" : "=r"(v) : "r"(at), "n"((int)SHARED_BEGIN));
    return v;
}
__device__ static inline uint32_t byte_of(uint32_t word, int i) { return __byte_perm(word, 0, 0x4440 + i); }

#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) char name[]
#endif

#if defined(CUDA_EMULATION) || defined(__CUDACC__)
__device__ static inline uint32_t pack_bf16(float a, float b) {
    __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    uint32_t r;
    memcpy(&r, &v, 4);
    return r;
}
/* The low, and the high, halves of two words as one. */
__device__ static inline uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xFFFF) | b << 16; }
__device__ static inline uint32_t high_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xFFFF0000u); }
__device__ static inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ static inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }
#endif

#endif
