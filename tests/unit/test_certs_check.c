/* SPDX-License-Identifier: Apache-2.0 */
/* Files of certificates: what fits together is taken, and what does not is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "ocsp_window.h"
#include "control/certs_check.h"

enum { CERT, KEY, CA, OCSP, PARTS, SERIAL = 4711 };

static EVP_PKEY *own_key, *other_key;

static struct certs_bytes bytes_of(BIO *bio)
{
    char *data;
    struct certs_bytes b = {.len = (size_t)BIO_get_mem_data(bio, &data)};
    b.data = malloc(b.len);
    CHECK(b.data);
    memcpy(b.data, data, b.len);
    BIO_free(bio);
    return b;
}

static struct certs_bytes key_bytes(EVP_PKEY *key, const char *passphrase)
{
    BIO *bio = BIO_new(BIO_s_mem());
    CHECK(PEM_write_bio_PrivateKey(bio, key, passphrase ? EVP_aes_128_cbc() : NULL, NULL, 0, NULL,
                                   (void *)(uintptr_t)passphrase) == 1);
    return bytes_of(bio);
}

static X509 *cert_make(EVP_PKEY *key)
{
    X509 *cert = X509_new();
    X509_EXTENSION *names =
        X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:a.test,IP:192.0.2.1,DNS:b.test");
    CHECK(cert && names && ASN1_INTEGER_set(X509_get_serialNumber(cert), SERIAL));
    CHECK(X509_gmtime_adj(X509_getm_notBefore(cert), 0) && X509_gmtime_adj(X509_getm_notAfter(cert), 86400));
    CHECK(X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
                                     (const unsigned char *)"a\n.test", -1, -1, 0));
    CHECK(X509_add_ext(cert, names, -1) && X509_set_pubkey(cert, key) && X509_sign(cert, key, EVP_sha256()));
    X509_EXTENSION_free(names);
    return cert;
}

static struct certs_bytes cert_bytes(EVP_PKEY *key)
{
    BIO *bio = BIO_new(BIO_s_mem());
    X509 *cert = cert_make(key);
    CHECK(bio && PEM_write_bio_X509(bio, cert) == 1);
    X509_free(cert);
    return bytes_of(bio);
}

/* About a certificate with that number, signed by nobody in particular. until_s 0: it tells no end. */
static void respond(OCSP_BASICRESP *basic, long serial, int64_t from_s, int64_t until_s)
{
    X509 *cert = cert_make(own_key);
    CHECK(ASN1_INTEGER_set(X509_get_serialNumber(cert), serial));
    OCSP_CERTID *id = OCSP_cert_to_id(EVP_sha1(), cert, cert);
    ASN1_TIME *from = ASN1_GENERALIZEDTIME_set(NULL, from_s),
              *until = until_s ? ASN1_GENERALIZEDTIME_set(NULL, until_s) : NULL;
    CHECK(id && from && OCSP_basic_add1_status(basic, id, V_OCSP_CERTSTATUS_GOOD, 0, NULL, from, until));
    OCSP_CERTID_free(id);
    ASN1_TIME_free(from);
    ASN1_TIME_free(until);
    X509_free(cert);
}

static struct certs_bytes response_bytes(int status, OCSP_BASICRESP *basic)
{
    X509 *cert = cert_make(own_key);
    CHECK(OCSP_basic_sign(basic, cert, own_key, EVP_sha256(), NULL, 0) == 1);
    OCSP_RESPONSE *r = OCSP_response_create(status, basic);
    struct certs_bytes b = {0};
    int len = r ? i2d_OCSP_RESPONSE(r, &b.data) : -1;
    CHECK(len > 0);
    b.len = (size_t)len;
    OCSP_RESPONSE_free(r);
    OCSP_BASICRESP_free(basic);
    X509_free(cert);
    return b;
}

/* The window of what a response says about our certificate, and what certs_check_files says of it. */
static int window_of(struct certs_bytes b, struct ocsp_window *out)
{
    struct certs_facts facts;
    char why[256];
    int at;
    X509 *cert = cert_make(own_key);
    int err = ocsp_window_of(b.data, b.len, cert, out);
    struct certs_bytes all[PARTS] = {cert_bytes(own_key), key_bytes(own_key, NULL), {0}, b};
    assert_int_equal(certs_check_files(all, &facts, &at, why, sizeof(why)), err != -EBADMSG);
    assert_memory_equal(&facts.staple, out, sizeof(*out));
    free(all[CERT].data);
    free(all[KEY].data);
    OPENSSL_free(b.data);
    X509_free(cert);
    return err;
}

static void test_windows_of_responses(void **state)
{
    (void)state;
    struct ocsp_window w;
    OCSP_BASICRESP *basic = OCSP_BASICRESP_new();
    respond(basic, SERIAL + 1, 10, 20);
    respond(basic, SERIAL, 1000, 2000);
    assert_int_equal(window_of(response_bytes(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic), &w), 0);
    assert_true(w.from_s == 1000 && w.until_s == 2000);
    assert_false(ocsp_window_has(&w, 999));
    assert_true(ocsp_window_has(&w, 1000) && ocsp_window_has(&w, 1999));
    assert_false(ocsp_window_has(&w, 2000));
    basic = OCSP_BASICRESP_new();
    respond(basic, SERIAL, 1000, 0);
    assert_int_equal(window_of(response_bytes(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic), &w), 0);
    assert_true(ocsp_window_has(&w, (int64_t)1 << 40) && !ocsp_window_has(&w, 0));
    basic = OCSP_BASICRESP_new();
    respond(basic, SERIAL + 1, 0, (int64_t)1 << 33);
    assert_int_equal(window_of(response_bytes(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic), &w), -ENOENT);
    assert_false(ocsp_window_has(&w, time(NULL)));
    basic = OCSP_BASICRESP_new();
    respond(basic, SERIAL, 1000, 2000);
    assert_int_equal(window_of(response_bytes(OCSP_RESPONSE_STATUS_TRYLATER, basic), &w), -EBADMSG);
    basic = OCSP_BASICRESP_new();
    respond(basic, SERIAL, 1000, 2000);
    struct certs_bytes cut = response_bytes(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic);
    cut.len--;
    assert_int_equal(window_of(cut, &w), -EBADMSG);
    assert_false(ocsp_window_has(&w, 1500));
}

static struct certs_bytes text_bytes(const char *text)
{
    struct certs_bytes b = {(uint8_t *)strdup(text), strlen(text)};
    return b;
}

static void expect(struct certs_bytes b[PARTS], int part, const char *complaint)
{
    struct certs_facts facts;
    char why[256];
    int at = -1;
    bool good = certs_check_files(b, &facts, &at, why, sizeof(why));
    assert_int_equal(good, complaint == NULL);
    if (complaint) {
        assert_int_equal(at, part);
        assert_non_null(strstr(why, complaint));
    } else if (b[CERT].data) {
        assert_string_equal(facts.names, "a.test,192.0.2.1,b.test");
        assert_null(strchr(facts.subject, '\n'));
        assert_int_equal(facts.not_after_s - facts.not_before_s, 86400);
    }
    for (int i = 0; i < PARTS; i++)
        free(b[i].data);
}

static void test_files(void **state)
{
    (void)state;
    expect((struct certs_bytes[PARTS]){cert_bytes(own_key), key_bytes(own_key, NULL)}, 0, NULL);
    expect((struct certs_bytes[PARTS]){[CA] = cert_bytes(own_key)}, 0, NULL);
    expect((struct certs_bytes[PARTS]){cert_bytes(own_key), key_bytes(other_key, NULL)}, KEY, "another");
    expect((struct certs_bytes[PARTS]){cert_bytes(own_key), key_bytes(own_key, "secret")}, KEY, "passphrase");
    expect((struct certs_bytes[PARTS]){cert_bytes(own_key), text_bytes("none")}, KEY, "no private key");
    expect((struct certs_bytes[PARTS]){text_bytes("none"), key_bytes(own_key, NULL)}, CERT, "no certificate");
    expect((struct certs_bytes[PARTS]){[CA] = key_bytes(own_key, NULL)}, CA, "no CA");
    expect((struct certs_bytes[PARTS]){cert_bytes(own_key), key_bytes(own_key, NULL), {0}, text_bytes("x")},
           OCSP, "no OCSP response");
}

int main(void)
{
    own_key = EVP_EC_gen("P-256");
    other_key = EVP_EC_gen("P-256");
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_files),
                                       cmocka_unit_test(test_windows_of_responses)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    EVP_PKEY_free(own_key);
    EVP_PKEY_free(other_key);
    return failed;
}
