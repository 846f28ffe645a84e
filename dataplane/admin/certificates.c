/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/admin/certificates.h"

#include <stdio.h>

#include "dataplane/tls/tables.h"

#define CERTIFICATE "fairlead_certificate_expiry_seconds"
#define STAPLE      "fairlead_ocsp_response_expiry_seconds"

enum { LINE_BYTES = 512 };

static size_t write_help(char *buf, size_t cap, const char *name, const char *what)
{
    return (size_t)snprintf(buf, cap, "# HELP %s Time until %s expires (seconds).\n# TYPE %s gauge\n", name,
                            what, name);
}

static size_t write_row(char *buf, size_t cap, const char *name, const char *of, int64_t left_s)
{
    return (size_t)snprintf(buf, cap, "%s{name=\"%.63s\"} %lld\n", name, of, (long long)left_s);
}

/* One metric after the other, as a reader wants them. */
size_t certificates_write(const struct tls_table *table, int64_t now_s, uint32_t *next, char *buf, size_t cap,
                          bool *done)
{
    size_t len = 0;
    uint32_t count = table->expiry_count;
    for (; *next < 2 * count && cap - len >= LINE_BYTES; ++*next) {
        const struct tls_expiry *e = &table->expiry[*next % count];
        bool staple = *next >= count;
        if (*next % count == 0)
            len +=
                write_help(buf + len, cap - len, staple ? STAPLE : CERTIFICATE,
                           staple ? "the OCSP response that is stapled to a certificate" : "a certificate");
        if (!staple)
            len += write_row(buf + len, cap - len, CERTIFICATE, e->name, e->not_after_s - now_s);
        else if (e->staple_until_s != INT64_MAX)
            len += write_row(buf + len, cap - len, STAPLE, e->name, e->staple_until_s - now_s);
    }
    *done = *next >= 2 * count;
    return len;
}
