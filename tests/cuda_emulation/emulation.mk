# The CUDA tests: emulated on any machine (part of `make test`), and built for a GPU.
cuda_tests := $(basename $(notdir $(wildcard tests/test_cuda_*.c tests/test_cuda_*.cu)))
emulated_objs := $(patsubst %.cu,$(BUILD)/emulated/%.o,$(wildcard src/backend/cuda/*.cu)) $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard src/backend/cuda/*.c)) $(BUILD)/emulated/emulation.o
# What asks whether the program has CUDA: here it has, with nvcc or without.
emulated_objs += $(patsubst %,$(BUILD)/emulated/src/engine/%.o,model memory_plan replicas)
$(BUILD)/emulated/src/engine/%.o: CFLAGS_ALL += -DHAVE_CUDA
# Device code reads one type's memory as another's, which nvcc allows.
EMULATED_FLAGS := -std=gnu++17 -D_GNU_SOURCE -O2 -g -fno-strict-aliasing -Wall -Wextra -Werror -Wno-unknown-pragmas -Wno-missing-field-initializers -Wno-maybe-uninitialized \
                  -Itests/cuda_emulation -Itests -Isrc -Iinclude -pthread $(if $(SAN),-fsanitize=address$(comma)undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined -O1)
EMULATED_CXX := $(filter %ccache,$(CC)) g++

$(BUILD)/emulated/%.o: %.cu
	@mkdir -p $(@D)
	$(EMULATED_CXX) -x c++ $(EMULATED_FLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/emulated/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Itests -MMD -MP -c -o $@ $<
$(BUILD)/emulated/emulation.o: tests/cuda_emulation/emulation.cc
	@mkdir -p $(@D)
	$(EMULATED_CXX) $(EMULATED_FLAGS) -MMD -MP -c -o $@ $<
# Checkpoints at real shapes.
cuda_memory_objs := $(patsubst %,$(BUILD)/obj/src/bench/%.o,random_checkpoint random_config random_numbers shapes)
$(BUILD)/tests/test_cuda_memory $(BUILD)/gpu/test_cuda_memory: $(cuda_memory_objs)
# In front of the library: the emulated backend takes the place of the built one.
$(addprefix $(BUILD)/tests/,$(cuda_tests)): $(BUILD)/tests/%: $(BUILD)/emulated/tests/%.o $(emulated_objs) $(BUILD)/libqwen3vl.a
	@mkdir -p $(@D)
	g++ $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(LIB_LIBS) -ldl

## make test-gpu    the CUDA tests on this machine's GPU
gpu_tests := $(addprefix $(BUILD)/gpu/,$(cuda_tests))
$(gpu_tests): $(BUILD)/gpu/%: $(BUILD)/obj/tests/%.o $(BUILD)/libqwen3vl.a
	@mkdir -p $(@D)
	g++ $(LDFLAGS_ALL) -Wl,-rpath,'$$ORIGIN' -o $@ $^ -lcmocka $(LIB_LIBS) -ldl
$(BUILD)/gpu/bench_%: $(BUILD)/obj/bench/bench_%.o $(BUILD)/libqwen3vl.a
	@mkdir -p $(@D)
	g++ $(LDFLAGS_ALL) -o $@ $^ $(LIB_LIBS) -ldl
$(BUILD)/emulated/bench_%: $(BUILD)/emulated/bench/bench_%.o $(emulated_objs) $(BUILD)/libqwen3vl.a
	g++ $(LDFLAGS_ALL) -o $@ $^ $(LIB_LIBS) -ldl
.PHONY: test-gpu gpu-binaries
## make gpu-binaries  CUDA tests and benchmark for a machine without these libraries: build/engine/gpu/, run there by tools/gpu_check.sh
gpu-binaries:
	@$(MAKE) --no-print-directory BUILD=build/engine ENGINE_ONLY=1 $(patsubst %,build/engine/gpu/%,$(cuda_tests) bench_cuda bench_prefill bench_attend bench_decode_attend bench_picture bench_products)
	@cp $$(gcc -print-file-name=libcmocka.so.0) build/engine/gpu/ && strip build/engine/gpu/test_* build/engine/gpu/bench_*
test-gpu:
	@$(MAKE) --no-print-directory -s $(gpu_tests)
	@for t in $(cuda_tests); do $(BUILD)/gpu/$$t || exit 1; done

-include $(shell find $(BUILD)/emulated -name '*.d' 2>/dev/null)
