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
#include <string.h>

#include "check.h"
#include "control/certs_check.h"

enum { CERT, KEY, CA, OCSP, PARTS };

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

static struct certs_bytes cert_bytes(EVP_PKEY *key)
{
    X509 *cert = X509_new();
    BIO *bio = BIO_new(BIO_s_mem());
    X509_EXTENSION *names =
        X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:a.test,IP:192.0.2.1,DNS:b.test");
    CHECK(cert && bio && names);
    CHECK(X509_gmtime_adj(X509_getm_notBefore(cert), 0) && X509_gmtime_adj(X509_getm_notAfter(cert), 86400));
    CHECK(X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
                                     (const unsigned char *)"a\n.test", -1, -1, 0));
    CHECK(X509_add_ext(cert, names, -1) && X509_set_pubkey(cert, key) && X509_sign(cert, key, EVP_sha256()));
    CHECK(PEM_write_bio_X509(bio, cert) == 1);
    X509_EXTENSION_free(names);
    X509_free(cert);
    return bytes_of(bio);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_files)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    EVP_PKEY_free(own_key);
    EVP_PKEY_free(other_key);
    return failed;
}
