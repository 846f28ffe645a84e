/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the data plane may do once it serves: nothing but what it needs. Entered before any thread starts;
 * there is no way back.
 *
 * - no capabilities, no_new_privs;
 * - Landlock: files only below the store's two folders; from Linux 6.7 on, no TCP bind or connect. What the
 * kernel's version cannot restrict is left to seccomp (6.1: truncation and network);
 * - seccomp: an allow-list; the rest fails with EPERM. It does not see io_uring's operations: those have the
 * rings' own list.
 */
#ifndef FL_SANDBOX_H
#define FL_SANDBOX_H

/* Returns enum dataplane_feature bits of what holds, or -errno with a sentence in *why. The folders are
 * borrowed. */
int sandbox_enter(const int *folders, unsigned count, const char **why);

/* From now on nobody of the same user looks into the process, and it leaves no core: it has private keys. Its
 * own /proc/self is closed to it afterwards. */
void sandbox_hold_secrets(void);

#endif
