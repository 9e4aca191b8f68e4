# Fuzz targets: every fuzz/fuzz_NAME.c becomes build/fuzz/NAME (clang's libFuzzer with ASan and UBSan).
#   make fuzz                    build all and run each for FUZZ_SECONDS (default 60)
#   make build/fuzz/tokenizer    build one
# The dashboard (generated pages) is left out. Seeds lie in fuzz/seeds/NAME; what a run finds is kept in build/fuzz/corpus/NAME.
FUZZ_SECONDS ?= 60
FUZZ_ROOMS := base checkpoint text vision game record emulator hub serve
FUZZ_FLAGS := -std=gnu17 -D_GNU_SOURCE -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined -Isrc -Iinclude -pthread
fuzz_objs := $(patsubst %.c,build/fuzz/obj/%.o,$(filter-out src/serve/dash%,$(sort $(foreach r,$(FUZZ_ROOMS),$(wildcard src/$(r)/*.c)))))
fuzz_names := $(patsubst fuzz/fuzz_%.c,%,$(sort $(wildcard fuzz/fuzz_*.c)))

## make fuzz        build the fuzz targets and run each for FUZZ_SECONDS (default 60)
fuzz: $(addprefix build/fuzz/,$(fuzz_names))
	@for n in $(fuzz_names); do \
	    mkdir -p build/fuzz/corpus/$$n fuzz/seeds/$$n; \
	    echo "fuzzing $$n for $(FUZZ_SECONDS) s"; \
	    build/fuzz/$$n -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=3000 -print_final_stats=1 -artifact_prefix=build/fuzz/ \
	        build/fuzz/corpus/$$n fuzz/seeds/$$n 2>build/fuzz/$$n.log \
	        || { tail -30 build/fuzz/$$n.log; exit 1; }; \
	    grep -E 'number_of_executed_units|peak_rss_mb' build/fuzz/$$n.log; \
	done

build/fuzz/lib.a: $(fuzz_objs)
	@rm -f $@ && ar rcs $@ $^
# Engine and CPU backend (intrinsics in the way of gcc) are not instrumented: they come from the library as it is built.
build/fuzz/%: build/fuzz/obj/fuzz/fuzz_%.o build/fuzz/lib.a build/libqwen3vl.a
	clang -fsanitize=fuzzer,address,undefined -pthread -o $@ $^ $(APP_LIBS) $(LIB_LIBS)
build/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	clang $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -MMD -MP -c -o $@ $<
.PRECIOUS: build/fuzz/obj/%.o
-include $(shell find build/fuzz/obj -name '*.d' 2>/dev/null)
