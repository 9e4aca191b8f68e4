.PHONY: bench-company
## make bench-company  scheduling of many games on a pretended device: BENCH_ARGS="--games N --words N"
bench-company: $(BUILD)/bench_company
	@$(BUILD)/bench_company $(BENCH_ARGS)
$(BUILD)/bench_company: bench/bench_company.c $(BUILD)/libqwen3vl.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ bench/bench_company.c $(BUILD)/libqwen3vl.a $(LIB_LIBS)
