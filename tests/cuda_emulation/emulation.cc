/* Fibers, meeting points, lazy streams: see cuda_runtime.h beside this file. */
#include "ptx_emulation.h"

#include <sys/mman.h>

#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace {

enum { MOST_THREADS = 1024, STACK_BYTES = 256 << 10, SHARED_BYTES = 227 << 10 };
enum state { READY, WAITING, DONE };
enum meeting { NO_MEETING, SHUFFLE, BALLOT, SYNCWARP, MMA, MMA_F16, LDMATRIX, LDMATRIX_TURNED, TURN };
const char *const meeting_name[] = {"nothing", "a shuffle", "a ballot", "__syncwarp", "mma", "mma of f16", "ldmatrix", "ldmatrix.trans", "movmatrix"};

struct copy {
    void *to;
    const void *from;
};

struct fiber {
    dim3 thread;
#if defined(__x86_64__)
    void *sp;
#else
    ucontext_t context;
#endif
    void *fake; /* ASan's */
    char *stack;
    state now;
    int index;
    std::deque<std::vector<copy>> groups; /* cp.async: committed groups */
    std::vector<copy> open;
};

struct slot {
    float c[4];
    uint32_t a[4], b[2];
    int argument, kind;
    const void *p;
};

struct warp {
    int live, arrived;
    meeting kind;
    slot lane[32];
};

struct block {
    fiber *fibers; /* MOST_THREADS */
    warp warps[MOST_THREADS / 32];
    int threads, live, arrived; /* at __syncthreads */
    bool at_barrier[MOST_THREADS];
    struct { int arrived; unsigned turn; } some[16]; /* barriers of some warps */
    std::function<void()> body;
    char *shared;
};

/* A barrier in shared memory, as its 64 bits are used here. */
struct shared_barrier {
    uint16_t count;
    int16_t pending;
    int32_t bytes : 31;
    uint32_t phase : 1;
};
struct bulk {
    void *to;
    const void *from;
    unsigned bytes;
    shared_barrier *barrier;
};
std::vector<bulk> bulks; /* under way */
uint64_t progress;       /* counts what somebody may have waited for */
bool waited;             /* somebody has, since this was set to false */

block *now;
fiber *current;
#if defined(__x86_64__)
void *main_sp;
#else
ucontext_t main_context;
#endif
#if defined(__SANITIZE_ADDRESS__)
const void *main_stack;
size_t main_stack_bytes;
#endif

[[noreturn]] void give_up(const char *what) {
    fprintf(stderr, "CUDA emulation: %s (block %u %u %u, thread %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z,
            current->thread.x);
    abort();
}

#if defined(__x86_64__)
extern "C" void emulated_switch(void **from, void *to);
asm(".text\n.globl emulated_switch\nemulated_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");
#endif

void to_main(bool last) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &current->fake, main_stack, main_stack_bytes);
#else
    (void)last;
#endif
#if defined(__x86_64__)
    emulated_switch(&current->sp, main_sp);
#else
    swapcontext(&current->context, &main_context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(current->fake, &main_stack, &main_stack_bytes);
#endif
}

void to_fiber(fiber *f) {
    current = f;
    threadIdx = f->thread;
#if defined(__SANITIZE_ADDRESS__)
    void *fake;
    __sanitizer_start_switch_fiber(&fake, f->stack, STACK_BYTES);
#endif
#if defined(__x86_64__)
    emulated_switch(&main_sp, f->sp);
#else
    swapcontext(&main_context, &f->context);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void complete(warp *w);
void let_copies_arrive();

void leave_barrier() {
    for (int i = 0; i < now->threads; i++)
        if (now->at_barrier[i]) now->at_barrier[i] = false, now->fibers[i].now = READY;
    now->arrived = 0;
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &main_stack, &main_stack_bytes);
#endif
    now->body();
    fiber *f = current;
    if (!f->open.empty() || !f->groups.empty()) give_up("a thread ends with copies under way");
    f->now = DONE;
    warp *w = &now->warps[f->index / 32];
    w->live--;
    if (w->live && w->arrived == w->live) complete(w);
    now->live--;
    progress++;
    if (now->live && now->arrived == now->live) leave_barrier();
    to_main(true);
    abort();
}

void prepare(fiber *f, int i, const cudaLaunchConfig_t &c) {
    f->index = i;
    f->now = READY;
    unsigned u = (unsigned)i;
    f->thread = dim3(u % c.blockDim.x, u / c.blockDim.x % c.blockDim.y, u / (c.blockDim.x * c.blockDim.y));
    if (!f->stack) {
        f->stack = (char *)mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (f->stack == MAP_FAILED) abort();
    }
#if defined(__x86_64__)
    void **top = (void **)(f->stack + STACK_BYTES - 64 - i % 61 * 1088); /* not all in the same sets of the cache */
    *--top = NULL; /* so that the stack is aligned as after a call */
    *--top = (void *)fiber_main;
    for (int r = 0; r < 6; r++) *--top = NULL;
    f->sp = top;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack, f->context.uc_stack.ss_size = STACK_BYTES, f->context.uc_link = NULL;
    makecontext(&f->context, fiber_main, 0);
#endif
}

void begin_block(const cudaLaunchConfig_t &c) {
    int threads = (int)(c.blockDim.x * c.blockDim.y * c.blockDim.z);
    now->threads = now->live = threads, now->arrived = 0;
    memset(now->shared, 0xFF, c.dynamicSmemBytes);
    memset(now->some, 0, sizeof now->some);
    for (int i = 0; i < threads; i++) prepare(&now->fibers[i], i, c);
    int warps = (threads + 31) / 32;
    for (int w = 0; w < warps; w++) now->warps[w].live = threads - w * 32 < 32 ? threads - w * 32 : 32, now->warps[w].arrived = 0;
}

/* Every thread that can go on does so once. */
bool turn_block() {
    bool any = false;
    for (int i = 0; i < now->threads; i++)
        if (now->fibers[i].now == READY) {
            any = true;
            to_fiber(&now->fibers[i]);
        }
    return any;
}

void run_block(const cudaLaunchConfig_t &c, dim3 at) {
    blockIdx = at, blockDim = c.blockDim, gridDim = c.gridDim;
    begin_block(c);
    uint64_t seen = progress;
    for (int idle = 0; now->live; idle = progress != seen || !bulks.empty() ? 0 : idle + waited, seen = progress) {
        waited = false;
        if (!turn_block()) give_up("all threads wait, some at __syncthreads, some for their warp");
        let_copies_arrive();
        if (idle > 100000) give_up("a block waits for ever");
    }
    if (!bulks.empty()) give_up("a block ends with bulk copies under way");
}

/* ---- warp operations ---- */

float half_of(uint32_t pair, int which, bool f16) { return f16 ? f16_to_f32((uint16_t)(pair >> which * 16)) : bf16_to_f32((uint16_t)(pair >> which * 16)); }

void do_mma(warp *w, bool f16) { /* m16n8k16: A rows g and g + 8, columns 2t, 2t + 1 and + 8; B rows (k) 2t.. of column g; C rows g, g + 8, columns 2t, 2t + 1 */
    float a[16][16], b[16][8], c[16][8];
    for (int l = 0; l < 32; l++) {
        int g = l / 4, t = l % 4;
        for (int e = 0; e < 8; e++) a[g + (e / 2) % 2 * 8][t * 2 + e % 2 + e / 4 * 8] = half_of(w->lane[l].a[e / 2], e % 2, f16);
        for (int e = 0; e < 4; e++) b[t * 2 + e % 2 + e / 2 * 8][g] = half_of(w->lane[l].b[e / 2], e % 2, f16);
        for (int e = 0; e < 4; e++) c[g + e / 2 * 8][t * 2 + e % 2] = w->lane[l].c[e];
    }
    for (int m = 0; m < 16; m++)
        for (int k = 0; k < 16; k++)
            for (int n = 0; n < 8; n++) c[m][n] += a[m][k] * b[k][n];
    for (int l = 0; l < 32; l++)
        for (int e = 0; e < 4; e++) w->lane[l].c[e] = c[l / 4 + e / 2 * 8][l % 4 * 2 + e % 2];
}

void do_ldmatrix(warp *w, bool turned) { /* lane i points to row i % 8 of matrix i / 8; lane l receives row l / 4, columns 2 (l % 4), + 1 */
    uint16_t m[4][8][8];
    for (int l = 0; l < 32; l++) {
        if ((uintptr_t)w->lane[l].p % 16) give_up("ldmatrix: a row is not aligned to 16 bytes");
        memcpy(m[l / 8][l % 8], w->lane[l].p, 16);
    }
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            int r = l / 4, c = l % 4 * 2;
            uint16_t lo = turned ? m[i][c][r] : m[i][r][c], hi = turned ? m[i][c + 1][r] : m[i][r][c + 1];
            w->lane[l].a[i] = lo | (uint32_t)hi << 16;
        }
}

void do_turn(warp *w) {
    uint16_t m[8][8];
    for (int l = 0; l < 32; l++) m[l / 4][l % 4 * 2] = (uint16_t)w->lane[l].a[0], m[l / 4][l % 4 * 2 + 1] = (uint16_t)(w->lane[l].a[0] >> 16);
    for (int l = 0; l < 32; l++) w->lane[l].a[0] = m[l % 4 * 2][l / 4] | (uint32_t)m[l % 4 * 2 + 1][l / 4] << 16;
}

void do_shuffle(warp *w) {
    uint32_t in[32];
    for (int l = 0; l < 32; l++) in[l] = w->lane[l].a[0];
    for (int l = 0; l < 32; l++) {
        int k = w->lane[l].kind, n = w->lane[l].argument;
        int from = k == EMULATED_XOR ? l ^ n : k == EMULATED_INDEX ? n & 31 : k == EMULATED_DOWN ? l + n : l - n;
        if (from >= 0 && from < 32) w->lane[l].a[0] = in[from];
    }
}

void complete(warp *w) {
    if (w->kind == SHUFFLE) do_shuffle(w);
    else if (w->kind == MMA || w->kind == MMA_F16) do_mma(w, w->kind == MMA_F16);
    else if (w->kind == TURN) do_turn(w);
    else if (w->kind == LDMATRIX || w->kind == LDMATRIX_TURNED) do_ldmatrix(w, w->kind == LDMATRIX_TURNED);
    else if (w->kind == BALLOT) {
        uint32_t bits = 0;
        for (int l = 0; l < 32; l++) bits |= (w->lane[l].a[0] ? 1u : 0u) << l;
        for (int l = 0; l < 32; l++) w->lane[l].a[0] = bits;
    }
    w->arrived = 0;
    int first = (int)(w - now->warps) * 32;
    for (int i = first; i < first + 32 && i < now->threads; i++)
        if (now->fibers[i].now == WAITING && !now->at_barrier[i]) now->fibers[i].now = READY;
}

slot *mine() { return &now->warps[current->index / 32].lane[current->index % 32]; }

void meet(meeting kind) {
    warp *w = &now->warps[current->index / 32];
    if (w->arrived && w->kind != kind) {
        char what[160];
        snprintf(what, sizeof what, "lanes of one warp meet at %s and at %s", meeting_name[w->kind], meeting_name[kind]);
        give_up(what);
    }
    w->kind = kind;
    if (++w->arrived == w->live) {
        complete(w);
        return;
    }
    current->now = WAITING;
    to_main(false);
}

/* ---- streams ---- */

std::recursive_mutex lock;
std::set<emulated_stream *> streams;
std::map<const void *, size_t> limits;
cudaError_t last_error = cudaSuccess;
bool backwards;

block *block_number(size_t i) {
    static std::vector<block *> all;
    while (all.size() <= i) {
        block *b = new block();
        b->fibers = new fiber[MOST_THREADS]();
        b->shared = (char *)aligned_alloc(1024, SHARED_BYTES + 1024);
        all.push_back(b);
    }
    return all[i];
}

void check_phase(shared_barrier *b) {
    if (b->pending || b->bytes) return;
    b->phase ^= 1, b->pending = (int16_t)b->count;
    progress++;
}

/* Some of the copies under way arrive, not in the order of their beginning. */
void let_copies_arrive() {
    static uint32_t random = 1;
    for (size_t i = 0; i < bulks.size();) {
        random = random * 1664525 + 1013904223;
        if (random >> 30) {
            i++;
            continue;
        }
        bulk c = bulks[i];
        bulks[i] = bulks.back();
        bulks.pop_back();
        memcpy(c.to, c.from, c.bytes);
        c.barrier->bytes -= (int)c.bytes;
        check_phase(c.barrier);
        progress++;
    }
}

void run_together(const cudaLaunchConfig_t &c, int64_t blocks, const std::function<void()> &body) {
    blockDim = c.blockDim, gridDim = c.gridDim;
    for (int64_t i = 0; i < blocks; i++) {
        now = block_number((size_t)i);
        now->body = body;
        blockIdx = dim3((unsigned)i);
        begin_block(c);
    }
    uint64_t seen = progress;
    int idle = 0;
    for (bool any = true; any; idle = progress == seen && bulks.empty() ? idle + 1 : 0, seen = progress) {
        any = false;
        for (int64_t n = 0; n < blocks; n++) {
            int64_t i = backwards ? blocks - 1 - n : n;
            now = block_number((size_t)i);
            blockIdx = dim3((unsigned)i);
            if (!now->live) continue;
            any = true;
            if (!turn_block()) give_up("all threads of a block wait for one another");
        }
        let_copies_arrive();
        if (idle > 100000) give_up("blocks that run together wait for ever");
    }
    if (!bulks.empty()) give_up("a kernel ends with bulk copies under way");
}

void run_grid(const cudaLaunchConfig_t &c, const std::function<void()> &body, bool cooperative) {
    int64_t blocks = (int64_t)c.gridDim.x * c.gridDim.y * c.gridDim.z;
    backwards = !backwards;
    if (cooperative) {
        run_together(c, blocks, body);
        return;
    }
    now = block_number(0);
    now->body = body;
    for (int64_t n = 0; n < blocks; n++) {
        int64_t i = backwards ? blocks - 1 - n : n;
        run_block(c, dim3((unsigned)(i % c.gridDim.x), (unsigned)(i / c.gridDim.x % c.gridDim.y), (unsigned)(i / c.gridDim.x / c.gridDim.y)));
    }
}

}  // namespace

dim3 threadIdx, blockIdx, blockDim, gridDim;

struct emulated_graph {
    std::vector<std::function<void()>> work;
};
struct emulated_stream {
    std::deque<std::function<void()>> work;
    uint64_t queued, done;
    emulated_graph *capture;
    int device;
};
struct emulated_event {
    emulated_stream *stream;
    uint64_t at;
    int device;
};

static void drain(emulated_stream *s, uint64_t upto) {
    while (s->done < upto && !s->work.empty()) {
        std::function<void()> f = s->work.front();
        s->work.pop_front();
        s->done++;
        f();
    }
}
static cudaError_t put(emulated_stream *s, std::function<void()> f) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (!s) {
        for (emulated_stream *other : streams) drain(other, UINT64_MAX);
        f();
    } else if (s->capture) s->capture->work.push_back(f);
    else s->work.push_back(f), s->queued++;
    return cudaSuccess;
}

void *emulated_shared() { return now->shared; }
void __syncthreads() {
    if (++now->arrived == now->live) {
        leave_barrier();
        return;
    }
    now->at_barrier[current->index] = true;
    current->now = WAITING;
    to_main(false);
}
void __syncwarp(unsigned) { meet(SYNCWARP); }
uint32_t emulated_shuffle(uint32_t v, int kind, int argument) {
    slot *s = mine();
    s->a[0] = v, s->kind = kind, s->argument = argument;
    meet(SHUFFLE);
    return s->a[0];
}
unsigned __ballot_sync(unsigned, int predicate) {
    mine()->a[0] = (uint32_t)predicate;
    meet(BALLOT);
    return mine()->a[0];
}
void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    slot *s = mine();
    memcpy(s->c, c, sizeof s->c);
    memcpy(s->a, a, sizeof s->a);
    s->b[0] = b0, s->b[1] = b1;
    meet(MMA);
    memcpy(c, s->c, sizeof s->c);
}
void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    slot *s = mine();
    memcpy(s->c, c, sizeof s->c);
    memcpy(s->a, a, sizeof s->a);
    s->b[0] = b0, s->b[1] = b1;
    meet(MMA_F16);
    memcpy(c, s->c, sizeof s->c);
}
void load_matrices(uint32_t r[4], const void *p) {
    mine()->p = p;
    meet(LDMATRIX);
    memcpy(r, mine()->a, 16);
}
void load_matrices_turned(uint32_t r[4], const void *p) {
    mine()->p = p;
    meet(LDMATRIX_TURNED);
    memcpy(r, mine()->a, 16);
}
uint32_t turn_matrix(uint32_t v) {
    mine()->a[0] = v;
    meet(TURN);
    return mine()->a[0];
}
void copy_async_16(void *to, const void *from) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) give_up("cp.async: not aligned to 16 bytes");
    current->open.push_back({to, from});
}
void copy_async_commit() {
    current->groups.push_back(current->open);
    current->open.clear();
}
void emulated_copy_wait(int left) {
    while ((int)current->groups.size() > left) {
        for (const copy &c : current->groups.front()) memcpy(c.to, c.from, 16);
        current->groups.pop_front();
    }
}
void wait_a_little() {
    waited = true;
    to_main(false);
}
void gate_init(uint64_t *p, int count) { *(shared_barrier *)p = {(uint16_t)count, (int16_t)count, 0, 0}; }
void gate_arrive_for(uint64_t *p, int count) {
    shared_barrier *b = (shared_barrier *)p;
    if ((b->pending -= (int16_t)count) < 0) give_up("more arrivals at a gate than it counts");
    check_phase(b);
}
void gate_arrive(uint64_t *p) { gate_arrive_for(p, 1); }
void gate_expect(uint64_t *p, unsigned bytes) {
    ((shared_barrier *)p)->bytes += (int)bytes;
    gate_arrive(p);
}
void gate_wait(uint64_t *p, unsigned parity) {
    while (((volatile shared_barrier *)p)->phase == (parity & 1)) wait_a_little();
}
void copy_bulk(void *to, const void *from, unsigned bytes, uint64_t *p) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16 || bytes % 16 || !bytes) give_up("a bulk copy that is not of 16 byte pieces");
    if ((char *)to < now->shared || (char *)to + bytes > now->shared + SHARED_BYTES) give_up("a bulk copy out of shared memory");
    bulks.push_back({to, from, bytes, (shared_barrier *)p});
}
void emulated_some_arrive(int id, int threads) {
    if (++now->some[id].arrived == threads) {
        now->some[id].arrived = 0, now->some[id].turn++;
        progress++;
    }
}
void emulated_some_sync(int id, int threads) {
    unsigned turn = now->some[id].turn;
    emulated_some_arrive(id, threads);
    if (now->some[id].turn != turn) return;
    block *mine = now;
    while (((volatile unsigned &)mine->some[id].turn) == turn) wait_a_little();
}
uint8_t e4m3_of(float x) { /* nearest, ties to even, saturating */
    uint8_t sign = signbit(x) ? 0x80 : 0;
    float v = fabsf(x);
    if (v != v) return sign | 0x7F;
    if (v >= 448.0f) return sign | 0x7E;
    int best = 0;
    for (int i = 1; i < 0x7F; i++) {
        float d = fabsf(e4m3_to_f32((uint8_t)i) - v), b = fabsf(e4m3_to_f32((uint8_t)best) - v);
        if (d < b || (d == b && i % 2 == 0)) best = i;
    }
    return sign | (uint8_t)best;
}

const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaSuccess ? "no error" : e == cudaErrorMemoryAllocation ? "out of memory" : e == cudaErrorInvalidConfiguration ? "invalid configuration argument" : "invalid argument";
}
cudaError_t cudaGetLastError() {
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}
/* EMULATED_DEVICES: how many there are. As on real ones a kernel runs on the thread's device, whose the stream must be; each has memory of
 * its own. */
static thread_local int current_device;
cudaError_t cudaGetDeviceCount(int *count) {
    const char *s = getenv("EMULATED_DEVICES");
    return *count = s ? atoi(s) : 1, cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    int count;
    cudaGetDeviceCount(&count);
    if (device < 0 || device >= count) return last_error = cudaErrorInvalidValue;
    return current_device = device, cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) { return *device = current_device, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int) {
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated");
    p->major = 9, p->multiProcessorCount = 6, p->totalGlobalMem = (size_t)1 << 32, p->sharedMemPerBlockOptin = SHARED_BYTES, p->l2CacheSize = 50 << 20;
    return cudaSuccess;
}

/* EMULATED_BYTES: device memory that there is, for tests of what happens when it is used up. */
static size_t device_total() {
    const char *s = getenv("EMULATED_BYTES");
    return s ? strtoull(s, NULL, 10) : (size_t)4 << 30;
}
struct held_memory {
    size_t bytes;
    int device;
};
static std::map<void *, held_memory> held;
enum { MOST_DEVICES = 16 };
static size_t held_bytes[MOST_DEVICES];
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    *total = device_total();
    size_t used = held_bytes[current_device % MOST_DEVICES];
    *free_bytes = *total > used ? *total - used : 0;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t bytes) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    *p = NULL;
    int device = current_device % MOST_DEVICES;
    if (held_bytes[device] + bytes > device_total() || posix_memalign(p, 256, bytes ? bytes : 1)) return last_error = cudaErrorMemoryAllocation;
    memset(*p, 0xFF, bytes);
    held[*p] = {bytes, device}, held_bytes[device] += bytes;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (!p) return cudaSuccess;
    for (emulated_stream *s : streams) drain(s, UINT64_MAX);
    if (!held.count(p)) abort();
    held_bytes[held[p].device] -= held[p].bytes;
    held.erase(p);
    free(p);
    return cudaSuccess;
}
static std::map<const char *, size_t> host_held;
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (posix_memalign(p, 256, bytes ? bytes : 1)) return cudaErrorMemoryAllocation;
    memset(*p, 0xFF, bytes);
    host_held[(const char *)*p] = bytes;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    host_held.erase((const char *)p);
    return free(p), cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    auto at = host_held.upper_bound((const char *)p);
    *a = {};
    if (at == host_held.begin()) return cudaSuccess;
    --at;
    if ((const char *)p < at->first + at->second) *a = {cudaMemoryTypeHost, current_device, (void *)p, (void *)p};
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind, cudaStream_t s) { return put(s, [=] { memcpy(to, from, n); }); }
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind, cudaStream_t s) {
    return put(s, [=] {
        for (size_t r = 0; r < height; r++) memcpy((char *)to + r * to_pitch, (const char *)from + r * from_pitch, width);
    });
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind k) { return cudaMemcpyAsync(to, from, n, k, NULL); }
cudaError_t cudaMemsetAsync(void *to, int value, size_t n, cudaStream_t s) { return put(s, [=] { memset(to, value, n); }); }
cudaError_t cudaMemset(void *to, int value, size_t n) { return cudaMemsetAsync(to, value, n, NULL); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    *s = new emulated_stream();
    (*s)->device = current_device;
    streams.insert(*s);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    drain(s, UINT64_MAX);
    streams.erase(s);
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    drain(s, UINT64_MAX);
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
    std::lock_guard<std::recursive_mutex> hold(lock);
    for (emulated_stream *s : streams) drain(s, UINT64_MAX);
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) { return *e = new emulated_event(), (*e)->device = current_device, cudaSuccess; }
cudaError_t cudaEventDestroy(cudaEvent_t e) { return delete e, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (s && s->device != e->device) return last_error = cudaErrorInvalidValue;
    e->stream = s, e->at = s ? s->queued : 0;
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (e->stream) drain(e->stream, e->at);
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) { return *ms = 1, cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    emulated_event at = *e;
    return put(s, [=] {
        if (at.stream) drain(at.stream, at.at);
    });
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) { return s->capture = new emulated_graph(), cudaSuccess; }
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    *g = s->capture;
    s->capture = NULL;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t g, unsigned long long) { return *exec = new emulated_graph(*g), cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
    std::vector<std::function<void()>> work = exec->work;
    return put(s, [work] {
        for (const auto &f : work) f();
    });
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) { return delete g, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }

cudaError_t emulated_function_limit(const void *function, size_t shared) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    if (shared > SHARED_BYTES) return last_error = cudaErrorInvalidValue;
    limits[function] = shared;
    return cudaSuccess;
}
cudaError_t emulated_launch(const cudaLaunchConfig_t *c, const void *function, std::function<void()> body) {
    std::lock_guard<std::recursive_mutex> hold(lock);
    const dim3 &g = c->gridDim, &b = c->blockDim;
    if (c->stream && c->stream->device != current_device) return last_error = cudaErrorInvalidValue;
    size_t most = limits.count(function) ? limits[function] : 48 << 10;
    if (!g.x || !g.y || !g.z || g.y > 65535 || g.z > 65535 || g.x > 0x7FFFFFFF || !b.x || b.x * b.y * b.z > MOST_THREADS || c->dynamicSmemBytes > most)
        return last_error = cudaErrorInvalidConfiguration;
    cudaLaunchConfig_t config = *c;
    bool cooperative = false;
    for (unsigned i = 0; i < c->numAttrs; i++) cooperative = cooperative || (c->attrs[i].id == cudaLaunchAttributeCooperative && c->attrs[i].val.cooperative);
    config.attrs = NULL;
    return put(c->stream, [=] { run_grid(config, body, cooperative); });
}
