/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether whoever is at the other end is a node of the cluster still. A certificate says which node it is of,
 * and outlives the node's membership; the plan says who is a member.
 */
#ifndef FL_MEMBERSHIP_H
#define FL_MEMBERSHIP_H

#include <stdbool.h>

#include "plan.h"
#include "dataplane/wire.h"

enum member {
    MEMBER_UNNAMED, /* its certificate names no node, or it has shown none */
    MEMBER_YES,
    MEMBER_NO,       /* it was removed, left behind when the CA was exchanged, or is another cluster's */
    MEMBER_NOT_KNOWN /* a node that came later than what is known here: it may be one */
};

/* Of the wire, or of the one under its HTTP/2 session. */
enum member member_of(const struct plan *plan, const struct wire *wire);

/* Whether a connection that came to the service has to end: it is one for nodes, and this is none any more.
 */
bool member_is_gone(const struct plan *plan, unsigned service, const struct wire *wire);

#endif
