# Benchmarks; each prints its yardstick beside its figures. oneDNN (package libdnnl-dev) is used when it is there.
dnnl := $(if $(wildcard /usr/include/oneapi/dnnl/dnnl.h),-DHAVE_DNNL)
.PHONY: bench-ops
## make bench-ops   speed of the CPU operations beside read bandwidth and oneDNN
bench-ops: $(BUILD)/bench_ops
	@OMP_NUM_THREADS=$${BENCH_THREADS:-2} $(BUILD)/bench_ops $(BENCH_ARGS)
$(BUILD)/bench_ops: bench/bench_ops.c bench/onednn.c tests/ops_data.h $(BUILD)/libqwen3vl.a
	$(CC) $(CFLAGS_ALL) -Itests $(dnnl) $(LDFLAGS_ALL) -o $@ bench/bench_ops.c bench/onednn.c $(BUILD)/libqwen3vl.a $(if $(dnnl),-ldnnl) $(LIB_LIBS)
.PHONY: bench-step
## make bench-step  a CPU decode step of the model in BENCH_MODEL beside the read bandwidth of memory and of its own weights
bench-step: $(BUILD)/bench_step
	@$(BUILD)/bench_step $(or $(BENCH_MODEL),models/tinywoods-vl) $(BENCH_ARGS)
$(BUILD)/bench_step: bench/bench_step.c $(BUILD)/libqwen3vl.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ bench/bench_step.c $(BUILD)/libqwen3vl.a $(LIB_LIBS)
