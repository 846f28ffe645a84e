/* SPDX-License-Identifier: Apache-2.0 */
/* Whose certificate opens the address for other nodes: over a TLS handshake in memory, with the certificates
 * that a cluster's CA signs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <openssl/ssl.h>

#include "control/compile/plan_compile.h"
#include "control/mesh/pki_files.h"
#include "control/settings.h"
#include "dataplane/membership.h"
#include "dataplane/tls/tls_private.h"
#include "node_uri.h"

static const uint8_t ours[16] = {1, 2, 3, 15}, theirs[16] = {9};

struct fixture {
    struct pki_text ca, ca_key;
    SSL_CTX *server, *client;
    SSL *ssl[2];
    struct tls tls;
    struct wire wire;
    struct plan *plan;
};

static X509 *cert_read(const struct pki_text *pem)
{
    BIO *bio = BIO_new_mem_buf(pem->data, (int)pem->len);
    X509 *cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    BIO_free(bio);
    assert_non_null(cert);
    return cert;
}

static EVP_PKEY *key_read(const struct pki_text *pem)
{
    BIO *bio = BIO_new_mem_buf(pem->data, (int)pem->len);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    BIO_free(bio);
    assert_non_null(key);
    return key;
}

static void use(SSL_CTX *ctx, const struct pki_text *cert, const struct pki_text *key)
{
    X509 *x = cert_read(cert);
    EVP_PKEY *k = key_read(key);
    assert_int_equal(SSL_CTX_use_cert_and_key(ctx, x, k, NULL, 1), 1);
    X509_free(x);
    EVP_PKEY_free(k);
}

/* One of our CA that names nobody. */
static void plain_identity(struct fixture *f, SSL_CTX *ctx)
{
    X509 *x = X509_new(), *ca = cert_read(&f->ca);
    EVP_PKEY *key = EVP_EC_gen("P-256"), *ca_key = key_read(&f->ca_key);
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 7);
    X509_set_issuer_name(x, X509_get_subject_name(ca));
    X509_gmtime_adj(X509_getm_notBefore(x), -60);
    X509_gmtime_adj(X509_getm_notAfter(x), 3600);
    X509_set_pubkey(x, key);
    assert_true(X509_sign(x, ca_key, EVP_sha256()) > 0);
    assert_int_equal(SSL_CTX_use_cert_and_key(ctx, x, key, NULL, 1), 1);
    X509_free(x);
    X509_free(ca);
    EVP_PKEY_free(key);
    EVP_PKEY_free(ca_key);
}

/* A certificate of our CA, of the node of a cluster; 0: of none. */
static void identity(struct fixture *f, SSL_CTX *ctx, const uint8_t cluster[16], uint64_t node)
{
    struct pki_subject subject = {.name = {.node_id = node}, .host = {"127.0.0.1"}, .host_count = 1};
    struct pki_text key, request, cert;
    char err[PKI_ERR_MAX];
    if (node == 0) {
        plain_identity(f, ctx);
        return;
    }
    memcpy(subject.name.cluster_id, cluster, 16);
    assert_int_equal(pki_request_make(&key, &request), 0);
    assert_int_equal(pki_sign(f->ca.data, f->ca.len, f->ca_key.data, f->ca_key.len, request.data, request.len,
                              &subject, &cert, err),
                     0);
    use(ctx, &cert, &key);
    pki_text_free(&key);
    pki_text_free(&request);
    pki_text_free(&cert);
}

static void trust(struct fixture *f, SSL_CTX *ctx)
{
    X509 *ca = cert_read(&f->ca);
    assert_int_equal(X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), ca), 1);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    X509_free(ca);
}

/* A client that shows that node's certificate is connected. */
static const struct wire *connect_as(struct fixture *f, const uint8_t cluster[16], uint64_t node, bool shows)
{
    BIO *to[2];
    f->server = SSL_CTX_new(TLS_server_method());
    f->client = SSL_CTX_new(TLS_client_method());
    trust(f, f->server);
    identity(f, f->server, ours, 1);
    if (shows)
        identity(f, f->client, cluster, node);
    f->ssl[0] = SSL_new(f->server);
    f->ssl[1] = SSL_new(f->client);
    assert_int_equal(BIO_new_bio_pair(&to[0], 0, &to[1], 0), 1);
    for (int i = 0; i < 2; i++)
        SSL_set_bio(f->ssl[i], to[i], to[i]);
    SSL_set_accept_state(f->ssl[0]);
    SSL_set_connect_state(f->ssl[1]);
    for (int turn = 0; turn < 20; turn++)
        (void)SSL_do_handshake(f->ssl[turn % 2]);
    assert_true(SSL_is_init_finished(f->ssl[0]));
    f->tls = (struct tls){.ssl = f->ssl[0]};
    f->tls.over.ops = &tls_wire_ops;
    f->wire = (struct wire){.fd = -1, .over = &f->tls.over};
    return &f->wire;
}

static void hang_up(struct fixture *f)
{
    for (int i = 0; i < 2; i++)
        SSL_free(f->ssl[i]);
    SSL_CTX_free(f->server);
    SSL_CTX_free(f->client);
    f->server = f->client = NULL;
    f->ssl[0] = f->ssl[1] = NULL;
}

static int setup(void **state)
{
    static const uint64_t member[] = {1, 3, 70};
    struct fixture *f = calloc(1, sizeof(*f));
    uint64_t setting[SETTINGS_COUNT];
    const char *why;
    for (int i = 0; i < SETTINGS_COUNT; i++)
        setting[i] = setting_info(i)->def;
    struct plan_input in = {.generation = 1,
                            .node_id = 1,
                            .setting = setting,
                            .member = member,
                            .member_count = 3,
                            .next_node = 71};
    memcpy(in.cluster_id, ours, sizeof(ours));
    assert_int_equal(plan_compile(&in, &f->plan, &why), 0);
    assert_int_equal(pki_ca_make(ours, &f->ca, &f->ca_key), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    hang_up(f);
    pki_text_free(&f->ca);
    pki_text_free(&f->ca_key);
    free(f->plan);
    free(f);
    return 0;
}

static void test_who_is_one(void **state)
{
    struct fixture *f = *state;
    const struct {
        const uint8_t *cluster;
        uint64_t node;
        bool shows;
        enum member is;
    } rows[] = {
        {ours, 1, true, MEMBER_YES},  {ours, 3, true, MEMBER_YES},     {ours, 70, true, MEMBER_YES},
        {ours, 2, true, MEMBER_NO},   {ours, 69, true, MEMBER_NO},     {ours, 71, true, MEMBER_NOT_KNOWN},
        {theirs, 1, true, MEMBER_NO}, {ours, 0, true, MEMBER_UNNAMED}, {ours, 1, false, MEMBER_UNNAMED},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct wire *w = connect_as(f, rows[i].cluster, rows[i].node, rows[i].shows);
        assert_int_equal(member_of(f->plan, w), rows[i].is);
        assert_int_equal(member_is_gone(f->plan, PLAN_PLACE_PEER, w), rows[i].is == MEMBER_NO);
        assert_false(member_is_gone(f->plan, PLAN_PLACE_REGISTRY, w));
        assert_false(member_is_gone(f->plan, PLAN_PLACE_FIRST + 7, w));
        hang_up(f);
    }
}

/* The certificate is looked at once; who is a member, each time. */
static void test_one_that_goes(void **state)
{
    struct fixture *f = *state;
    const struct wire *w = connect_as(f, ours, 70, true);
    assert_int_equal(member_of(f->plan, w), MEMBER_YES);
    f->plan->member_count = 2;
    assert_int_equal(member_of(f->plan, w), MEMBER_NO);
    f->plan->member_count = 0; /* nothing is known of the nodes */
    f->plan->next_node = 0;
    assert_int_equal(member_of(f->plan, w), MEMBER_NOT_KNOWN);
}

static void test_not_over_tls(void **state)
{
    struct fixture *f = *state;
    const struct wire plain = {.fd = -1};
    assert_int_equal(member_of(f->plan, &plain), MEMBER_UNNAMED);
}

#define ID "00112233445566778899aabbccddeeff"

static void test_uri(void **state)
{
    static const char *const wrong[] = {
        "",
        "fairlead://",
        "fairlead://" ID "/node/",
        "fairlead://" ID "/node/0",
        "fairlead://" ID "/node/01",
        "fairlead://" ID "/node/1x",
        "fairlead://" ID "/node/-1",
        "fairlead://" ID "/node/12345678901234567890",
        "fairlead://" ID "/knot/1",
        "fairlead://00112233445566778899AABBCCDDEEFF/node/1",
        "fairlead://00112233445566778899aabbccddeefg/node/1",
        "Fairlead://" ID "/node/1",
    };
    uint8_t cluster[16];
    uint64_t node;
    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_false(node_uri_parse(wrong[i], strlen(wrong[i]), cluster, &node));
    static const char good[] = "fairlead://" ID "/node/1234567890123456789";
    assert_true(node_uri_parse(good, strlen(good), cluster, &node));
    assert_true(node == 1234567890123456789);
    assert_int_equal(cluster[15], 0xff);
    assert_false(node_uri_parse(good, sizeof(good), cluster, &node)); /* with its NUL */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_who_is_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_that_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_over_tls, setup, teardown),
        cmocka_unit_test(test_uri),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
