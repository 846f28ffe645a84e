/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For how long an OCSP response may be stapled to a certificate: from thisUpdate to nextUpdate of what it
 * says about that one (RFC 6960, 4.2.2.1). Control tells people, the data plane staples or does not, and both
 * go by the same reading of it.
 */
#ifndef FL_OCSP_WINDOW_H
#define FL_OCSP_WINDOW_H

#ifndef INT_MAX /* OpenSSL's header means the system's <limits.h> and finds ours */
#define INT_MAX __INT_MAX__
#endif
#include <errno.h>
#include <openssl/ocsp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ocsp_window {
    int64_t from_s, until_s; /* UTC; until_s INT64_MAX: no end is told */
};

/* Whether it may be stapled then. */
static inline bool ocsp_window_has(const struct ocsp_window *w, int64_t now_s)
{
    return now_s >= w->from_s && now_s < w->until_s;
}

static inline bool ocsp_window_time(const ASN1_GENERALIZEDTIME *t, int64_t *out)
{
    int days = 0, seconds = 0;
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    bool ok = epoch && ASN1_TIME_diff(&days, &seconds, epoch, t);
    *out = (int64_t)days * 86400 + seconds;
    ASN1_TIME_free(epoch);
    return ok;
}

/* 0, or -ENOENT: nothing in it is about that certificate, or its times are none. */
static inline int ocsp_window_find(OCSP_BASICRESP *basic, const X509 *cert, struct ocsp_window *out)
{
    for (int i = 0; i < OCSP_resp_count(basic); i++) {
        OCSP_SINGLERESP *one = OCSP_resp_get0(basic, i);
        ASN1_GENERALIZEDTIME *from = NULL, *until = NULL;
        ASN1_INTEGER *serial = NULL;
        OCSP_CERTID *id = (OCSP_CERTID *)(uintptr_t)OCSP_SINGLERESP_get0_id(one);
        if (OCSP_id_get0_info(NULL, NULL, NULL, &serial, id) != 1 ||
            ASN1_INTEGER_cmp(serial, X509_get0_serialNumber(cert)) != 0)
            continue;
        (void)OCSP_single_get0_status(one, NULL, NULL, &from, &until);
        out->until_s = INT64_MAX;
        if (from && ocsp_window_time(from, &out->from_s) &&
            (!until || ocsp_window_time(until, &out->until_s)))
            return 0;
    }
    return -ENOENT;
}

/*
 * Of a response in DER. -EBADMSG: it is none, or the responder gave none; -ENOENT: it says nothing about the
 * certificate. With an error *out is a window that has no time. Leaves errors in OpenSSL's queue.
 */
static inline int ocsp_window_of(const uint8_t *der, size_t len, const X509 *cert, struct ocsp_window *out)
{
    const unsigned char *p = der;
    OCSP_RESPONSE *r = d2i_OCSP_RESPONSE(NULL, &p, (long)len);
    OCSP_BASICRESP *basic = NULL;
    int err = -EBADMSG;
    if (r && p == der + len && OCSP_response_status(r) == OCSP_RESPONSE_STATUS_SUCCESSFUL)
        basic = OCSP_response_get1_basic(r);
    if (basic)
        err = ocsp_window_find(basic, cert, out);
    OCSP_BASICRESP_free(basic);
    OCSP_RESPONSE_free(r);
    if (err)
        *out = (struct ocsp_window){0};
    return err;
}

#endif
