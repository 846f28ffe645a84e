/* SPDX-License-Identifier: Apache-2.0 */
#include "control/certs_check.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

enum { CERT, KEY, CA, OCSP };

static int no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

static X509 *first_certificate(const struct certs_bytes *b)
{
    BIO *bio = BIO_new_mem_buf(b->data, (int)b->len);
    X509 *cert = bio ? PEM_read_bio_X509_AUX(bio, NULL, no_passphrase, NULL) : NULL;
    BIO_free(bio);
    return cert;
}

static bool time_of(const ASN1_TIME *t, int64_t *out)
{
    int days = 0, seconds = 0;
    ASN1_TIME *epoch = ASN1_TIME_set(NULL, 0);
    bool ok = epoch && ASN1_TIME_diff(&days, &seconds, epoch, t);
    *out = (int64_t)days * 86400 + seconds;
    ASN1_TIME_free(epoch);
    return ok;
}

/* What is in a memory BIO, as text, cut. */
static void text_of(BIO *bio, char *out, size_t cap)
{
    int n = bio ? BIO_read(bio, out, (int)cap - 1) : 0;
    out[n > 0 ? n : 0] = '\0';
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = '?';
}

static void add_name(BIO *bio, const GENERAL_NAME *name, bool first)
{
    if (name->type == GEN_DNS)
        BIO_printf(bio, "%s%.*s", first ? "" : ",", ASN1_STRING_length(name->d.dNSName),
                   (const char *)ASN1_STRING_get0_data(name->d.dNSName));
    else if (name->type == GEN_IPADD && ASN1_STRING_length(name->d.iPAddress) == 4) {
        const unsigned char *ip = ASN1_STRING_get0_data(name->d.iPAddress);
        BIO_printf(bio, "%s%u.%u.%u.%u", first ? "" : ",", ip[0], ip[1], ip[2], ip[3]);
    } else if (name->type == GEN_IPADD && ASN1_STRING_length(name->d.iPAddress) == 16) {
        const unsigned char *ip = ASN1_STRING_get0_data(name->d.iPAddress);
        BIO_printf(bio, "%s", first ? "" : ",");
        for (int i = 0; i < 16; i += 2)
            BIO_printf(bio, "%s%x", i ? ":" : "", (unsigned)ip[i] << 8 | ip[i + 1]);
    }
}

static void names_of(const X509 *cert, char *out, size_t cap)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    BIO *bio = BIO_new(BIO_s_mem());
    for (int i = 0; bio && i < sk_GENERAL_NAME_num(names); i++)
        add_name(bio, sk_GENERAL_NAME_value(names, i), BIO_pending(bio) == 0);
    text_of(bio, out, cap);
    GENERAL_NAMES_free(names);
    BIO_free(bio);
}

static void subject_of(const X509 *cert, char *out, size_t cap)
{
    BIO *bio = BIO_new(BIO_s_mem());
    if (bio)
        X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
    text_of(bio, out, cap);
    BIO_free(bio);
}

static const char *check_key(const struct certs_bytes *b, X509 *cert)
{
    BIO *bio = BIO_new_mem_buf(b->data, (int)b->len);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;
    const char *wrong = NULL;
    if (!key)
        wrong = "it is no private key in PEM, or one with a passphrase";
    else if (X509_check_private_key(cert, key) != 1)
        wrong = "it is another certificate's key";
    EVP_PKEY_free(key);
    BIO_free(bio);
    return wrong;
}

/* NULL, or what is wrong with the part *at. */
static const char *check(const struct certs_bytes *b, struct certs_facts *out, int *at)
{
    const char *wrong = NULL;
    *at = CERT;
    X509 *cert = b[CERT].data ? first_certificate(&b[CERT]) : NULL;
    if (b[CERT].data && (!cert || !time_of(X509_get0_notBefore(cert), &out->not_before_s) ||
                         !time_of(X509_get0_notAfter(cert), &out->not_after_s)))
        wrong = "it is no certificate in PEM";
    if (cert && !wrong) {
        subject_of(cert, out->subject, sizeof(out->subject));
        names_of(cert, out->names, sizeof(out->names));
        *at = KEY;
        wrong = check_key(&b[KEY], cert);
    }
    X509 *ca = !wrong && b[CA].data ? first_certificate(&b[CA]) : NULL;
    if (!wrong && b[CA].data && !ca) {
        *at = CA;
        wrong = "it is no CA's certificate in PEM";
    }
    X509_free(ca);
    if (!wrong && cert && b[OCSP].data &&
        ocsp_window_of(b[OCSP].data, b[OCSP].len, cert, &out->staple) == -EBADMSG) {
        *at = OCSP;
        wrong = "it is no OCSP response in DER that was given";
    }
    X509_free(cert);
    return wrong;
}

bool certs_check_files(const struct certs_bytes bytes[4], struct certs_facts *out, int *at, char *why,
                       size_t cap)
{
    memset(out, 0, sizeof(*out));
    const char *wrong = check(bytes, out, at);
    ERR_clear_error();
    snprintf(why, cap, "%s", wrong ? wrong : "");
    return !wrong;
}
