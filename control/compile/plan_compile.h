/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiles what the operator configured and what the state says into a plan for the data plane. Pure: the
 * same input gives the same bytes.
 */
#ifndef FL_CONTROL_PLAN_COMPILE_H
#define FL_CONTROL_PLAN_COMPILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plan.h"

/* A listening address with its group of sockets, [first, first + count) in the order of the handing over. */
struct plan_address {
    const char *text;
    enum service_kind service;
    bool allow_all;
    uint16_t first, count;
};

/* Borrowed until plan_compile returns. */
struct plan_input {
    uint64_t generation;
    uint8_t cluster_id[16];
    uint64_t node_id;
    const uint64_t *setting; /* SETTINGS_COUNT effective values */
    const struct plan_address *address;
    size_t address_count;
};

/*
 * Fills *out, every byte of it. 0; -EINVAL if an address has a text, group or number that no plan can hold, a
 * setting is outside its range, or nothing says who may use an address (*err_text then says what).
 */
int plan_compile(const struct plan_input *in, struct plan *out, const char **err_text);

#endif
