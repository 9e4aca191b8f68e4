.PHONY: bench-serve
## make bench-serve  the server's overhead over the engine, 256 streams, 1,000 idle connections
bench-serve: $(BUILD)/bench_serve
	@$(BUILD)/bench_serve $(BENCH_ARGS)
$(BUILD)/bench_serve: bench/bench_serve.c tests/http_client.h $(filter-out $(BUILD)/obj/src/app/%.o,$(app_objs)) $(BUILD)/libqwen3vl.a
	$(CC) $(CFLAGS_ALL) -Itests $(LDFLAGS_ALL) -o $@ $(filter-out %.h,$^) $(APP_LIBS) $(LIB_LIBS)
