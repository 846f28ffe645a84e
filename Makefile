# SPDX-License-Identifier: Apache-2.0
# Fairlead. `make run` starts a node, `make test` tests everything; `make help` lists the rest.
BUILD ?= build
STATE ?= var
SAN ?=
DEBUG ?=
V ?=
Q := $(if $(V),,@)

CC := gcc
PYTEST := /usr/bin/python3 -m pytest
CFLAGS_WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 -Wundef
CFLAGS_BASE := -std=gnu11 -O2 -g -fno-omit-frame-pointer -fstack-protector-strong -D_GNU_SOURCE -D_FORTIFY_SOURCE=2 -fPIE
CFLAGS := $(CFLAGS_BASE) $(CFLAGS_WARN) $(if $(DEBUG)$(SAN),-DFL_DEBUG) $(if $(SAN),-fsanitize=$(SAN) -U_FORTIFY_SOURCE -DFL_SANITIZER)
LDFLAGS := -pie -Wl,-z,relro,-z,now $(if $(SAN),-fsanitize=$(SAN))
VERSION := 0.1.0

DATAPLANE_SRC := $(wildcard dataplane/*.c dataplane/*/*.c)
CONTROL_SRC := $(filter-out control/cli/%,$(wildcard control/*.c control/*/*.c))
CLI_SRC := $(wildcard control/cli/*.c)
UNIT_SRC := $(wildcard tests/unit/test_*.c)
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)

DATAPLANE_LIBS := -luring -llmdb -lcrypto -ljansson -lseccomp -lcap -lpthread $(if $(SAN),,-ljemalloc)
CONTROL_LIBS := -luv -lraft -llmdb -lcrypto -ljansson -lyaml -lcap -lpthread $(if $(SAN),,-ljemalloc)
CLI_LIBS := -ljansson

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
DATAPLANE_OBJ := $(call obj,$(DATAPLANE_SRC))
CONTROL_OBJ := $(call obj,$(CONTROL_SRC))
CLI_OBJ := $(call obj,$(CLI_SRC))
UNIT_BIN := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(UNIT_SRC))
FUZZ_BIN := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(FUZZ_SRC))
# What unit tests and fuzzers link: every object but the mains, as archives, so that each takes what it needs.
LIBS_TEST := $(BUILD)/libdataplane.a $(BUILD)/libcontrol.a

.PHONY: all
all: $(BUILD)/fairleadd $(BUILD)/fairlead-dataplane $(BUILD)/fairlead

$(BUILD)/fairlead-dataplane: $(DATAPLANE_OBJ)
	$(Q)echo "  LD    $@"; $(CC) $(LDFLAGS) -o $@ $^ $(DATAPLANE_LIBS)
$(BUILD)/fairleadd: $(CONTROL_OBJ)
	$(Q)echo "  LD    $@"; $(CC) $(LDFLAGS) -o $@ $^ $(CONTROL_LIBS)
$(BUILD)/fairlead: $(CLI_OBJ)
	$(Q)echo "  LD    $@"; $(CC) $(LDFLAGS) -o $@ $^ $(CLI_LIBS)
$(BUILD)/libdataplane.a: $(filter-out %/dataplane/main.o,$(DATAPLANE_OBJ))
	$(Q)rm -f $@; ar rcs $@ $^
$(BUILD)/libcontrol.a: $(filter-out %/control/main.o,$(CONTROL_OBJ)) $(filter-out %/control/cli/main.o,$(CLI_OBJ))
	$(Q)rm -f $@; ar rcs $@ $^
$(BUILD)/obj/%.o: %.c
	$(Q)mkdir -p $(@D); echo "  CC    $<"; $(CC) $(CFLAGS) -DFL_VERSION='"$(VERSION)"' -Iinclude -I. -MMD -MP -c -o $@ $<
$(BUILD)/unit/%: tests/unit/%.c $(LIBS_TEST)
	$(Q)mkdir -p $(@D); echo "  TEST  $@"; $(CC) $(CFLAGS) -Iinclude -I. -MMD -MP $(LDFLAGS) -o $@ $< $(LIBS_TEST) \
		-lcmocka $(sort $(DATAPLANE_LIBS) $(CONTROL_LIBS))

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

.DELETE_ON_ERROR:
.SECONDARY:
include tests/rules.mk
