/* SPDX-License-Identifier: Apache-2.0 */
/* OpenSSL's errors. Its header means the system's <limits.h> and finds include/limits.h: it wants this of it.
 */
#ifndef FL_TLS_ERRORS_H
#define FL_TLS_ERRORS_H

#ifndef INT_MAX
#define INT_MAX __INT_MAX__
#endif
#include <openssl/err.h>

#endif
