/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker may ask managers for. Pure. */
#ifndef FL_CONTROL_WORKER_RULE_H
#define FL_CONTROL_WORKER_RULE_H

#include <stddef.h>
#include <stdint.h>

/* Why this proposal of the worker `from` is refused, for people; NULL: it is not. */
const char *worker_refused(uint64_t from, const void *body, size_t len);

#endif
