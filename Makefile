# SPDX-License-Identifier: Apache-2.0
# Fairlead. `make run` starts a node, `make test` tests everything; `make help` lists the rest.
SAN ?=
DEBUG ?=
V ?=
STATE ?= var
Q ?=
CONFIG ?=
comma := ,
# Each kind of build has a folder of its own: build, build-debug, build-address-undefined, build-thread.
BUILD ?= build$(if $(SAN),-$(subst $(comma),-,$(SAN)))$(if $(DEBUG),-debug)
PREFIX ?= /usr/local
DESTDIR ?=
VERSION := 0.1.0

AT := $(if $(V),,@)
ifeq ($(origin CC),default)
CC := gcc
endif
PYTHON := /usr/bin/python3
JOBS := $(shell nproc)

CFLAGS_WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 -Wundef
CFLAGS_BASE := -std=gnu11 -O2 -g -fno-omit-frame-pointer -fstack-protector-strong -D_GNU_SOURCE -fPIE
CFLAGS_SAN := $(if $(SAN),-fsanitize=$(SAN)$(if $(FUZZ),$(comma)fuzzer-no-link) -fno-sanitize-recover=all -DFL_SANITIZER,-D_FORTIFY_SOURCE=2)
CFLAGS := $(CFLAGS_BASE) $(CFLAGS_WARN) $(CFLAGS_SAN) $(if $(DEBUG)$(SAN),-DFL_DEBUG) -DFL_VERSION='"$(VERSION)"' -Iinclude -I. \
	-isystem $(BUILD)
LDFLAGS := -pie -Wl,-z,relro,-z,now $(if $(SAN),-fsanitize=$(SAN))
# Linked in: the shared one brings the whole C++ library with it. The data plane allocates at start only.
MALLOC := $(if $(SAN),,-l:libjemalloc_pic.a -lm)
DATAPLANE_LIBS := -luring -llmdb -lssl -lcrypto -lseccomp -lcap -lnghttp2 -lpthread
CONTROL_LIBS := -luv -lraft -llmdb -lssl -lcrypto -ljansson -lyaml -lcap -lbpf -lmnl -lcurl -lpthread $(MALLOC)
CLI_LIBS := -ljansson -lcurl -lcrypto
MIRROR_LIBS := -ljansson -lcurl -lcrypto -lpthread

DATAPLANE_SRC := $(wildcard dataplane/*.c dataplane/*/*.c)
CLI_SRC := $(wildcard control/cli/*.c)
MIRROR_SRC := $(wildcard control/mirror/*.c)
CONTROL_SRC := $(filter-out $(CLI_SRC) $(MIRROR_SRC),$(wildcard control/*.c control/*/*.c))
PROGRAMS := $(BUILD)/fairleadd $(BUILD)/fairlead-dataplane $(BUILD)/fairlead-mirror $(BUILD)/fairlead

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
DATAPLANE_OBJ := $(call obj,$(DATAPLANE_SRC))
CONTROL_OBJ := $(call obj,$(CONTROL_SRC))
CLI_OBJ := $(call obj,$(CLI_SRC))
MIRROR_OBJ := $(call obj,$(MIRROR_SRC))
MIRROR_SHARED_OBJ := $(call obj,control/challenge.c)

.PHONY: all run deps clean help FORCE
all: $(PROGRAMS)

## run: starts a node in the foreground: the registry on 127.0.0.1:5000, its state in STATE= (default var)
run: DEPS = build
run: deps
	$(AT)$(MAKE) --no-print-directory -j$(JOBS) all
	$(AT)exec packaging/run.sh "$(BUILD)" "$(STATE)" $(CONFIG)

## deps: installs what is missing (as root; else says what is); silent when nothing is
DEPS ?= build test bench
deps:
	$(AT)packaging/deps.sh $(DEPS)

$(BUILD)/fairlead-dataplane: $(DATAPLANE_OBJ)
	$(AT)echo "  LD    $@"; $(CC) $(LDFLAGS) -o $@ $^ $(DATAPLANE_LIBS)
$(BUILD)/fairleadd: $(CONTROL_OBJ)
	$(AT)echo "  LD    $@"; $(CC) $(LDFLAGS) -o $@ $^ $(CONTROL_LIBS)
$(BUILD)/fairlead: $(CLI_OBJ)
	$(AT)echo "  LD    $@"; $(CC) $(LDFLAGS) -o $@ $^ $(CLI_LIBS)
$(BUILD)/fairlead-mirror: $(MIRROR_OBJ) $(MIRROR_SHARED_OBJ)
	$(AT)echo "  LD    $@"; $(CC) $(LDFLAGS) -o $@ $^ $(MIRROR_LIBS)
# For tests: everything but the mains, as archives, so that each program takes what it needs.
$(BUILD)/libdataplane.a: $(filter-out %/dataplane/main.o,$(DATAPLANE_OBJ))
	$(AT)rm -f $@; ar rcs $@ $^
$(BUILD)/libcontrol.a: $(filter-out %/control/main.o %/cli/main.o %/mirror/main.o,$(CONTROL_OBJ) $(CLI_OBJ) $(MIRROR_OBJ))
	$(AT)rm -f $@; ar rcs $@ $^
$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	$(AT)mkdir -p $(@D); echo "  CC    $<"; $(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

# The loader takes the programs for the kernel in.
$(BUILD)/obj/control/bpf_load.o: $(BUILD)/bpf/objects.skel.h

# Changes when the compiler or its flags do, and all is compiled again.
$(BUILD)/flags: FORCE
	$(AT)mkdir -p $(@D); echo '$(CC) $(CFLAGS) $(LDFLAGS)' | cmp -s - $@ || echo '$(CC) $(CFLAGS) $(LDFLAGS)' >$@

## clean: removes every build (not the state)
clean:
	rm -rf build build-* "$(BUILD)"

## help: this list
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST) | sort

.DELETE_ON_ERROR:
.SECONDARY:
include bpf/rules.mk tests/rules.mk packaging/rules.mk bench/rules.mk $(wildcard tests/vm/rules.mk)
-include $(patsubst %.o,%.d,$(DATAPLANE_OBJ) $(CONTROL_OBJ) $(CLI_OBJ) $(MIRROR_OBJ))
