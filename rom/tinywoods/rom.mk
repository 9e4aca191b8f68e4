# rom.mk: builds rom/tinywoods/tinywoods.gba with Debian's gcc-arm-none-eabi. Included by the root Makefile.
# The picture is committed; `make rom` makes it again, bit for bit (same compiler version: see README.md).
ROM_DIR := rom/tinywoods
ROM_BUILD ?= build/rom
ROM_CC ?= arm-none-eabi-gcc
ROM_CFLAGS := -std=gnu17 -mcpu=arm7tdmi -mthumb -mthumb-interwork -O2 -ffreestanding -fno-common -fno-ident \
	-Wall -Wextra -Werror -I$(ROM_DIR)/src -I$(ROM_DIR)/art -ffile-prefix-map=$(CURDIR)=.
ROM_SOURCES := $(sort $(wildcard $(ROM_DIR)/src/*.c $(ROM_DIR)/art/*.c))
ROM_HEADERS := $(wildcard $(ROM_DIR)/src/*.h $(ROM_DIR)/art/*.h)
ROM_OBJECTS := $(ROM_BUILD)/crt0.o $(patsubst $(ROM_DIR)/%.c,$(ROM_BUILD)/%.o,$(ROM_SOURCES))
ROM_IMAGE ?= $(ROM_DIR)/tinywoods.gba

.PHONY: rom
## make rom         build the bundled game again (needs gcc-arm-none-eabi); make rom-art draws its art
rom: $(ROM_IMAGE)

$(ROM_BUILD)/crt0.o: $(ROM_DIR)/src/crt0.s
	@mkdir -p $(@D)
	$(ROM_CC) -mcpu=arm7tdmi -c $< -o $@

$(ROM_BUILD)/%.o: $(ROM_DIR)/%.c $(ROM_HEADERS)
	@mkdir -p $(@D)
	$(ROM_CC) $(ROM_CFLAGS) -c $< -o $@

$(ROM_BUILD)/tinywoods.elf: $(ROM_OBJECTS) $(ROM_DIR)/tinywoods.ld
	$(ROM_CC) -mcpu=arm7tdmi -mthumb -nostdlib -nostartfiles -Wl,--build-id=none -Wl,-Map,$(ROM_BUILD)/tinywoods.map \
		-T $(ROM_DIR)/tinywoods.ld $(ROM_OBJECTS) -lgcc -o $@

$(ROM_IMAGE): $(ROM_BUILD)/tinywoods.elf
	arm-none-eabi-objcopy -O binary $< $@
	@chmod 644 $@

-include $(ROM_DIR)/art/art.mk
