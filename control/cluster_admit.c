/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificates: for hosts that join, for nodes whose own one runs out, and the CA's key, which managers give
 * to managers and which is in no log. Who may have what is said by the state alone.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "control/cluster_internal.h"
#include "control/events.h"
#include "control/journal.h"
#include "control/mesh/frame.h"
#include "control/mesh/openssl.h"
#include "control/node_commands.h"

enum { REFUSAL_MAX = 400, RENEW_REPLY_MAX = 48 << 10 };

/* A host that asks to join, while the state decides. */
struct admission {
    struct cluster *cluster;
    struct mesh_guest *guest;
    struct node_join join;
    char request[FRAME_GUEST_BODY_MAX];
    size_t request_len;
};

static void reply(struct mesh_guest *guest, const struct frame_join_reply *r)
{
    void *body = malloc(FRAME_REPLY_MAX);
    CHECK(body);
    size_t len = frame_join_reply_put(r, body, FRAME_REPLY_MAX);
    mesh_guest_reply(guest, body, len);
    free(body);
}

__attribute__((format(printf, 3, 4))) static void refuse(struct cluster *c, struct mesh_guest *guest,
                                                         const char *format, ...)
{
    char text[REFUSAL_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    for (char *p = text; *p; p++)
        if (*p < ' ' || *p > '~')
            *p = '?';
    journal_warn(c->config.journal, "cluster", "the host at %s was not taken: %s", mesh_guest_address(guest),
                 text);
    reply(guest, &(struct frame_join_reply){.refusal = {text, strlen(text)}});
}

/* It asks again by itself: what it waits for comes without anybody's doing. */
static void put_off(struct cluster *c, struct mesh_guest *guest, const char *text)
{
    journal_info(c->config.journal, "cluster", "the host at %s is to wait: %s", mesh_guest_address(guest),
                 text);
    reply(guest, &(struct frame_join_reply){.refusal = {text, strlen(text)}, .node_id = FRAME_JOIN_LATER});
}

/* A manager that has only just joined is not connected yet; the state refuses another one until it is. */
static bool manager_comes_up(struct cluster *c, const struct node_join *join, char text[REFUSAL_MAX])
{
    struct node_table t;
    bool comes = false;
    if (cluster_nodes(c, &t))
        return false;
    for (uint32_t i = 0; i < join->down.count && !comes; i++) {
        const struct node *n = node_find(&t, join->down.id[i]);
        comes = n && journal_now_ms() - n->joined_ms < NODE_JOINING_MS;
        if (comes)
            snprintf(text, REFUSAL_MAX, "the manager '%s', which joined just now, is not connected yet",
                     n->name);
    }
    node_table_fini(&t);
    return comes;
}

static struct frame_text frame_text_of(const char *text)
{
    return (struct frame_text){text, strlen(text)};
}

/* The node's certificate: what it says is what the state says of the node. */
static int certificate_make(struct cluster *c, const struct node *n, const char *request, size_t len,
                            struct pki_text *cert, char err[PKI_ERR_MAX])
{
    char text[ADDRESS_TEXT_MAX];
    struct config_address address;
    const char *hint;
    struct pki_subject subject = {.name = {.node_id = n->id}, .life_s = c->certificate_life_s};
    memcpy(subject.name.cluster_id, pki_identity_name(c->identity)->cluster_id, 16);
    subject.host[subject.host_count++] = n->name;
    if (n->mesh.port && config_address_parse(svc_address_text(&n->mesh, text), &address, &hint) == 0) {
        char *host = address.text, *colon = strrchr(host, ':');
        *colon = '\0';
        if (*host == '[') {
            host++;
            host[strlen(host) - 1] = '\0';
        }
        subject.host[subject.host_count++] = host;
    }
    return pki_sign(c->pki.ca.data, c->pki.ca.len, c->pki.ca_key.data, c->pki.ca_key.len, request, len,
                    &subject, cert, err);
}

static void welcome(struct admission *a, uint64_t id, const struct node_table *t)
{
    struct cluster *c = a->cluster;
    static char address[FRAME_MANAGERS_MAX][ADDRESS_TEXT_MAX];
    const struct node *n = node_find(t, id);
    struct frame_join_reply r = {.node_id = id};
    struct pki_text cert;
    char err[PKI_ERR_MAX];
    if (!n || certificate_make(c, n, a->request, a->request_len, &cert, err)) {
        refuse(c, a->guest, "it is node %" PRIu64 " now, but got no certificate: %s; let it ask again", id,
               n ? err : "the state does not have it");
        return;
    }
    memcpy(r.cluster_id, pki_identity_name(c->identity)->cluster_id, sizeof(r.cluster_id));
    r.name = frame_text_of(n->name);
    r.cert = (struct frame_text){cert.data, cert.len};
    r.ca = (struct frame_text){c->pki.ca.data, c->pki.ca.len};
    for (size_t i = 0; i < t->count && r.manager_count < FRAME_MANAGERS_MAX; i++) {
        const struct node *m = &t->node[i];
        if (m->role != NODE_MANAGER || m->id == id || !m->mesh.port)
            continue;
        svc_address_text(&m->mesh, address[r.manager_count]);
        r.manager[r.manager_count] =
            (struct frame_manager){.id = m->id,
                                   .name = frame_text_of(m->name),
                                   .mesh_address = frame_text_of(address[r.manager_count])};
        r.manager_count++;
    }
    journal_info(c->config.journal, "cluster", "the host at %s is node %" PRIu64 " (%s)",
                 mesh_guest_address(a->guest), id, n->name);
    reply(a->guest, &r);
    pki_text_free(&cert);
}

static void on_added(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    struct admission *a = arg;
    struct cluster *c = a->cluster;
    struct node_table t = {0};
    char text[REFUSAL_MAX];
    (void)index;
    if (status == CMD_OK && cluster_nodes(c, &t) == 0)
        welcome(a, node_cmd_added_id(detail, len), &t);
    else if (status == CMD_UNKNOWN_OUTCOME)
        put_off(c, a->guest, "the leader was lost meanwhile: it may be a node or not");
    else if (status == CMD_NO_LEADER)
        put_off(c, a->guest, "nobody leads the cluster at the moment");
    else if (status == CMD_MANAGERS && manager_comes_up(c, &a->join, text))
        put_off(c, a->guest, text);
    else
        refuse(c, a->guest, "%s%s%.*s", events_status_name(status), len ? ": " : "", len ? (int)len : 0,
               len ? (const char *)detail : "");
    node_table_fini(&t);
    free(a);
}

/* The token's hash is compared in the same time wherever it differs. False: it has been refused. */
static bool token_known(struct cluster *c, const uint8_t hash[NODE_HASH_BYTES], struct mesh_guest *guest)
{
    struct node_tokens tokens;
    int rc = cluster_tokens(c, &tokens);
    bool known = false, expired = false;
    for (size_t i = 0; rc == 0 && i < tokens.count; i++) {
        bool is = CRYPTO_memcmp(tokens.token[i].hash, hash, NODE_HASH_BYTES) == 0;
        known |= is;
        expired |= is && tokens.token[i].expires_ms <= journal_now_ms();
    }
    if (rc)
        refuse(c, guest, "the state cannot be read: %s", strerror(-rc));
    else if (!known)
        refuse(c, guest,
               "the token is none of this cluster's, or was withdrawn; `fairlead node join-token` makes one");
    else if (expired)
        refuse(c, guest, "the token has expired; `fairlead node join-token` makes one");
    if (rc == 0)
        node_tokens_fini(&tokens);
    return rc == 0 && known && !expired;
}

static bool address_take(struct frame_text from, struct svc_address *out)
{
    char text[FRAME_ADDRESS_MAX + 1];
    *out = (struct svc_address){.port = 0};
    memcpy(text, from.data, from.len);
    text[from.len] = '\0';
    return from.len == 0 || svc_address_parse(text, out) == 0;
}

static const char no_ca_key[] = "this manager has no CA key yet and cannot sign";

/* What is asked for, as a command; a text for what is wrong, or NULL. */
static const char *join_take(struct cluster *c, const struct frame_join *in, struct node_join *out)
{
    struct node *n = &out->node;
    if (!node_name_valid(in->name.data, in->name.len))
        return "its name cannot be a node's; set cluster.name in its configuration";
    if (!address_take(in->mesh_address, &n->mesh) || !address_take(in->data_address, &n->data) ||
        !n->mesh.port)
        return "it does not say where other nodes find it; set cluster.listen in its configuration";
    if (pki_request_key(in->request.data, in->request.len, n->key))
        return "its request for a certificate is none";
    if (!ca_signs(c) ||
        pki_fingerprint_signer(c->pki.ca.data, c->pki.ca.len, c->pki.ca_key.data, c->pki.ca_key.len, n->ca))
        return no_ca_key;
    memcpy(n->name, in->name.data, in->name.len);
    n->version = in->cluster_version;
    n->availability = NODE_ACTIVE;
    n->role = NODE_WORKER; /* the token's role counts */
    cluster_managers_down(c, &out->down);
    return NULL;
}

void admit_join(void *arg, struct mesh_guest *guest, const void *body, size_t len)
{
    struct cluster *c = arg;
    struct frame_join in;
    struct admission *a = calloc(1, sizeof(*a));
    CHECK(a);
    int rc = frame_join_get(body, len, &in);
    const char *wrong = rc == -EPROTO ? "its program is of another version: bring both to the same one"
                        : rc          ? "what it sends makes no sense"
                                      : NULL;
    if (!wrong && !EVP_Digest(in.secret, sizeof(in.secret), a->join.token, NULL, EVP_sha256(), NULL))
        wrong = "out of memory";
    /* Who has no token is told nothing else. */
    bool known = !wrong && token_known(c, a->join.token, guest);
    if (known)
        wrong = join_take(c, &in, &a->join);
    if (wrong == no_ca_key)
        put_off(c, guest, wrong);
    else if (wrong)
        refuse(c, guest, "%s", wrong);
    if (wrong || !known) {
        free(a);
        return;
    }
    a->cluster = c;
    a->guest = guest;
    a->request_len = in.request.len;
    memcpy(a->request, in.request.data, in.request.len);
    struct node_asker who = {"system", mesh_guest_address(guest)};
    size_t cmd_len;
    void *cmd = node_cmd_add(who, &a->join, &cmd_len);
    cluster_propose(c, cmd, cmd_len, on_added, a);
}

/* ------------------------------------------------------------------ certificates that run out */

/* A certificate, or why not: bytes certificate, bytes text. */
static void renewal_reply(struct cluster *c, uint64_t to, uint64_t id, const struct pki_text *cert,
                          const char *why)
{
    uint8_t *body = malloc(RENEW_REPLY_MAX);
    struct wire_writer w = {.buf = body, .cap = RENEW_REPLY_MAX};
    CHECK(body);
    wire_put_bytes(&w, cert->data, cert->len);
    wire_put_bytes(&w, why, strlen(why));
    mesh_send(c->mesh, to, MESH_RENEW_REPLY, id, w.buf, w.len);
    free(body);
}

static void on_renew(struct cluster *c, uint64_t from, uint64_t id, const void *body, size_t len)
{
    struct node_table t = {0};
    struct pki_text cert = {0};
    uint8_t key[PKI_FINGERPRINT_BYTES];
    char err[PKI_ERR_MAX] = "";
    const struct node *n = cluster_nodes(c, &t) ? NULL : node_find(&t, from);
    static const uint8_t none[NODE_HASH_BYTES];
    if (!n)
        snprintf(err, sizeof(err), "the state does not have this node");
    else if (!ca_signs(c))
        snprintf(err, sizeof(err), "this manager has no CA key yet");
    else if (pki_request_key(body, len, key) ||
             (memcmp(n->key, none, sizeof(none)) != 0 && memcmp(n->key, key, sizeof(key)) != 0))
        snprintf(err, sizeof(err), "the request is not of the node's key");
    else
        (void)certificate_make(c, n, body, len, &cert, err); /* err stays "" when it worked */
    renewal_reply(c, from, id, &cert, err);
    pki_text_free(&cert);
    node_table_fini(&t);
}

/* What a certificate that was given for this node makes of it. 0 or -errno with err. */
static int certificate_take(const struct cluster *c, const struct pki_text *cert, struct pki_identity **out,
                            char err[PKI_ERR_MAX])
{
    uint8_t ca[PKI_FINGERPRINT_BYTES];
    int rc = pki_identity_new(c->pki.ca.data, c->pki.ca.len, cert->data, cert->len, c->pki.key.data,
                              c->pki.key.len, out, err);
    if (rc)
        return rc;
    pki_identity_ca(*out, ca);
    if (memcmp(pki_identity_name(*out), pki_identity_name(c->identity), sizeof(struct pki_name)) != 0)
        snprintf(err, PKI_ERR_MAX, "it is another node's");
    else if (c->ca.signer_said && memcmp(ca, c->ca.signer, sizeof(ca)) != 0)
        snprintf(err, PKI_ERR_MAX, "who signed it has not got the new CA's key yet; it is tried again");
    else
        return 0;
    pki_identity_free(*out);
    return -EINVAL;
}

static void on_certificate(struct cluster *c, int rc)
{
    if (rc)
        return;
    journal_info(c->config.journal, "cluster", "this node has a new certificate");
    ca_files_changed(c);
}

/* A new certificate of this node: shown as soon as it is stored. */
static void certificate_use(struct cluster *c, const struct pki_text *cert)
{
    struct pki_identity *next;
    char err[PKI_ERR_MAX] = "";
    if (pki_busy(c))
        return; /* the upkeep asks for another one */
    int rc = certificate_take(c, cert, &next, err);
    if (rc) {
        journal_error(c->config.journal, "cluster", "a new certificate of this node cannot be used: %s",
                      err[0] ? err : strerror(-rc));
        return;
    }
    struct pki_text copy = pki_copy(cert->data, cert->len);
    pki_put(c, PKI_FILE_CERT, &c->pki.cert, &copy);
    pki_begin(c, "a new certificate of this node cannot be stored", next, on_certificate);
}

static void on_renew_reply(struct cluster *c, const void *body, size_t len)
{
    struct wire_reader r = {.buf = body, .len = len};
    size_t cert_len, why_len;
    const char *data = (const char *)wire_get_bytes(&r, &cert_len);
    const char *why = (const char *)wire_get_bytes(&r, &why_len);
    if (!wire_at_end(&r) || cert_len > PKI_PEM_BYTES_MAX) {
        journal_error(c->config.journal, "cluster",
                      "the answer to a request for a certificate makes no sense");
    } else if (cert_len == 0) {
        journal_warn(c->config.journal, "cluster", "no new certificate: %.*s; it is tried again",
                     (int)(why_len < PKI_ERR_MAX ? why_len : PKI_ERR_MAX), why);
    } else {
        struct pki_text cert = {(char *)(uintptr_t)data, cert_len};
        certificate_use(c, &cert);
    }
}

/* ------------------------------------------------------------------ the CA's key */

static void on_ca_key(struct cluster *c, uint64_t from, uint64_t id)
{
    bool give = net_is_manager(c, from) && c->pki.ca_key.data;
    mesh_send(c->mesh, from, MESH_CA_KEY_REPLY, id, give ? c->pki.ca_key.data : NULL,
              give ? c->pki.ca_key.len : 0);
}

static void on_ca_key_stored(struct cluster *c, int rc)
{
    if (rc == 0)
        journal_info(c->config.journal, "cluster", "this node has the CA's key now and can let others join");
}

static void on_ca_key_reply(struct cluster *c, uint64_t from, const void *body, size_t len)
{
    if (len == 0 || len > PKI_PEM_BYTES_MAX || c->pki.ca_key.data || pki_busy(c) || !net_is_manager(c, from))
        return;
    struct pki_text key = pki_copy(body, len);
    if (strlen(key.data) != len || !pki_key_is_of(c->pki.ca.data, c->pki.ca.len, key.data, len)) {
        journal_error(c->config.journal, "cluster",
                      "the CA's key that node %" PRIu64 " gave cannot be used: it is of another CA, or none",
                      from);
        pki_text_free(&key);
        return;
    }
    pki_put(c, PKI_FILE_CA_KEY, &c->pki.ca_key, &key);
    pki_begin(c, "the CA's key cannot be stored", NULL, on_ca_key_stored);
}

void admit_frame(struct cluster *c, uint64_t from, uint16_t type, uint64_t id, const void *body, size_t len)
{
    if (type == MESH_RENEW)
        on_renew(c, from, id, body, len);
    else if (type == MESH_RENEW_REPLY)
        on_renew_reply(c, body, len);
    else if (type == MESH_CA_KEY)
        on_ca_key(c, from, id);
    else if (type == MESH_CA_KEY_REPLY)
        on_ca_key_reply(c, from, body, len);
}

/* ------------------------------------------------------------------ upkeep */

/* In the last third of its life. */
static bool certificate_is_old(const struct cluster *c)
{
    int64_t until = pki_identity_not_after(c->identity);
    int64_t life = until - pki_identity_not_before(c->identity) - PKI_BACKDATE_S;
    return time(NULL) >= until - life / 3;
}

static void renew(struct cluster *c)
{
    struct pki_text request, cert = {0};
    struct node_table t = {0};
    char err[PKI_ERR_MAX];
    uint64_t manager = net_some_manager(c), self = pki_identity_name(c->identity)->node_id;
    if (pki_request_of(c->pki.key.data, c->pki.key.len, &request))
        return;
    const struct node *n = ca_signs(c) && cluster_nodes(c, &t) == 0 ? node_find(&t, self) : NULL;
    if (n && certificate_make(c, n, request.data, request.len, &cert, err) == 0)
        certificate_use(c, &cert);
    else if (manager)
        mesh_send(c->mesh, manager, MESH_RENEW, 0, request.data, request.len);
    pki_text_free(&cert);
    pki_text_free(&request);
    node_table_fini(&t);
}

void admit_upkeep(struct cluster *c)
{
    uint64_t self = pki_identity_name(c->identity)->node_id, manager;
    if (pki_busy(c))
        return;
    if (certificate_is_old(c) || ca_wants_certificate(c))
        renew(c);
    if (!c->pki.ca_key.data && net_is_manager(c, self) && (manager = net_some_manager(c)))
        mesh_send(c->mesh, manager, MESH_CA_KEY, 0, NULL, 0);
}
