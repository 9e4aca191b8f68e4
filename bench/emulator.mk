.PHONY: bench-emulator
## make bench-emulator  frames a second, memory of 64 games, states, decode
bench-emulator: $(BUILD)/bench_emulator
	@$(BUILD)/bench_emulator $(BENCH_ARGS)
bench_emulator_sources := bench/bench_emulator.c $(wildcard src/emulator/*.c src/game/*.c src/base/*.c)
$(BUILD)/bench_emulator: $(bench_emulator_sources)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $(bench_emulator_sources) -lyajl -lz -ldl
