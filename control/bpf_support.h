/* SPDX-License-Identifier: Apache-2.0 */
/* What the running kernel can do of what the programs would like, tried out. */
#ifndef FL_CONTROL_BPF_SUPPORT_H
#define FL_CONTROL_BPF_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>

struct bpf_support {
    const char *feature;
    const char *purpose; /* what goes without it */
    bool known;          /* false: this process may not try */
    bool supported;
};

/* Whether this process has the capabilities that programs in the kernel need: CAP_BPF and CAP_NET_ADMIN. */
bool bpf_support_permitted(void);

/* The features in turn, each tried at the call. False behind the last. */
bool bpf_support_try(size_t i, struct bpf_support *out);

#endif
