.PHONY: bench-prompt-cache
## make bench-prompt-cache  restore and miss of the prompt cache: BENCH_ARGS="restore MODEL FOLDER" (needs 2.3 GB for 2B); on a GPU "host MODEL -"
bench-prompt-cache: $(BUILD)/bench_prompt_cache
	@$(BUILD)/bench_prompt_cache $(BENCH_ARGS)
$(BUILD)/bench_prompt_cache: bench/bench_prompt_cache.c $(BUILD)/libqwen3vl.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ bench/bench_prompt_cache.c $(BUILD)/libqwen3vl.a $(LIB_LIBS)

.PHONY: bench-pictures
## make bench-pictures  pictures through the vision tower, several in one pass: BENCH_ARGS="MODEL [DEVICE]"
bench-pictures: $(BUILD)/bench_pictures
	@$(BUILD)/bench_pictures $(BENCH_ARGS)
$(BUILD)/bench_pictures: bench/bench_pictures.c $(BUILD)/libqwen3vl.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ bench/bench_pictures.c $(BUILD)/libqwen3vl.a $(LIB_LIBS)
