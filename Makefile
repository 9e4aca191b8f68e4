# pmd-agent. `make help` lists the targets.
BUILD := build$(if $(SAN),/san)
comma := ,
CC ?= gcc
CFLAGS_ALL := -std=gnu17 -D_GNU_SOURCE -O2 -g -Wall -Wextra -Werror -Wno-format-truncation -fno-math-errno -ffp-contract=off -Isrc -Iinclude -pthread \
              $(if $(SAN),-fsanitize=address$(comma)undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined -O1) $(CFLAGS)
LDFLAGS_ALL := -pthread $(if $(SAN),-fsanitize=address$(comma)undefined) $(LDFLAGS)

# The engine and everything below it (libqwen3vl), then the rooms that need the game's libraries.
ENGINE_ROOMS := base checkpoint text vision backend backend/cpu engine
GAME_ROOMS := hub emulator game record memory agent serve bench
lib_objs := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(foreach r,$(ENGINE_ROOMS),$(wildcard src/$(r)/*.c))))
app_objs := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(foreach r,$(GAME_ROOMS) app,$(wildcard src/$(r)/*.c))))
ifdef ENGINE_ONLY
app_objs := $(patsubst %,$(BUILD)/obj/src/app/%.o,main cmd_bench cmd_chat cmd_score cmd_tokenize cmd_serve model_options play_frames) \
            $(patsubst %.c,$(BUILD)/obj/%.o,$(patsubst %,src/agent/%.c,home ask ask_engine ballot conversation prompt prompt_fields prompt_world map_memory explore scene) $(wildcard src/game/*.c) $(wildcard src/bench/*.c) $(filter-out src/serve/dash%,$(wildcard src/serve/*.c)))
endif
# The emulated CUDA threads switch stacks by themselves, which AddressSanitizer takes for overflows: not under SAN.
tests := $(filter-out $(if $(SAN),$(BUILD)/tests/test_cuda_%),\
         $(patsubst tests/%,$(BUILD)/tests/%,$(sort $(basename $(wildcard tests/test_*.c tests/test_*.cu)))))

LIB_LIBS := -lyajl -lpcre2-8 -lutf8proc -lpng -lturbojpeg -lz -lm
APP_LIBS := -lcurl -lcrypto -l:libyaml.a -l:libsqlite3.a -ldl
ifdef ENGINE_ONLY # everything that has an archive is linked in: the binary runs where none of it is installed
CFLAGS_ALL += -DENGINE_ONLY
LIB_LIBS := -Wl,-Bstatic -lyajl_s -lpcre2-8 -lutf8proc -lpng -lturbojpeg -lz -Wl,-Bdynamic -lm
APP_LIBS :=
endif

# CUDA: with nvcc, and outside sanitizer builds (their CUDA tests run emulated; CUDA=0 leaves it out).
NVCC ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
ifeq ($(or $(SAN),$(filter 0,$(CUDA))),)
ifneq ($(NVCC),)
CUDA_HOME := $(patsubst %/bin/nvcc,%,$(NVCC))
NVCC_FLAGS := -std=c++17 -O3 --threads 2 -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a -Isrc -Iinclude -Xcompiler -fno-exceptions,-fno-rtti,-fno-threadsafe-statics
CFLAGS_ALL += -DHAVE_CUDA
lib_objs += $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard src/backend/cuda/*.c)) $(patsubst %.cu,$(BUILD)/obj/%.o,$(wildcard src/backend/cuda/*.cu))
LIB_LIBS += $(firstword $(wildcard $(CUDA_HOME)/lib64/libcudart_static.a $(CUDA_HOME)/targets/*/lib/libcudart_static.a)) -lpthread -ldl -lrt
endif
endif

.PHONY: help all play test test-all build-tests rom deps engine fuzz bench clean
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)
all: $(BUILD)/pmd-agent $(BUILD)/libqwen3vl.a
ifndef ENGINE_ONLY # FAISS for the vector index is a library of its own, loaded when an index is needed; made where libfaiss-dev is installed
all: $(if $(wildcard /usr/include/faiss/IndexIVFFlat.h),$(BUILD)/libpmd-faiss.so)
endif

## make play        install what is missing, build, play the bundled dungeon with the bundled model
play: deps
	@$(MAKE) --no-print-directory -s all
	@$(BUILD)/pmd-agent play

## make test        build and run the tests (SAN=1: under ASan and UBSan); make test-all adds the slow ones
test: deps
	@$(MAKE) --no-print-directory -s all build-tests
	@tests/run.sh $(BUILD) $(notdir $(tests))
test-all: deps
	@$(MAKE) --no-print-directory -s all build-tests
	@PMD_SLOW_TESTS=1 tests/run.sh $(BUILD) $(notdir $(tests))
build-tests: $(tests)

deps:
	@tools/install-deps.sh
## make engine      only libqwen3vl and a pmd-agent without the game (a bare GPU machine): build/engine/
engine:
	@$(MAKE) --no-print-directory BUILD=build/engine ENGINE_ONLY=1 build/engine/pmd-agent

$(BUILD)/libqwen3vl.a: $(lib_objs)
	@rm -f $@ && ar rcs $@ $^
$(BUILD)/pmd-agent: $(app_objs) $(BUILD)/libqwen3vl.a
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(APP_LIBS) $(LIB_LIBS)
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(filter-out $(BUILD)/obj/src/app/main.o,$(app_objs)) $(BUILD)/libqwen3vl.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(APP_LIBS) $(LIB_LIBS)
# The dashboard's page: packed, then taken into the program by src/serve/dash_assets.c.
web_files := $(wildcard web/*)
$(BUILD)/%.gz: %
	@mkdir -p $(@D)
	gzip -9nc $< > $@
$(BUILD)/obj/src/serve/dash_assets.o: $(web_files:%=$(BUILD)/%.gz)
$(BUILD)/obj/src/serve/dash_assets.o: CFLAGS_ALL += -DWEB_DIR='"$(BUILD)/web"'
$(BUILD)/obj/src/record/caption.o: rom/tinywoods/art/font.txt
$(BUILD)/obj/src/app/report_page.o: web/report.css
$(BUILD)/libpmd-faiss.so: src/memory/faiss_shim.cc src/memory/faiss_shim.h
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -O2 -g -Wall -Wextra -Werror -fPIC -fvisibility=hidden -Isrc -shared -o $@ $< -Wl,--exclude-libs,ALL -Wl,-z,defs -lfaiss -lopenblas -lgomp
$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -Itests -MMD -MP -c -o $@ $<

$(BUILD)/obj/%.o: %.cu
	@mkdir -p $(@D)
	$(filter %ccache,$(CC)) $(NVCC) $(NVCC_FLAGS) -Itests -MMD -MP -c -o $@ $<

-include tests/cuda_emulation/emulation.mk
-include rom/tinywoods/rom.mk fuzz/fuzz.mk $(wildcard bench/*.mk)
## make clean       remove what was built
clean:
	rm -rf build

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
