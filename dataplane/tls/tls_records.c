/* SPDX-License-Identifier: Apache-2.0 */
/* From content to records in a buffer of the ring. */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "dataplane/tls/errors.h"
#include "dataplane/tls/tls_private.h"

bool tls_out_take(struct tls *t)
{
    if (!t->outbuf)
        t->outbuf = pool_take(&t->tr->outs);
    return t->outbuf != NULL;
}

/* OpenSSL hands over a record, or a part of one. */
static int out_write(BIO *bio, const char *data, size_t len, size_t *taken)
{
    struct tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    size_t room = tls_out_take(t) ? TLS_OUT_BYTES - t->out_len : 0;
    *taken = len < room ? len : room;
    if (*taken == 0) {
        BIO_set_retry_write(bio);
        return 0;
    }
    memcpy(t->outbuf + t->out_len, data, *taken);
    t->out_len += (uint32_t)*taken;
    return 1;
}

static long out_ctrl(BIO *bio, int what, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return what == BIO_CTRL_FLUSH; /* there is nothing else that it could do */
}

BIO_METHOD *tls_out_method_new(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "records");
    if (m && BIO_meth_set_write_ex(m, out_write) && BIO_meth_set_ctrl(m, out_ctrl))
        return m;
    BIO_meth_free(m);
    return NULL;
}

static void iov_step(struct iovec *iov, size_t n)
{
    iov->iov_base = (uint8_t *)iov->iov_base + n;
    iov->iov_len -= n;
}

/* The content of the next record: where it is, or gathered. */
static struct iovec next_record(struct tls *t, struct iovec *iov, size_t *count)
{
    while (*count && iov->iov_len == 0) {
        memmove(iov, iov + 1, --*count * sizeof(*iov));
    }
    struct iovec out = {t->tr->scratch, 0};
    if (*count && (iov->iov_len >= TLS_RECORD_BYTES || *count == 1)) {
        out =
            (struct iovec){iov->iov_base, iov->iov_len < TLS_RECORD_BYTES ? iov->iov_len : TLS_RECORD_BYTES};
        iov_step(iov, out.iov_len);
        return out;
    }
    for (size_t i = 0; i < *count && out.iov_len < TLS_RECORD_BYTES; i++) {
        size_t room = TLS_RECORD_BYTES - out.iov_len, n = iov[i].iov_len < room ? iov[i].iov_len : room;
        memcpy(t->tr->scratch + out.iov_len, iov[i].iov_base, n);
        iov_step(&iov[i], n);
        out.iov_len += n;
    }
    return out;
}

/* Makes records of as much of the content as there is room for. The bytes taken, or -errno. */
ssize_t tls_content_write(struct tls *t, const struct msghdr *msg)
{
    enum { IOV_MOST = 16 };
    struct iovec iov[IOV_MOST];
    size_t taken = 0, count = msg->msg_iovlen < IOV_MOST ? msg->msg_iovlen : IOV_MOST;
    memcpy(iov, msg->msg_iov, count * sizeof(*iov));
    while (TLS_OUT_BYTES - TLS_OUT_RESERVE - t->out_len >= TLS_RECORD_BYTES + TLS_RECORD_OVERHEAD) {
        struct iovec part = next_record(t, iov, &count);
        size_t n = 0;
        if (part.iov_len == 0)
            break;
        ERR_clear_error();
        if (SSL_write_ex(t->ssl, part.iov_base, part.iov_len, &n) != 1)
            return -ECONNRESET;
        CHECK(n == part.iov_len);
        taken += n;
    }
    return (ssize_t)taken;
}
