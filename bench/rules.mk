# SPDX-License-Identifier: Apache-2.0
# Benchmarks; included by the Makefile.
BENCH_BIN := $(addprefix $(BUILD)/bench/,load visit origin bare bare_relay bare_fetch edge_rate connect commits effect followers fill)

$(BUILD)/bench/%: bench/%.c bench/tool.h $(BUILD)/flags
	$(AT)mkdir -p $(@D); echo "  BENCH $@"; $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< -lssl -lcrypto -lpthread
$(BUILD)/bench/connect: bench/connect.c $(BPF_OBJ) $(BUILD)/flags
	$(AT)mkdir -p $(@D); echo "  BENCH $@"; $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< -lbpf
$(BUILD)/bench/effect: bench/effect.c bench/tool.h $(wildcard include/abi*.h) $(BUILD)/flags
	$(AT)mkdir -p $(@D); echo "  BENCH $@"; $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< -lbpf
# Speaks as a node does, by the same code.
$(BUILD)/bench/followers: bench/followers.c $(BUILD)/libcontrol.a
	$(AT)mkdir -p $(@D); echo "  BENCH $@"; $(CC) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< $(BUILD)/libcontrol.a $(CONTROL_LIBS) $(CLI_LIBS)
-include $(BUILD)/bench/followers.d
# Makes states, with control's own state machine and log.
$(BUILD)/bench/fill: bench/fill.c bench/tool.h $(BUILD)/libcontrol.a
	$(AT)mkdir -p $(@D); echo "  BENCH $@"; $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(BUILD)/libcontrol.a $(CONTROL_LIBS) $(CLI_LIBS)
# A program for the kernel that drives the one which is measured.
$(BUILD)/bench/edge_rate.bpf.o: bench/edge_rate.bpf.c $(BUILD)/bpf/vmlinux.h
	$(AT)mkdir -p $(@D); echo "  BPF   $<"; $(BPF_CLANG) $(BPF_CFLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/bench/edge_rate.skel.h: $(BUILD)/bench/edge_rate.bpf.o
	$(AT){ echo '/* NOLINTBEGIN */' && $(BPFTOOL) gen skeleton $< name edge_rate_bpf && echo '/* NOLINTEND */'; } >$@
$(BUILD)/bench/edge_rate: bench/edge_rate.c $(BUILD)/bench/edge_rate.skel.h $(BPF_SKEL) $(BUILD)/flags
	$(AT)mkdir -p $(@D); echo "  BENCH $@"; $(CC) $(CFLAGS) -I$(BUILD) $(LDFLAGS) -o $@ $< -lbpf
analyze: $(BUILD)/bench/edge_rate.skel.h
-include $(BUILD)/bench/edge_rate.bpf.d

.PHONY: bench bench-bin
bench-bin: $(BENCH_BIN)
## bench: compares with peers (nginx, docker-registry, HAProxy, FRR, etcd) on this machine; Q=name asks one question
bench:
	$(AT)packaging/deps.sh build bench
	$(AT)$(MAKE) --no-print-directory -j$(JOBS) all tools bench-bin
	$(AT)$(PYTHON) bench/run.py --build "$(BUILD)" $(Q)
