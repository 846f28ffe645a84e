# SPDX-License-Identifier: Apache-2.0
# Benchmarks; included by the Makefile.
BENCH_BIN := $(BUILD)/bench/load $(BUILD)/bench/bare

$(BUILD)/bench/%: bench/%.c $(BUILD)/flags
	$(AT)mkdir -p $(@D); echo "  BENCH $@"; $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< -lcrypto -lpthread

.PHONY: bench bench-bin
bench-bin: $(BENCH_BIN)
## bench: compares with peers (nginx, docker-registry, HAProxy, FRR) on this machine; Q=name asks one question
bench:
	$(AT)packaging/deps.sh build bench
	$(AT)$(MAKE) --no-print-directory -j$(JOBS) all tools bench-bin
	$(AT)$(PYTHON) bench/run.py --build "$(BUILD)" $(Q)
