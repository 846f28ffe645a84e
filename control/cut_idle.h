/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ends this host's connections to a backend that went down and that send nothing (those that do are ended by
 * bpf/cut.bpf.c): their sockets are destroyed over sock_diag, so whoever waits on one gets ECONNABORTED now.
 * Only sockets of this network namespace, and none that carry ABI_MARK: the data plane looks after its own.
 */
#ifndef FL_CONTROL_CUT_IDLE_H
#define FL_CONTROL_CUT_IDLE_H

#include <stdint.h>
#include <uv.h>

#include "abi.h"

struct cut_idle;

enum { CUT_IDLE_PENDING_MAX = 8192 };

/* 0; -EOPNOTSUPP: this kernel cannot (CONFIG_INET_DIAG_DESTROY); -EPERM: CAP_NET_ADMIN is needed; -errno. */
int cut_idle_open(uv_loop_t *loop, struct cut_idle **out);

/* Ends with the loop. What was not ended by then stays. */
void cut_idle_close(struct cut_idle *cut);

/* Ends the connections to the endpoint soon, on the loop. 0, or -ENOSPC when too many are waiting for that.
 */
int cut_idle_add(struct cut_idle *cut, const struct abi_endpoint *at);

/* Connections ended since the open. */
uint64_t cut_idle_ended(const struct cut_idle *cut);

#endif
