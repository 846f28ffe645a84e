/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listening sockets: for each address a group of SO_REUSEPORT sockets whose number never changes, so that
 * a connection that waits in one of them is never reset by a new number of rings. They stay open as long as
 * the address is configured, whatever happens to the data plane; and if control dies, the data plane's
 * descriptors of them go back to the next control. A socket has a slot, its number in messages and plans.
 *
 * A group whose address was removed leaves in two steps: it takes no new connection while those that wait in
 * it are accepted (listeners_leave), then it is closed (listeners_remove).
 */
#ifndef FL_CONTROL_LISTENERS_H
#define FL_CONTROL_LISTENERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/config.h"

enum { LISTENER_BACKLOG = 4096 };

struct listener_group {
    struct config_address address;
    uint16_t first, count; /* slots */
    bool leaving;          /* the address is not configured any more */
    uint64_t leaving_ms;   /* since when */
};

struct listeners {
    int fd[LISTENERS_MAX]; /* by slot; -1: none */
    uint16_t fd_count;     /* slots below it may be in use */
    struct listener_group group[PLAN_LISTENERS_MAX];
    uint16_t group_count;
    uint16_t per_address;
};

void listeners_init(struct listeners *listeners, uint16_t per_address);
void listeners_close(struct listeners *listeners);

/* Whether the address of a service could be bound, as far as that can be known before. 0 or -errno with a
 * message that says what to do. */
int listeners_try(const struct listeners *listeners, const struct config_address *address, char *err,
                  size_t err_len);

/*
 * Opens the group of an address; one that is there already is kept, and one that was leaving stays: it serves
 * what `address` says from the next plan on. A service's address need not be on an interface.
 * `shared`: another process may hold the address (a data plane that outlived its control). A group that is
 * leaving may hold it too, when a wildcard takes the place of an address or the other way round: so remove
 * first, then add. 0 or -errno with a message that says what to do.
 */
int listeners_add(struct listeners *listeners, const struct config_address *address, bool shared, char *err,
                  size_t err_len);

/*
 * The sockets of an earlier control, by slot: they become groups, in the same slots. Those of addresses that
 * are not among these (of the configuration) have service 0: what they served is not known, and listeners_add
 * or listeners_leave decides about them when it is. Until then they are in no plan. What is taken is set to
 * -1 in fd[]; left are addresses for which there is no room beside the configured ones.
 */
void listeners_adopt(struct listeners *listeners, const struct config_address *addresses, size_t count,
                     int fd[LISTENERS_MAX]);

/*
 * The address of that group was removed: its sockets answer no connect any more, without refusing it, so that
 * what has come before can be accepted. 0, or -errno: then they take connections to their end.
 */
int listeners_leave(struct listeners *listeners, uint16_t group, uint64_t now_ms);

/* Whether connections wait in the group to be accepted. */
bool listeners_waited_for(const struct listeners *listeners, uint16_t group);

/* Closes the group; those behind it move up. */
void listeners_remove(struct listeners *listeners, uint16_t group);

#endif
