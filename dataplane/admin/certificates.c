/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/admin/certificates.h"

#include <stdio.h>

#include "dataplane/tls/tables.h"

#define NAME "fairlead_certificate_expiry_seconds"

enum { LINE_BYTES = 512 };

size_t certificates_write(const struct tls_table *table, int64_t now_s, uint32_t *next, char *buf, size_t cap,
                          bool *done)
{
    size_t len = 0;
    for (; *next < table->expiry_count && cap - len >= LINE_BYTES; ++*next) {
        const struct tls_expiry *e = &table->expiry[*next];
        if (*next == 0)
            len += (size_t)snprintf(buf, cap,
                                    "# HELP " NAME " Time until a certificate expires (seconds).\n"
                                    "# TYPE " NAME " gauge\n");
        len += (size_t)snprintf(buf + len, cap - len, NAME "{name=\"%.63s\"} %lld\n", e->name,
                                (long long)(e->not_after_s - now_s));
    }
    *done = *next >= table->expiry_count;
    return len;
}
