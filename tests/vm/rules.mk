# SPDX-License-Identifier: Apache-2.0
# The oldest kernel that is supported, in a virtual machine; included by the Makefile.
# The unit tests that touch the kernel.
VM_UNITS := $(addprefix $(BUILD)/unit/test_,sandbox db log log_drain names figures pipe pump pump_tls tunnel)

.PHONY: vm test-vm
vm:
	$(AT)packaging/deps.sh build test vm
	$(AT)$(MAKE_QUIET) -j$(JOBS) $(PROGRAMS) $(VM_UNITS) $(BUILD)/tools/no_uring $(BUILD)/tools/pong
	$(AT)$(PYTHON) tests/vm/run.py --build "$(BUILD)" $(VM_UNITS)

## test-vm: this build on Debian's Linux 6.1, in a virtual machine (no KVM needed)
test-vm:
	$(AT)$(RUN) tier test-vm "760 vm"
