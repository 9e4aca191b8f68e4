# art.mk: draws rom/tinywoods/art/art_data.c again from the sources in art/tool and art/font.txt.
# The result is committed, so building the ROM does not need this. Included by rom.mk or used alone:
#   make -f rom/tinywoods/art/art.mk rom-art
ART_DIR := rom/tinywoods/art
ART_TOOL := build/rom/make_art

.PHONY: rom-art
rom-art: $(ART_TOOL)
	$(ART_TOOL) $(ART_DIR)/font.txt > build/rom/art_data.c && mv build/rom/art_data.c $(ART_DIR)/art_data.c

$(ART_TOOL): $(wildcard $(ART_DIR)/tool/*.c) $(ART_DIR)/tool/art.h
	@mkdir -p $(@D)
	$(CC) -std=gnu17 -O2 -ffp-contract=off -Wall -Wextra -Werror $(wildcard $(ART_DIR)/tool/*.c) -lm -o $@
