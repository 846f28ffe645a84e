/* SPDX-License-Identifier: Apache-2.0 */
/* Until when certificates are good, as Prometheus text. */
#ifndef FL_ADMIN_CERTIFICATES_H
#define FL_ADMIN_CERTIFICATES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tls_table;

/* Writes those from *next on, as many as fit, and moves it. now_s: UTC. Returns the bytes; *done after the
 * last one. */
size_t certificates_write(const struct tls_table *table, int64_t now_s, uint32_t *next, char *buf, size_t cap,
                          bool *done);

#endif
