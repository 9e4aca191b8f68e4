# Sweeps of `pmd-agent bench`. The binary is the engine's own where there is no game library (a bare GPU machine).
.PHONY: bench bench-gpu bench-overhead bench-plots
BENCH_OUT ?= build/bench
BENCH_BIN := $(BUILD)/pmd-agent
BENCH_COMMON := --json $(BENCH_OUT)/cpu.json --csv $(BENCH_OUT)/cpu.csv --resume --device cpu

## make bench       a CPU sweep in under 3 minutes: the bundled model, and the shape of 2B FP8 with random weights
bench: $(BENCH_BIN)
	@mkdir -p $(BENCH_OUT)
	@rm -f $(BENCH_OUT)/cpu.json $(BENCH_OUT)/cpu.csv
	@$(BENCH_BIN) bench --models models/tinywoods-vl $(BENCH_COMMON) --contexts 256,1k,2k --batches 1,4 --best-of 1,4 --time-budget-s 6 --max-wall 50 || [ $$? -eq 3 ]
	@$(BENCH_BIN) bench --models models/tinywoods-vl $(BENCH_COMMON) --contexts 1k --tasks picture-simple,picture-complex,mixed --time-budget-s 6 --max-wall 20 || [ $$? -eq 3 ]
	@$(BENCH_BIN) bench --models 2b-fp8 --random-weights $(BENCH_COMMON) --contexts 128,256 --batches 1,4 --answer-tokens 16 --time-budget-s 40 --max-wall 90 || [ $$? -eq 3 ]

# One part fits ten minutes on one H100 and measures the device's limits itself; what is there already is not measured again.
#   make bench-gpu PART=decode     (without PART all of them, one after the other)
# GPU_WEIGHTS=DIR keeps the random weights there for the next part.
GPU_FLAGS = --random-weights $(if $(GPU_WEIGHTS),--weights-dir $(GPU_WEIGHTS)) --device cuda --json $(BENCH_OUT)/gpu-$1.json --csv $(BENCH_OUT)/gpu-$1.csv --resume --max-wall 560
GPU_MODELS ?= all
# A minute: the sizes of the issue's table, a cell a second.
GPU_QUICK ?= 2b-fp8,2b-nf4,4b-nf4,8b-nf4
define gpu_quick
$(BENCH_BIN) bench --models $(GPU_QUICK) $(call GPU_FLAGS,quick) --max-wall 60 --contexts 1k --batches 1,8,64 --answer-tokens 64 --repeats 2 --time-budget-s 4
endef
define gpu_decode
$(BENCH_BIN) bench --models $(GPU_MODELS) $(call GPU_FLAGS,decode) --contexts 1k --batches 1,8,64 --best-of 1,8 --answer-tokens 128
endef
define gpu_bases
$(BENCH_BIN) bench --models bases $(call GPU_FLAGS,bases) --contexts 1k --batches 1,8,64 --best-of 1,8 --answer-tokens 128
endef
define gpu_context
$(BENCH_BIN) bench --models $(GPU_MODELS) $(call GPU_FLAGS,context) --contexts 1k-256k --batches 1,8 --answer-tokens 64 --time-budget-s 30
endef
define gpu_crowd
$(BENCH_BIN) bench --models $(GPU_MODELS) $(call GPU_FLAGS,crowd) --contexts 256,1k --batches 16,32,128,256,512 --answer-tokens 64 --time-budget-s 30
endef
define gpu_pictures
$(BENCH_BIN) bench --models $(GPU_MODELS) $(call GPU_FLAGS,pictures) --contexts 1k,4k --tasks picture-simple,picture-complex,mixed --image-text-ratios 0.25,0.5,0.75
endef
## make bench-gpu   the GPU sweep in parts of under 10 minutes (PART=decode|bases|context|crowd|pictures), each resumable;
##                  PART=quick: twelve cells in a minute
bench-gpu: $(BENCH_BIN)
	@mkdir -p $(BENCH_OUT)
	$(if $(PART),$(gpu_$(PART)),$(gpu_decode); $(gpu_bases); $(gpu_context); $(gpu_crowd); $(gpu_pictures))

## make bench-plots pictures of the sweeps in build/bench (gnuplot-nox, fonts-dejavu-core)
bench-plots: $(BENCH_BIN)
	@for f in $(BENCH_OUT)/*.json; do $(BENCH_BIN) bench --plot $$f || exit 1; done

## make bench-overhead  what the benchmark itself adds to a token, on a model that computes nothing
bench-overhead: $(BUILD)/bench_overhead
	@$(BUILD)/bench_overhead $(BENCH_ARGS)
bench_overhead_objs := $(BUILD)/obj/src/bench/measure.o $(BUILD)/obj/src/bench/estimate.o $(BUILD)/obj/src/bench/prompts.o \
                       $(BUILD)/obj/src/bench/meter.o
$(BUILD)/bench_overhead: bench/bench_overhead.c $(bench_overhead_objs) $(BUILD)/libqwen3vl.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ $(LIB_LIBS) -ldl
## make bench-host  what the engine adds on the host to a decode step and to a first token, at the 2B shape, on a backend that computes nothing
.PHONY: bench-host
bench-host: $(BUILD)/bench_host
	@$(BUILD)/bench_host $(BENCH_ARGS)
bench_host_objs := $(patsubst %,$(BUILD)/obj/src/bench/%.o,random_checkpoint random_config random_numbers shapes)
$(BUILD)/bench_host: bench/bench_host.c $(bench_host_objs) $(BUILD)/libqwen3vl.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $^ $(LIB_LIBS) -ldl
