/* cublasLt for large products, loaded when it is there (facts gpu-limits.md §6: what it takes and how its scales lie). Plans are kept by
 * shape: choosing one costs more than a small product. */
#include "backend/cuda/room.h"

#ifdef CUDA_EMULATION

/* The emulation's library: one sum after the other. */
struct lt { int unused; };
struct lt *lt_open(void) {
    static struct lt lt;
    return &lt;
}
void lt_close(struct lt *) {}

struct plain_args {
    const void *w, *x;
    const float *scale, *factors;
    void *y;
    int out, in, rows;
    int64_t ldx, ldy;
    bool y_bf16, add;
};
__global__ void plain_product(const struct plain_args a) {
    int64_t item = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = item / a.out, o = item % a.out;
    if (row >= a.rows) return;
    float sum = 0, part = 0;
    for (int k = 0; k < a.in; k++) {
        if (a.scale) part += e4m3_pair(((const uint8_t *)a.w)[o * a.in + k]).x * e4m3_pair(((const uint8_t *)a.x)[row * a.ldx + k]).x;
        else sum += __bfloat162float(((const bf16 *)a.w)[o * a.in + k]) * __bfloat162float(((const bf16 *)a.x)[row * a.ldx + k]);
        if (a.scale && k % 128 == 127) sum += part * a.scale[o / 128 * ((a.in / 128 + 3) / 4 * 4) + k / 128] * a.factors[(int64_t)(k / 128) * a.rows + row], part = 0;
    }
    int64_t at = row * a.ldy + o;
    if (a.y_bf16) ((bf16 *)a.y)[at] = __float2bfloat16_rn(sum + (a.add ? __bfloat162float(((bf16 *)a.y)[at]) : 0));
    else ((float *)a.y)[at] = sum + (a.add ? ((float *)a.y)[at] : 0);
}
static int plain(cudaStream_t s, const struct plain_args &a) {
    if ((int64_t)a.out * a.in * a.rows > (int64_t)1 << 33) return -1; /* hours */
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3((unsigned)(((int64_t)a.out * a.rows + 127) / 128)), c.blockDim = dim3(128), c.stream = s;
    return cudaLaunchKernelEx(&c, plain_product, a) ? -1 : 0;
}
int lt_product(struct lt *, cudaStream_t s, const bf16 *w, int out, int in, const bf16 *x, int64_t ldx, int rows, void *y, int64_t ldy, bool y_bf16, bool add) {
    return plain(s, {w, x, NULL, NULL, y, out, in, rows, ldx, ldy, y_bf16, add});
}
int lt_product_fp8(struct lt *, cudaStream_t s, const void *w, const float *scale, int out, int in, const void *x, const float *factors, int rows, void *y,
                   int64_t ldy, bool y_bf16, bool add) {
    return plain(s, {w, x, scale, factors, y, out, in, rows, in, ldy, y_bf16, add});
}

#else

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { WORKSPACE = 64 << 20, PLANS = 512 };

struct plan {
    int out, in, rows;
    int64_t ldx, ldy;
    int kind; /* bit 0: fp8, bit 1: y in bf16, bit 2: added to y */
    cublasLtMatmulDesc_t how;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    const float *scale, *factors; /* fp8 */
};

struct lt {
    void *library;
    cublasLtHandle_t handle;
    void *workspace;
    struct plan plans[PLANS];
    int count, last; /* last: the one used last; layers ask for the same few in turn */
#define FUNCTION(name) decltype(&cublasLt##name) name
    FUNCTION(Create);
    FUNCTION(Destroy);
    FUNCTION(Matmul);
    FUNCTION(MatmulDescCreate);
    FUNCTION(MatmulDescDestroy);
    FUNCTION(MatmulDescSetAttribute);
    FUNCTION(MatrixLayoutCreate);
    FUNCTION(MatrixLayoutDestroy);
    FUNCTION(MatmulPreferenceCreate);
    FUNCTION(MatmulPreferenceDestroy);
    FUNCTION(MatmulPreferenceSetAttribute);
    FUNCTION(MatmulAlgoGetHeuristic);
#undef FUNCTION
};

struct lt *lt_open(void) {
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so", "/usr/local/cuda/lib64/libcublasLt.so.13", "/usr/local/cuda/targets/x86_64-linux/lib/libcublasLt.so.13",
                                        "/opt/cuda/lib64/libcublasLt.so.13"};
    void *library = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !library; i++) library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    struct lt *lt = library ? (struct lt *)calloc(1, sizeof *lt) : NULL;
    if (!lt) {
        if (library) dlclose(library);
        return NULL;
    }
    lt->library = library;
    bool all = true;
#define FUNCTION(name) all = (lt->name = (decltype(lt->name))dlsym(library, "cublasLt" #name)) != NULL && all
    FUNCTION(Create);
    FUNCTION(Destroy);
    FUNCTION(Matmul);
    FUNCTION(MatmulDescCreate);
    FUNCTION(MatmulDescDestroy);
    FUNCTION(MatmulDescSetAttribute);
    FUNCTION(MatrixLayoutCreate);
    FUNCTION(MatrixLayoutDestroy);
    FUNCTION(MatmulPreferenceCreate);
    FUNCTION(MatmulPreferenceDestroy);
    FUNCTION(MatmulPreferenceSetAttribute);
    FUNCTION(MatmulAlgoGetHeuristic);
#undef FUNCTION
    if (!all || lt->Create(&lt->handle) || cudaMalloc(&lt->workspace, WORKSPACE)) {
        cudaGetLastError();
        lt_close(lt);
        return NULL;
    }
    return lt;
}

static void plan_free(struct lt *lt, struct plan *p) {
    if (p->how) lt->MatmulDescDestroy(p->how);
    if (p->a) lt->MatrixLayoutDestroy(p->a);
    if (p->b) lt->MatrixLayoutDestroy(p->b);
    if (p->c) lt->MatrixLayoutDestroy(p->c);
    memset(p, 0, sizeof *p);
}

void lt_close(struct lt *lt) {
    if (!lt) return;
    for (int i = 0; i < lt->count; i++) plan_free(lt, &lt->plans[i]);
    cudaFree(lt->workspace);
    if (lt->handle) lt->Destroy(lt->handle);
    dlclose(lt->library);
    free(lt);
}

static int plan_make(struct lt *lt, struct plan *p) {
    bool fp8 = p->kind & 1;
    cudaDataType_t in = fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF, out = p->kind & 2 ? CUDA_R_16BF : CUDA_R_32F;
    cublasOperation_t turned = CUBLAS_OP_T;
    size_t limit = WORKSPACE;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    /* Column-major: y (out, rows) = w (in, out)^T x (in, rows). */
    int bad = lt->MatmulDescCreate(&p->how, CUBLAS_COMPUTE_32F, CUDA_R_32F) || lt->MatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof turned) ||
              lt->MatrixLayoutCreate(&p->a, in, (uint64_t)p->in, (uint64_t)p->out, p->in) || lt->MatrixLayoutCreate(&p->b, in, (uint64_t)p->in, (uint64_t)p->rows, p->ldx) ||
              lt->MatrixLayoutCreate(&p->c, out, (uint64_t)p->out, (uint64_t)p->rows, p->ldy);
    if (!bad && fp8) {
        int32_t w = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F, x = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
        bad = lt->MatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &w, sizeof w) || lt->MatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &x, sizeof x) ||
              lt->MatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &p->scale, sizeof p->scale) ||
              lt->MatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p->factors, sizeof p->factors);
    }
    bad = bad || lt->MatmulPreferenceCreate(&preference) ||
          lt->MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &limit, sizeof limit) ||
          lt->MatmulAlgoGetHeuristic(lt->handle, p->how, p->a, p->b, p->c, p->c, preference, 1, &found, &count) || count < 1;
    if (preference) lt->MatmulPreferenceDestroy(preference);
    if (!bad) p->algorithm = found.algo;
    return bad ? -1 : 0;
}

static struct plan *plan_get(struct lt *lt, const struct plan *want) {
    for (int i = 1; i <= lt->count; i++) {
        struct plan *p = &lt->plans[(lt->last + i) % lt->count];
        if (p->out == want->out && p->in == want->in && p->rows == want->rows && p->ldx == want->ldx && p->ldy == want->ldy && p->kind == want->kind) return lt->last = (int)(p - lt->plans), p;
    }
    if (lt->count == PLANS) /* many different lengths: begin anew */
        while (lt->count) plan_free(lt, &lt->plans[--lt->count]);
    struct plan *p = &lt->plans[lt->count];
    *p = *want;
    if (plan_make(lt, p)) {
        plan_free(lt, p);
        return NULL;
    }
    lt->last = lt->count++;
    return p;
}

static int run(struct lt *lt, cudaStream_t s, struct plan *p, const void *w, const void *x, void *y) {
    float one = 1, beta = p->kind & 4 ? 1.0f : 0.0f;
    return lt->Matmul(lt->handle, p->how, &one, w, p->a, x, p->b, &beta, y, p->c, y, p->c, &p->algorithm, lt->workspace, WORKSPACE, s) ? -1 : 0;
}

int lt_product(struct lt *lt, cudaStream_t s, const bf16 *w, int out, int in, const bf16 *x, int64_t ldx, int rows, void *y, int64_t ldy, bool y_bf16, bool add) {
    struct plan want = {out, in, rows, ldx, ldy, (y_bf16 ? 2 : 0) | (add ? 4 : 0)}, *p = plan_get(lt, &want);
    return p ? run(lt, s, p, w, x, y) : -1;
}

int lt_product_fp8(struct lt *lt, cudaStream_t s, const void *w, const float *scale, int out, int in, const void *x, const float *factors, int rows, void *y,
                   int64_t ldy, bool y_bf16, bool add) {
    struct plan want = {out, in, rows, in, ldy, 1 | (y_bf16 ? 2 : 0) | (add ? 4 : 0)}, *p;
    want.scale = scale, want.factors = factors; /* the choice of an algorithm looks at their alignment */
    p = plan_get(lt, &want);
    if (!p || lt->MatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scale, sizeof scale) ||
        lt->MatmulDescSetAttribute(p->how, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &factors, sizeof factors))
        return -1;
    return run(lt, s, p, w, x, y);
}

#endif
