/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiles the services of the state and what is known of this node into entries of the kernel's maps
 * (include/abi.h). Pure: the same input gives the same entries, and the Maglev rows are the same on every
 * node.
 *
 * The result names no place in `rows`: whoever writes the maps puts each service's rows where there is room,
 * sets first_row, and then replaces the service's element as a whole.
 */
#ifndef FL_CONTROL_KERNEL_COMPILE_H
#define FL_CONTROL_KERNEL_COMPILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "abi.h"
#include "control/state/service.h"

enum {
    KERNEL_TICK_US = 20000, /* of the clock, unless something asks for less */
    KERNEL_PEER_INTERVAL_MS = 100,
    KERNEL_PEER_MULTIPLIER = 3,
};

/* A peer of the configuration file, in its order. */
struct kernel_peer_config {
    char name[SVC_NAME_MAX + 1];
    struct svc_address address; /* the port is not used */
    uint64_t node_id;           /* 0: not known */
    uint32_t interval_ms;
    uint8_t multiplier;
    bool multihop;
};

enum { KERNEL_SELF = -1 };

/* Candidates for the addresses that are taken over, best first: indices into peers, KERNEL_SELF for this
 * node. */
struct kernel_takeover_config {
    int candidate[ABI_ADDRESS_MANAGERS_MAX];
    uint32_t count;  /* 0: this node alone */
    bool none;       /* this node answers for no address */
    bool by_segment; /* a candidate counts where its address is on the segment */
};

/* An address of an interface of this host. */
struct kernel_local {
    struct abi_addr addr;
    uint32_t ifindex;
    uint8_t prefix; /* bits, of the 128: 96 + 24 for 192.0.2.1/24 */
    uint8_t mac[6]; /* of the interface; 0: it has none, and no segment */
};

/* What is known of this node now. Callbacks look into tables that the caller has read: they do not block. */
struct kernel_facts {
    uint64_t node_id;
    bool probes;           /* this node probes */
    bool draining;         /* it gives its addresses away, and says so to its peers */
    uint64_t tick_us;      /* period of the clock */
    uint32_t backends_max; /* elements of `backends` and its like: ids from there on are left out */
    uint32_t rows_max;     /* elements of `rows` that services may use in all */
    const struct kernel_local *local;
    size_t local_count;
    /* The source address of packets to `to`; false: there is no route. *watched: the programs see what comes
     * back that way; else no probe would ever be answered. */
    bool (*source)(void *arg, const struct abi_addr *to, struct abi_addr *source, bool *watched);
    /* The link address of a neighbour; false: not known. */
    bool (*neighbour)(void *arg, uint32_t ifindex, const struct abi_addr *addr, uint8_t mac[6]);
    void *arg;
    /* What `peers` holds now (all of it, or NULL at the first start): a peer keeps its index. */
    const struct abi_peer *peers_now;
    uint32_t peers_now_count;
};

struct kernel_input {
    const struct svc_table *services;
    const struct kernel_peer_config *peer;
    uint32_t peer_count;
    const struct kernel_takeover_config *takeover;
    const struct kernel_facts *facts;
};

struct kernel_service {
    struct abi_endpoint key;
    struct abi_service value;  /* first_row is 0 */
    const struct abi_row *row; /* value.rows of them; belongs to the entries */
    uint64_t rows_key;         /* equal keys: equal rows */
};

struct kernel_endpoint {
    struct abi_endpoint key;
    struct abi_endpoint_backends value;
};

struct kernel_address {
    struct abi_address_key key;
    struct abi_address value;
};

struct kernel_entries {
    struct kernel_service *service; /* sorted by key */
    uint32_t service_count;
    struct abi_backend *backend;      /* by id, [0, backend_count); ABI_ADMIN_NONE: id not in use */
    uint32_t backend_count;           /* for abi_node.backends */
    struct kernel_endpoint *endpoint; /* sorted by key */
    uint32_t endpoint_count;
    struct abi_check *check; /* by service id, [0, check_count); kind 0 and request_bytes 0: not in use */
    uint32_t check_count;
    struct abi_probe_plan plan;
    uint32_t *order; /* ids, plan's classes one after another */
    uint32_t order_count;
    struct abi_peer *peer; /* by index, [0, peer_count); flags 0: not in use */
    uint32_t peer_count;
    uint32_t *member; /* peer_members */
    uint32_t member_count;
    struct kernel_address *address; /* sorted by key */
    uint32_t address_count;
    uint32_t left_out;    /* backends whose id is beyond facts.backends_max */
    uint32_t unreachable; /* backends without a route */
    uint32_t
        unprobed; /* backends behind devices that the programs are not on, though they shall be checked */
    uint64_t probes_per_s; /* of this node, in all */
};

/*
 * New entries; the caller frees them. `before`, which may be NULL, are those of the last time: rows that are
 * the same are taken over from them (they stay valid until both are freed), not made again.
 */
struct kernel_entries *kernel_compile(const struct kernel_input *in, const struct kernel_entries *before);
void kernel_entries_free(struct kernel_entries *e);

/* The longest period of the clock that keeps every interval of the input (its facts are not looked at): the
 * shortest interval, or default_us if that is less. */
uint64_t kernel_tick_us(const struct kernel_input *in, uint64_t default_us);

#endif
