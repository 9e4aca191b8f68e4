/* The CUDA backend's yardsticks: numbers that are numbers, nothing held afterwards, and a sentence when there is no room for them. */
#include <math.h>

#include "backend/cuda/cuda.h"
#include "test.h"

static void limits_are_measured(void **state) {
    (void)state;
    struct err err = {0};
    const struct backend_options o = {0};
    struct backend_ceilings c;
    setenv("EMULATED_BYTES", "268435456", 1); /* a GPU does not look at it */
    if (!cuda_available(&err)) skip_because("%s", err.message);
    size_t before = cuda_memory_free(NULL);
    if (backend_cuda.ceilings(&o, &c, &err)) fail_msg("%s", err.message);
    assert_true(isfinite(c.read_bytes) && c.read_bytes > 0);
    assert_true(isfinite(c.product_flops) && c.product_flops >= 0);
    size_t total, after = cuda_memory_free(&total);
    if (total != 268435456) return; /* on a GPU others may take and give memory */
    assert_int_equal(after, before);
    setenv("EMULATED_BYTES", "33554432", 1);
    assert_int_equal(backend_cuda.ceilings(&o, &c, &err), ERR_LIMIT);
    assert_non_null(strstr(err.message, "too little device memory"));
    assert_int_equal(cuda_memory_free(NULL), 33554432);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(limits_are_measured)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
