/* oneDNN 2.x as the yardstick of prefill: y (m, n) fp32 = x (m, k) bf16 times w (k, n) bf16, weights in the layout it likes best. */
#include "onednn.h"

#ifdef HAVE_DNNL
#include <oneapi/dnnl/dnnl.h>
#include <stddef.h>
#include <stdlib.h>

double onednn_seconds(int64_t m, int64_t n, int64_t k, int repeats) {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_dims_t xs = {m, k}, ws = {k, n}, ys = {m, n};
    dnnl_memory_desc_t x, w, y;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_desc_t pd;
    dnnl_primitive_t matmul;
    if (dnnl_engine_create(&engine, dnnl_cpu, 0) || dnnl_stream_create(&stream, engine, dnnl_stream_default_flags)) return 0;
    dnnl_memory_desc_init_by_tag(&x, 2, xs, dnnl_bf16, dnnl_ab);
    dnnl_memory_desc_init_by_tag(&w, 2, ws, dnnl_bf16, dnnl_format_tag_any);
    dnnl_memory_desc_init_by_tag(&y, 2, ys, dnnl_f32, dnnl_ab);
    if (dnnl_matmul_desc_init(&desc, &x, &w, NULL, &y) || dnnl_primitive_desc_create(&pd, &desc, NULL, engine, NULL) ||
        dnnl_primitive_create(&matmul, pd))
        return 0;
    const dnnl_memory_desc_t *chosen = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    dnnl_memory_t mx, mw, my;
    dnnl_memory_create(&mx, &x, engine, DNNL_MEMORY_ALLOCATE);
    dnnl_memory_create(&mw, chosen, engine, DNNL_MEMORY_ALLOCATE);
    dnnl_memory_create(&my, &y, engine, DNNL_MEMORY_ALLOCATE);
    void *p;
    dnnl_memory_get_data_handle(mx, &p);
    for (int64_t i = 0; i < m * k; i++) ((uint16_t *)p)[i] = 0x3c00;
    dnnl_memory_get_data_handle(mw, &p);
    for (size_t i = 0; i < dnnl_memory_desc_get_size(chosen) / 2; i++) ((uint16_t *)p)[i] = 0x3c00;
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, mx}, {DNNL_ARG_WEIGHTS, mw}, {DNNL_ARG_DST, my}};
    double best = 1e9;
    for (int i = 0; i < repeats; i++) {
        double t = bench_seconds();
        dnnl_primitive_execute(matmul, stream, 3, args);
        dnnl_stream_wait(stream);
        t = bench_seconds() - t;
        if (t < best) best = t;
    }
    dnnl_memory_destroy(mx);
    dnnl_memory_destroy(mw);
    dnnl_memory_destroy(my);
    dnnl_primitive_destroy(matmul);
    dnnl_primitive_desc_destroy(pd);
    dnnl_stream_destroy(stream);
    dnnl_engine_destroy(engine);
    return best;
}
#else
double onednn_seconds(int64_t m, int64_t n, int64_t k, int repeats) {
    (void)m, (void)n, (void)k, (void)repeats;
    return 0;
}
#endif
