.PHONY: bench-memory
## make bench-memory  retrieval: recall and time of a search in 100,000 vectors
bench-memory: $(BUILD)/bench_memory $(BUILD)/libpmd-faiss.so
	@$(BUILD)/bench_memory $(BENCH_ARGS)
bench_memory_sources := bench/bench_memory.c $(addprefix src/memory/,vector_index.c vector_file.c vector_math.c silo.c faiss_library.c)
$(BUILD)/bench_memory: $(bench_memory_sources) bench/vector_data.h $(wildcard src/memory/*.h) $(BUILD)/libqwen3vl.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $(bench_memory_sources) $(BUILD)/libqwen3vl.a $(LIB_LIBS) -ldl
.PHONY: bench-path
## make bench-path    path finding, decoding and what is seen, on the floors of Tiny Woods
bench-path: $(BUILD)/bench_path
	@$(BUILD)/bench_path $(BENCH_ARGS)
$(BUILD)/bench_path: $(BUILD)/obj/bench/bench_path.o $(filter-out $(BUILD)/obj/src/app/main.o,$(app_objs)) $(BUILD)/libqwen3vl.a
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(APP_LIBS) $(LIB_LIBS)
