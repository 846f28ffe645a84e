/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel says about heartbeat sessions and addresses that are taken over, for people and figures. */
#ifndef FL_CONTROL_PEER_VIEW_H
#define FL_CONTROL_PEER_VIEW_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

#include "abi.h"
#include "control/compile/kernel_compile.h"

struct daemon;

/* What is known of a peer's session. */
struct peer_view {
    const struct kernel_peer_config *config;
    bool self;        /* it is this node */
    bool begun;       /* the kernel has a session with it: state is of this one */
    uint32_t index;   /* in the kernel's map */
    uint32_t members; /* backends that run there */
    struct abi_peer_state state;
};

/* The peers in the order of the configuration file; `i` from 0 on. False behind the last. */
bool peer_view(struct daemon *d, uint32_t i, struct peer_view *out);

/* "up", "init", "down", "admin-down"; "self" for this node, "off" where there is no session. */
const char *peer_state_name(const struct peer_view *view);

struct address_view {
    struct abi_address_key key;
    bool known; /* the kernel has heard or said something about it: state is filled */
    struct abi_address_state state;
    const char *owner; /* "this node", the name of a peer, "none"; "unknown" before anything is known */
};

/* The addresses that are taken over, each on each of its segments. False behind the last. */
bool address_view(struct daemon *d, uint32_t i, struct address_view *out);

/* The text of an address, without a port. Returns out. */
const char *address_view_text(const struct abi_addr *addr, char out[ADDRESS_TEXT_MAX]);

/* UTC in milliseconds of a time of the kernel's clock. */
uint64_t peer_view_utc_ms(uint64_t time_ns);

#endif
