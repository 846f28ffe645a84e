# SPDX-License-Identifier: Apache-2.0
# Installation; included by the Makefile.
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
MANDIR ?= $(PREFIX)/share/man
BPFFS ?= /sys/fs/bpf
BASH_COMPLETION = $(PREFIX)/share/bash-completion/completions/fairlead
FISH_COMPLETION = $(PREFIX)/share/fish/vendor_completions.d/fairlead.fish
MAN_PAGES = $(wildcard docs/man/*.[1-8])
man_target = $(MANDIR)/man$(patsubst .%,%,$(suffix $(1)))/$(notdir $(1))
INSTALLED = $(PREFIX)/sbin/fairleadd $(PREFIX)/sbin/fairlead-dataplane $(PREFIX)/sbin/fairlead-mirror \
	$(PREFIX)/bin/fairlead \
	$(UNITDIR)/fairlead.service $(SYSUSERSDIR)/fairlead.conf $(BASH_COMPLETION) $(FISH_COMPLETION) \
	$(foreach page,$(MAN_PAGES),$(call man_target,$(page)))

.PHONY: install uninstall
## install: programs, man pages, systemd unit, under PREFIX (/usr/local) and DESTDIR; an existing configuration stays
install: all
	install -D -m 755 $(BUILD)/fairleadd "$(DESTDIR)$(PREFIX)/sbin/fairleadd"
	install -D -m 755 $(BUILD)/fairlead-dataplane "$(DESTDIR)$(PREFIX)/sbin/fairlead-dataplane"
	install -D -m 755 $(BUILD)/fairlead-mirror "$(DESTDIR)$(PREFIX)/sbin/fairlead-mirror"
	install -D -m 755 $(BUILD)/fairlead "$(DESTDIR)$(PREFIX)/bin/fairlead"
	install -d "$(DESTDIR)$(UNITDIR)"
	sed 's|@PREFIX@|$(PREFIX)|g' packaging/fairlead.service.in >"$(DESTDIR)$(UNITDIR)/fairlead.service"
	install -D -m 644 packaging/fairlead.sysusers "$(DESTDIR)$(SYSUSERSDIR)/fairlead.conf"
	$(foreach page,$(MAN_PAGES),install -D -m 644 $(page) "$(DESTDIR)$(call man_target,$(page))" &&) true
	install -d "$(dir $(DESTDIR)$(BASH_COMPLETION))" "$(dir $(DESTDIR)$(FISH_COMPLETION))"
	$(BUILD)/fairlead completion bash >"$(DESTDIR)$(BASH_COMPLETION)"
	$(BUILD)/fairlead completion fish >"$(DESTDIR)$(FISH_COMPLETION)"
	test -e "$(DESTDIR)$(SYSCONFDIR)/fairlead/fairlead.yaml" || \
		install -D -m 640 packaging/fairlead.yaml "$(DESTDIR)$(SYSCONFDIR)/fairlead/fairlead.yaml"
	test -n "$(DESTDIR)" || ! command -v systemd-sysusers >/dev/null || systemd-sysusers "$(SYSUSERSDIR)/fairlead.conf"

## uninstall: stops it, takes its programs out of the kernel, removes what install put there, but neither configuration nor state
uninstall:
	test -n "$(DESTDIR)" || packaging/retire.sh "$(PREFIX)/sbin/fairleadd" "$(BPFFS)"
	rm -f $(foreach file,$(INSTALLED),"$(DESTDIR)$(file)")
