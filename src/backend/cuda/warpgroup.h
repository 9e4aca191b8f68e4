/* Hopper's own instructions (sm_90a), one small function each: products of a warpgroup (four warps) on operands in shared memory, tiles by the
 * tensor memory accelerator, barriers in shared memory. Not emulated: what uses them has an sm_80 twin, and is tested on the GPU.
 *
 * Tiles in shared memory are rows of 64 bf16 (128 bytes) from an address that 1,024 divides, stored with the 128-byte swizzle: the 16-byte
 * piece p of row r lies at piece p ^ (r % 8). The TMA writes them so, wgmma reads them so (PTX ISA 9.7.15.5.1, matrix descriptors):
 *   K-major (a row is one m or n, its 64 values are k): 8 rows take 1,024 bytes, the next 8 rows are `stride` behind; k advances by 16 with
 *   32 bytes.
 *   MN-major (a row is one k, its 64 values are n): the next 64 n are `leading` behind, the next 8 k are `stride` behind. */
#ifndef BACKEND_CUDA_WARPGROUP_H
#define BACKEND_CUDA_WARPGROUP_H

#include <cuda.h>
#include <stdint.h>

__device__ static inline uint32_t shared_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ static inline uint64_t tile_descriptor(const void *p, uint32_t leading_bytes, uint32_t stride_bytes) {
    const uint64_t swizzle_128 = 1;
    return (uint64_t)((shared_address(p) & 0x3FFFF) >> 4) | (uint64_t)(leading_bytes >> 4) << 16 | (uint64_t)(stride_bytes >> 4) << 32 | swizzle_128 << 62;
}
/* The descriptor of what lies `bytes` behind. */
__device__ static inline uint64_t tile_behind(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }

/* ---- products ---- */

#define WARPGROUP_OUT_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WARPGROUP_OUT_16(d, i) WARPGROUP_OUT_4(d, i), WARPGROUP_OUT_4(d, i + 4), WARPGROUP_OUT_4(d, i + 8), WARPGROUP_OUT_4(d, i + 12)
#define WARPGROUP_OUT_32(d) WARPGROUP_OUT_16(d, 0), WARPGROUP_OUT_16(d, 16)
#define WARPGROUP_OUT_64(d) WARPGROUP_OUT_32(d), WARPGROUP_OUT_16(d, 32), WARPGROUP_OUT_16(d, 48)
#define WARPGROUP_OUT_88(d) WARPGROUP_OUT_64(d), WARPGROUP_OUT_16(d, 64), WARPGROUP_OUT_4(d, 80), WARPGROUP_OUT_4(d, 84)
#define WARPGROUP_NAMES_32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WARPGROUP_NAMES_64 WARPGROUP_NAMES_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WARPGROUP_NAMES_88 WARPGROUP_NAMES_64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87"

/* d (64 x N, fp32) = [d +] a (64 x 16, K-major tile) b (N x 16, K-major tile)^T for N = 64, 128, 176. Lane 4 g + t of warp w holds rows
 * 16 w + g (d[4 j], d[4 j + 1]) and 16 w + g + 8 (d[4 j + 2], d[4 j + 3]), columns 8 j + 2 t and the next. Under way until warpgroup_wait. */
template <bool ADD> __device__ static inline void warpgroup_product_k(float (&d)[32], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WARPGROUP_NAMES_32 "}, %32, %33, %34, 1, 1, 0, 0;" : WARPGROUP_OUT_32(d) : "l"(a), "l"(b), "n"((int)ADD));
}
template <bool ADD> __device__ static inline void warpgroup_product_k(float (&d)[64], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WARPGROUP_NAMES_64 "}, %64, %65, %66, 1, 1, 0, 0;" : WARPGROUP_OUT_64(d) : "l"(a), "l"(b), "n"((int)ADD));
}
template <bool ADD> __device__ static inline void warpgroup_product_k(float (&d)[88], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n176k16.f32.bf16.bf16 {" WARPGROUP_NAMES_88 "}, %88, %89, %90, 1, 1, 0, 0;" : WARPGROUP_OUT_88(d) : "l"(a), "l"(b), "n"((int)ADD));
}
/* d (64 x N) += a (64 x 16, in registers, as mma_bf16 has it for the warp's 16 rows) b (16 x N, MN-major tile), N = 128, 64. */
__device__ static inline void warpgroup_product_mn(float (&d)[64], const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WARPGROUP_NAMES_64 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;"
                 : WARPGROUP_OUT_64(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ static inline void warpgroup_product_mn(float (&d)[32], const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WARPGROUP_NAMES_32 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
                 : WARPGROUP_OUT_32(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
/* In front of the first product that reads or adds to registers written before. */
__device__ static inline void warpgroup_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ static inline void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* LEFT: committed groups that may still be under way. */
template <int LEFT> __device__ static inline void warpgroup_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }
/* Keeps the compiler from moving uses of d across this place. */
__device__ static inline void warpgroup_hold(float (&d)[32]) { asm volatile("" : WARPGROUP_OUT_32(d)::"memory"); }
__device__ static inline void warpgroup_hold(float (&d)[64]) { asm volatile("" : WARPGROUP_OUT_64(d)::"memory"); }
__device__ static inline void warpgroup_hold(float (&d)[88]) { asm volatile("" : WARPGROUP_OUT_88(d)::"memory"); }

template <int REGISTERS> __device__ static inline void warpgroup_take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }
template <int REGISTERS> __device__ static inline void warpgroup_give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS)); }

/* Named barriers 1 to 15 of a block, `threads` in all arriving or waiting. */
__device__ static inline void turn_wait(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
__device__ static inline void turn_pass(int barrier, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }

/* Between a thread's own writes to shared memory and products or the accelerator that read them; then a barrier. */
__device__ static inline void fence_for_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/* ---- barriers in shared memory, tiles ---- */

__device__ static inline void barrier_init(uint64_t *b, int arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory"); }
/* After the inits, before __syncthreads: the accelerator sees them. */
__device__ static inline void barrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ static inline void barrier_arrive(uint64_t *b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory"); }
/* Arrives; the phase also waits for so many bytes of tiles. */
__device__ static inline void barrier_expect(uint64_t *b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
/* Until the phase of this parity has ended; a fresh barrier is in phase 0, and phase "-1" (parity 1) has ended. */
__device__ static inline void barrier_wait(uint64_t *b, int parity) {
    asm volatile("{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra.uni ended;\nbra.uni again;\nended:\n}" ::"r"(shared_address(b)),
                 "r"(parity)
                 : "memory");
}
__device__ static inline void tile_prefetch_map(const CUtensorMap *map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
/* What lies outside of the tensor arrives as zeros and counts as bytes all the same. */
__device__ static inline void tile_load_2d(void *to, const CUtensorMap *map, uint64_t *barrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)), "l"(map),
                 "r"(shared_address(barrier)), "r"(x), "r"(y)
                 : "memory");
}
__device__ static inline void tile_load_3d(void *to, const CUtensorMap *map, uint64_t *barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to)), "l"(map),
                 "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

/* Into the second-level cache; 16 divides address and size. */
__device__ static inline void prefetch_piece(const void *p, int bytes) { asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory"); }

/* ---- blocks of a cluster ---- */

__device__ static inline int cluster_rank() {
    int r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
/* All threads of all blocks of the cluster meet. Publishes nothing but barriers that were made before barrier_init_done: "release" would wait for
 * every write of the block, a microsecond. */
__device__ static inline void cluster_meet() { asm volatile("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait;" ::: "memory"); }
/* Arrives at the barrier that lies at the same place in another block (without publishing writes, see above). */
__device__ static inline void cluster_arrive(uint64_t *b, int rank) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(shared_address(b)), "r"(rank)
                 : "memory");
}
/* A tile for the same place in every block of the mask; each one's own barrier counts its bytes. */
__device__ static inline void tile_load_2d_many(void *to, const CUtensorMap *map, uint64_t *barrier, int x, int y, int mask) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
                 "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "h"((uint16_t)mask)
                 : "memory");
}

/* ---- host: tensors for the accelerator ---- */

typedef CUresult (*tile_encode_function)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *, const cuuint32_t *,
                                         CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
/* The driver's cuTensorMapEncodeTiled, kept in *encode; NULL when there is none. */
static inline void *tile_encoder(void **encode) {
    cudaDriverEntryPointQueryResult found;
    if (!*encode && (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", encode, 12000, cudaEnableDefault, &found) || found != cudaDriverEntryPointSuccess)) {
        cudaGetLastError();
        *encode = NULL;
    }
    return *encode;
}
/* A tensor of bf16 in global memory: sizes from the innermost dimension on, strides in bytes of all but that one, boxes 64 wide. */
static inline bool tile_map(void *encode, CUtensorMap *map, const void *at, int rank, const cuuint64_t *size, const cuuint64_t *stride, const cuuint32_t *box) {
    const cuuint32_t one[3] = {1, 1, 1};
    return ((tile_encode_function)encode)(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, (cuuint32_t)rank, (void *)at, size, stride, box, one, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                          CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

__device__ static inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
