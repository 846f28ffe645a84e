# SPDX-License-Identifier: Apache-2.0
# The tiers of tests; included by the Makefile.
.PHONY: unit
unit: $(UNIT_BIN)
	$(Q)for t in $(UNIT_BIN); do $$t || exit 1; done
