/* SPDX-License-Identifier: Apache-2.0 */
/* What a backend is told of the certificate that the client has shown: RFC 9440, and its parts one by one. */
#ifndef FL_PROXY_CLIENT_CERT_H
#define FL_PROXY_CLIENT_CERT_H

#include <stdint.h>

#include "dataplane/http/forward.h"
#include "dataplane/tls/tls.h"

struct stream;

enum { CLIENT_CERT_FIELDS = 5, CLIENT_CERT_MAX = 8 << 10 };

struct client_cert {
    uint32_t count;
    struct http_extra field[CLIENT_CERT_FIELDS + 1]; /* and room for one of the caller's */
    struct tls_client client;
    char cert[CLIENT_CERT_MAX];
};

/* The fields, which lie in *out: none where the service asks for no certificates, or none was shown. A
 * certificate that is larger than CLIENT_CERT_MAX is told by its parts alone. */
void client_cert_fields(struct stream *s, struct client_cert *out);

/* Which certificate the client has shown: text in *client, or absent. */
struct view client_cert_fingerprint(struct stream *s, struct tls_client *client);

#endif
