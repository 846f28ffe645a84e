# SPDX-License-Identifier: GPL-2.0
# The kernel half: bpf/NAME.bpf.c -> $(BUILD)/bpf/NAME.bpf.o -> $(BUILD)/bpf/NAME.skel.h; included by the Makefile.
BPF_CLANG ?= clang-14
BPFTOOL ?= $(firstword $(wildcard /usr/sbin/bpftool /usr/local/sbin/bpftool) bpftool)
BPF_BTF ?= /sys/kernel/btf/vmlinux
BPF_ARCH := $(patsubst aarch64,arm64,$(patsubst x86_64,x86,$(shell uname -m)))
BPF_SRC := $(wildcard bpf/*.bpf.c)
BPF_OBJ := $(patsubst bpf/%.bpf.c,$(BUILD)/bpf/%.bpf.o,$(BPF_SRC))
BPF_SKEL := $(BPF_OBJ:.bpf.o=.skel.h)
BPF_CFLAGS := -g -O2 -target bpf -mcpu=v3 -D__TARGET_ARCH_$(BPF_ARCH) -Wall -Wextra -Werror -Wno-unused-parameter \
	-Wno-missing-declarations -I$(BUILD)/bpf -Iinclude -Ibpf

.PHONY: bpf
## bpf: the programs for the kernel
bpf: $(BPF_SKEL)
# Types of the running kernel; CO-RE moves the programs to others.
$(BUILD)/bpf/vmlinux.h:
	$(AT)mkdir -p $(@D); echo "  BTF   $@"; $(BPFTOOL) btf dump file $(BPF_BTF) format c >$@
$(BUILD)/bpf/%.bpf.o: bpf/%.bpf.c $(BUILD)/bpf/vmlinux.h
	$(AT)echo "  BPF   $<"; $(BPF_CLANG) $(BPF_CFLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/bpf/%.skel.h: $(BUILD)/bpf/%.bpf.o
	$(AT){ echo '/* NOLINTBEGIN */' && $(BPFTOOL) gen skeleton $< name $*_bpf && echo '/* NOLINTEND */'; } >$@
# All skeletons and their names: BPF_OBJECTS(X) is X(name) for each.
$(BUILD)/bpf/objects.skel.h: $(BPF_SKEL) FORCE
	$(AT)mkdir -p $(@D); { $(foreach skel,$(notdir $(BPF_SKEL)),echo '#include "$(skel)"';) \
		echo '#define BPF_OBJECTS(X) $(foreach skel,$(notdir $(BPF_SKEL)),X($(skel:.skel.h=)))'; } >$@.new; \
		cmp -s $@.new $@ && rm $@.new || mv $@.new $@

# The loader takes them all in; compilers do not list what is under $(BUILD).
$(BUILD)/obj/control/bpf_load.o: $(BPF_SKEL)

-include $(BPF_OBJ:.o=.d)
