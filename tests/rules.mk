# SPDX-License-Identifier: Apache-2.0
# The kinds of tests and the tiers made of them; included by the Makefile. tests/run.py runs, bounds and counts.
RUN := $(PYTHON) tests/run.py
MAKE_QUIET := $(MAKE) --no-print-directory
ASAN := SAN=address,undefined BUILD=$(BUILD)/asan
TSAN := SAN=thread BUILD=$(BUILD)/tsan
FUZZ_SECONDS ?= 60
PYTEST_ARGS ?=

UNIT_SRC := $(wildcard tests/unit/test_*.c)
UNIT_HELP_OBJ := $(call obj,$(filter-out $(UNIT_SRC),$(wildcard tests/unit/*.c)))
UNIT_BIN := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(UNIT_SRC))
TOOL_BIN := $(patsubst tests/tools/%.c,$(BUILD)/tools/%,$(wildcard tests/tools/*.c))
BPF_TEST_BIN := $(patsubst tests/bpf/%.c,$(BUILD)/bpf-tests/%,$(wildcard tests/bpf/test_*.c))
FUZZ_BUILD := $(BUILD)/fuzz
FUZZ_BIN := $(patsubst tests/fuzz/%.c,$(BUILD)/bin/%,$(wildcard tests/fuzz/fuzz_*.c))
# What a test links, by what it includes: the two sides are never meant to be in one program.
includes = $(shell grep -l '"$(1)/' $(2))
test_control = $(if $(call includes,control,$(1)),$(BUILD)/libcontrol.a $(CONTROL_LIBS) $(CLI_LIBS))
test_dataplane = $(if $(call includes,control,$(1)),$(if $(call includes,dataplane,$(1)),x),x)
test_libs = $(call test_control,$(1)) $(if $(call test_dataplane,$(1)),$(BUILD)/libdataplane.a $(DATAPLANE_LIBS)) -ljansson

$(BUILD)/unit/%: tests/unit/%.c $(UNIT_HELP_OBJ) $(BUILD)/libdataplane.a $(BUILD)/libcontrol.a
	$(AT)mkdir -p $(@D); echo "  TEST  $@"; $(CC) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< $(UNIT_HELP_OBJ) $(call test_libs,$<) -lcmocka
$(BUILD)/bpf-tests/%: tests/bpf/%.c $(BPF_SKEL) $(BUILD)/libcontrol.a
	$(AT)mkdir -p $(@D); echo "  TEST  $@"; $(CC) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< $(BUILD)/libcontrol.a $(CONTROL_LIBS) -lcmocka
$(BUILD)/tools/%: tests/tools/%.c $(BUILD)/libdataplane.a
	$(AT)mkdir -p $(@D); echo "  TOOL  $@"; $(CC) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< $(BUILD)/libdataplane.a $(if $(shell grep -l "<bpf/" $<),-lbpf) $(if $(shell grep -l "<openssl/" $<),-lssl -lcrypto -lpthread) $(if $(shell grep -l "<lmdb.h>" $<),-llmdb)
$(BUILD)/tools/proxy_ring: tests/tools/proxy_ring.c $(BUILD)/libdataplane.a
	$(AT)mkdir -p $(@D); echo "  TOOL  $@"; $(CC) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< $(BUILD)/libdataplane.a $(DATAPLANE_LIBS)
$(BUILD)/tools/edge_lab: tests/tools/edge_lab.c $(BPF_SKEL)
	$(AT)mkdir -p $(@D); echo "  TOOL  $@"; $(CC) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< -lbpf
$(BUILD)/tools/probe_node: tests/tools/probe_node.c $(BPF_OBJ) $(BUILD)/libcontrol.a
	$(AT)mkdir -p $(@D); echo "  TOOL  $@"; $(CC) $(CFLAGS) -MMD -MP $(LDFLAGS) -o $@ $< $(BUILD)/libcontrol.a $(CONTROL_LIBS)
$(BUILD)/bin/fuzz_%: tests/fuzz/fuzz_%.c $(BUILD)/libdataplane.a $(BUILD)/libcontrol.a
	$(AT)mkdir -p $(@D); echo "  FUZZ  $@"; $(CC) $(CFLAGS) -Wno-missing-prototypes -fsanitize=fuzzer -MMD -MP $(LDFLAGS) -o $@ $< $(call test_libs,$<)

.PHONY: soak unit unit-bin bpf-unit bpf-bin system fuzz fuzz-bin tools layers format-check analyze check test test-clients test-san test-deps
test-deps:
	$(AT)packaging/deps.sh build test
unit-bin: $(UNIT_BIN)
bpf-bin: $(BPF_TEST_BIN)
tools: $(TOOL_BIN)
fuzz-bin: $(FUZZ_BIN)

## unit: unit tests (cmocka, one program a file)
unit: test-deps
	$(AT)$(MAKE_QUIET) -j$(JOBS) unit-bin
	$(AT)$(RUN) --san "$(SAN)" unit $(UNIT_BIN)

## bpf-unit: packets in, packets and verdicts out: the programs run by the kernel (as root)
bpf-unit: test-deps
	$(AT)$(MAKE_QUIET) -j$(JOBS) bpf-bin
	$(AT)$(RUN) --san "$(SAN)" unit $(BPF_TEST_BIN)

## system: system tests: real processes on loopback; PYTEST_ARGS="-k name" chooses
system: test-deps
	$(AT)$(MAKE_QUIET) -j$(JOBS) all tools $(addprefix $(BUILD)/bench/,load visit origin)
	$(AT)FAIRLEAD_BUILD="$(abspath $(BUILD))" $(RUN) --san "$(SAN)" --build "$(BUILD)" pytest tests/system $(PYTEST_ARGS)

## fuzz: replays each corpus, then fuzzes for FUZZ_SECONDS (60) in all
fuzz: test-deps
	$(AT)$(MAKE_QUIET) -j$(JOBS) fuzz-bin BUILD="$(FUZZ_BUILD)" CC=clang-14 SAN=address,undefined FUZZ=1
	$(AT)$(RUN) --seconds $(FUZZ_SECONDS) --work "$(FUZZ_BUILD)/work" fuzz $(patsubst $(BUILD)/%,$(FUZZ_BUILD)/%,$(FUZZ_BIN))

## layers: the rules of the rooms: who may include, call and assign what
layers:
	$(AT)$(RUN) one layers $(PYTHON) tests/layers.py

C_FILES = $(shell git ls-files -co --exclude-standard -- '*.c' '*.h')
## format-check: clang-format has nothing to change
format-check: test-deps
	$(AT)$(RUN) one format-check clang-format --dry-run -Werror $(C_FILES)

## analyze: clang-tidy and cppcheck find nothing
ANALYZED = $(shell git ls-files -co --exclude-standard -- 'dataplane/*.c' 'control/*.c' 'bench/*.c' ':!*.bpf.c')
analyze: test-deps $(BUILD)/bpf/objects.skel.h
	$(AT)$(RUN) one clang-tidy sh -c 'printf "%s\n" $(ANALYZED) | \
		xargs -P $(JOBS) -n 4 clang-tidy --quiet --extra-arg=-isystem$(abspath $(BUILD)) 2>/dev/null'
	$(AT)$(RUN) one cppcheck cppcheck --quiet -j $(JOBS) --error-exitcode=1 --std=c11 --enable=warning,portability \
		--inline-suppr --suppressions-list=tests/cppcheck.txt --include=tests/cppcheck.h \
		$$(grep "^-[DI]" compile_flags.txt) $(ANALYZED)

## check: layers, format-check and analyze
check: test-deps
	$(AT)$(RUN) tier check "60 layers" "120 format-check" "1100 analyze"

## test: units, system tests, a minute of fuzzing
test: test-deps
	$(AT)$(RUN) tier test "60 layers" "600 unit" "240 bpf-unit" "1200 system PYTEST_ARGS=\"-m 'not slow'\"" "400 fuzz"

WITH_DAEMONS := PYTEST_ARGS=\"-m 'not kernel_only'\"
## test-san: units and system tests built under ASan+UBSan, then under TSan
test-san: test-deps
	$(AT)$(RUN) tier test-san "800 unit $(ASAN)" "1500 system $(ASAN) $(WITH_DAEMONS)" \
		"900 unit $(TSAN)" "2100 system $(TSAN) $(WITH_DAEMONS)"

SOAK_SECONDS ?= 120
## soak: SOAK_SECONDS (120) of full load, in which no backend may be called down; then of a registry, which has to stay as it is
soak: test-deps
	$(AT)SOAK_SECONDS=$(SOAK_SECONDS) $(RUN) tier soak \
		"$$(( 1800 + 3 * $(SOAK_SECONDS) )) system PYTEST_ARGS=\"-k 'nobody_is_called_down or stays_flat'\""

## demo: three managers in namespaces, an image pulled in a loop, the leader killed: half a minute to look at (as root)
.PHONY: demo
demo: test-deps
	$(AT)$(MAKE_QUIET) -j$(JOBS) all
	$(AT)FAIRLEAD_BUILD="$(abspath $(BUILD))" $(PYTHON) tests/demo/demo.py

CHAOS_SECONDS ?= 600
## chaos: faults at random for CHAOS_SECONDS (600) under clients, whose histories have to be linearizable
chaos: test-deps
	$(AT)$(RUN) tier chaos "$$(( 900 + 3 * $(CHAOS_SECONDS) )) chaos-run"
.PHONY: chaos chaos-run
chaos-run:
	$(AT)$(MAKE_QUIET) -j$(JOBS) all $(BUILD)/tools/names_rows
	$(AT)FAIRLEAD_BUILD="$(abspath $(BUILD))" CHAOS_SECONDS=$(CHAOS_SECONDS) $(RUN) --build "$(BUILD)" --serial \
		--timeout 3600 pytest tests/chaos $(PYTEST_ARGS)

## test-upgrade: three nodes of an older version, FROM=COMMIT, become this one, one after the other, while clients push and pull
.PHONY: test-upgrade upgrade
test-upgrade: test-deps
	$(AT)$(RUN) tier test-upgrade "1500 upgrade FROM=\"$(FROM)\""
upgrade:
	$(AT)$(MAKE_QUIET) -j$(JOBS) all
	$(AT)tests/upgrade/older.sh "$(FROM)" "$(abspath $(BUILD))/older"
	$(AT)FAIRLEAD_BUILD="$(abspath $(BUILD))" FAIRLEAD_OLDER="$(abspath $(BUILD))/older/build" $(RUN) --build "$(BUILD)" --serial \
		--timeout 600 pytest tests/upgrade $(PYTEST_ARGS)

## test-clients: docker, podman, buildah and skopeo against a node; docker, compose, kubectl and the others through its proxy
test-clients: test-deps
	$(AT)$(RUN) tier test-clients "1200 clients"
.PHONY: clients
clients:
	$(AT)tests/clients/install.sh
	$(AT)$(MAKE_QUIET) -j$(JOBS) all
	$(AT)FAIRLEAD_BUILD="$(abspath $(BUILD))" $(RUN) --build "$(BUILD)" --serial --timeout 400 pytest tests/clients $(PYTEST_ARGS)

## test-kubernetes: kubectl through Fairlead against Kubernetes itself, which is built from Debian's source before (as root)
.PHONY: test-kubernetes kubernetes
test-kubernetes:
	$(AT)packaging/deps.sh build test kubernetes
	$(AT)$(RUN) tier test-kubernetes "6000 kubernetes"
kubernetes:
	$(AT)tests/kubernetes/build.sh "$(BUILD)/kubernetes"
	$(AT)$(MAKE_QUIET) -j$(JOBS) all
	$(AT)FAIRLEAD_BUILD="$(abspath $(BUILD))" $(RUN) --build "$(BUILD)" --serial --timeout 600 pytest tests/kubernetes $(PYTEST_ARGS)

-include $(UNIT_HELP_OBJ:.o=.d) $(addsuffix .d,$(UNIT_BIN) $(BPF_TEST_BIN) $(TOOL_BIN) $(FUZZ_BIN))
