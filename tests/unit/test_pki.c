/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "control/mesh/openssl.h"
#include "control/mesh/pki.h"

static const uint8_t cluster[16] = {1, 2, 3, 0xfe}, other[16] = {9};

struct made {
    struct pki_text ca, ca_key, key, cert;
};

static void make(struct made *m, const uint8_t id[16], uint64_t node, uint32_t life_s)
{
    struct pki_text request;
    char err[PKI_ERR_MAX];
    struct pki_subject subject = {.name = {.node_id = node},
                                  .host = {"192.0.2.1", "2001:db8::1", "node-a.example"},
                                  .host_count = 3,
                                  .life_s = life_s};
    memcpy(subject.name.cluster_id, id, 16);
    assert_int_equal(pki_ca_make(id, &m->ca, &m->ca_key), 0);
    assert_int_equal(pki_request_make(&m->key, &request), 0);
    assert_int_equal(pki_sign(m->ca.data, m->ca.len, m->ca_key.data, m->ca_key.len, request.data, request.len,
                              &subject, &m->cert, err),
                     0);
    pki_text_free(&request);
}

static void unmake(struct made *m)
{
    pki_text_free(&m->ca);
    pki_text_free(&m->ca_key);
    pki_text_free(&m->key);
    pki_text_free(&m->cert);
}

static int identity(const struct made *m, const struct pki_text *ca, const struct pki_text *key,
                    struct pki_identity **out)
{
    char err[PKI_ERR_MAX] = "";
    int rc = pki_identity_new(ca->data, ca->len, m->cert.data, m->cert.len, key->data, key->len, out, err);
    assert_true(rc == 0 || err[0]);
    return rc;
}

static void test_signed(void **state)
{
    (void)state;
    struct made m;
    struct pki_identity *id, *copy;
    char why[MESH_WHY_MAX];
    make(&m, cluster, 7, 0);
    assert_int_equal(identity(&m, &m.ca, &m.key, &id), 0);
    assert_int_equal(pki_identity_name(id)->node_id, 7);
    assert_memory_equal(pki_identity_name(id)->cluster_id, cluster, 16);
    int64_t now = time(NULL);
    assert_in_range(pki_identity_not_after(id), now + 89 * 86400, now + 91 * 86400);
    assert_true(pki_identity_not_before(id) < now);
    copy = pki_identity_copy(id);
    pki_identity_free(id);
    assert_int_equal(pki_verify(pki_identity_cas(copy), pki_identity_cert(copy), why), MESH_OK);
    assert_int_equal(X509_check_ip_asc(pki_identity_cert(copy), "2001:db8::1", 0), 1);
    assert_int_equal(X509_check_ip_asc(pki_identity_cert(copy), "192.0.2.1", 0), 1);
    assert_int_equal(X509_check_host(pki_identity_cert(copy), "node-a.example", 0, 0, NULL), 1);
    assert_int_equal(X509_check_ca(pki_identity_cert(copy)), 0);
    pki_identity_free(copy);
    unmake(&m);
}

static void test_refused(void **state)
{
    (void)state;
    struct made a, b;
    struct pki_identity *id, *theirs;
    char why[MESH_WHY_MAX];
    make(&a, cluster, 7, 0);
    make(&b, cluster, 7, 0);
    assert_int_equal(identity(&a, &b.ca, &a.key, &id), -EINVAL);
    assert_int_equal(identity(&a, &a.ca, &b.key, &id), -EINVAL);
    assert_int_equal(identity(&a, &a.key, &a.key, &id), -EINVAL);
    assert_int_equal(identity(&a, &a.ca, &a.ca, &id), -EINVAL);
    assert_int_equal(identity(&a, &a.ca, &a.key, &id), 0);
    assert_int_equal(identity(&b, &b.ca, &b.key, &theirs), 0);
    assert_int_equal(pki_verify(pki_identity_cas(id), pki_identity_cert(theirs), why), MESH_CHAIN);
    assert_true(strstr(why, "CA") != NULL);
    pki_identity_free(id);
    pki_identity_free(theirs);
    unmake(&a);
    unmake(&b);
}

/* A bundle, as while the CA is exchanged: both kinds of certificates are good, and the right one signs. */
static void test_bundle(void **state)
{
    (void)state;
    struct made a, b;
    struct pki_identity *id;
    struct pki_text both, request, cert;
    char err[PKI_ERR_MAX];
    uint8_t first[PKI_FINGERPRINT_BYTES], of_b[PKI_FINGERPRINT_BYTES];
    make(&a, cluster, 7, 0);
    make(&b, cluster, 8, 0);
    both.len = a.ca.len + b.ca.len;
    both.data = test_malloc(both.len + 1);
    memcpy(both.data, b.ca.data, b.ca.len);
    memcpy(both.data + b.ca.len, a.ca.data, a.ca.len + 1);
    assert_int_equal(identity(&a, &both, &a.key, &id), 0);
    pki_identity_ca(id, first);
    pki_identity_free(id);
    assert_int_equal(pki_fingerprint(a.ca.data, a.ca.len, of_b), 0);
    assert_memory_equal(first, of_b, sizeof(first)); /* not the first of the bundle: the one that signed */
    assert_int_equal(identity(&b, &both, &b.key, &id), 0);
    pki_identity_free(id);
    assert_int_equal(pki_signer_cert(both.data, both.len, a.ca_key.data, a.ca_key.len, &cert), 0);
    assert_string_equal(cert.data, a.ca.data);
    pki_text_free(&cert);
    assert_int_equal(pki_signer_cert(b.ca.data, b.ca.len, a.ca_key.data, a.ca_key.len, &cert), -ENOKEY);
    assert_true(pki_key_is_of(both.data, both.len, a.ca_key.data, a.ca_key.len));
    assert_false(pki_key_is_of(b.ca.data, b.ca.len, a.ca_key.data, a.ca_key.len));
    assert_int_equal(pki_fingerprint(both.data, both.len, first), 0);
    assert_int_equal(pki_fingerprint(b.ca.data, b.ca.len, of_b), 0);
    assert_memory_equal(first, of_b, sizeof(first));
    struct pki_subject subject = {.name.node_id = 9};
    assert_int_equal(pki_request_of(a.key.data, a.key.len, &request), 0);
    assert_int_equal(pki_sign(both.data, both.len, a.ca_key.data, a.ca_key.len, request.data, request.len,
                              &subject, &cert, err),
                     0);
    pki_text_free(&cert);
    assert_int_equal(pki_sign(b.ca.data, b.ca.len, a.ca_key.data, a.ca_key.len, request.data, request.len,
                              &subject, &cert, err),
                     -ENOKEY);
    assert_int_equal(
        pki_sign(a.ca.data, a.ca.len, a.ca_key.data, a.ca_key.len, "nothing", 7, &subject, &cert, err),
        -EINVAL);
    request.data[request.len / 2] ^= 1;
    assert_int_equal(pki_sign(a.ca.data, a.ca.len, a.ca_key.data, a.ca_key.len, request.data, request.len,
                              &subject, &cert, err),
                     -EINVAL);
    pki_text_free(&request);
    test_free(both.data);
    unmake(&a);
    unmake(&b);
}

/* A host's name is a name and nothing else. */
static void test_names(void **state)
{
    (void)state;
    struct made m = {0};
    struct pki_text request;
    struct pki_identity *id;
    char err[PKI_ERR_MAX];
    struct pki_subject subject = {
        .name.node_id = UINT64_MAX >> 1, .host = {"x,URI:fairlead://evil/node/1"}, .host_count = 1};
    memcpy(subject.name.cluster_id, other, 16);
    assert_int_equal(pki_ca_make(other, &m.ca, &m.ca_key), 0);
    assert_int_equal(pki_request_make(&m.key, &request), 0);
    assert_int_equal(pki_sign(m.ca.data, m.ca.len, m.ca_key.data, m.ca_key.len, request.data, request.len,
                              &subject, &m.cert, err),
                     0);
    assert_int_equal(identity(&m, &m.ca, &m.key, &id), 0);
    assert_true(pki_identity_name(id)->node_id == UINT64_MAX >> 1);
    pki_identity_free(id);
    pki_text_free(&request);
    unmake(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_signed), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_bundle), cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
