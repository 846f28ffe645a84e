/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The CA is exchanged for another one: what this node has to do for it (its bundle, its certificate, a
 * manager's key), what it says of that, and the steps that the leader takes (state/ca.h). All of it follows
 * from the state and from the files of STATE/pki, looked at again after each change and now and then: so it
 * goes on wherever it was cut off.
 *
 * The CAs' keys are on managers alone. One that lacks a key asks another manager, as for the first CA's.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_internal.h"
#include "control/events.h"
#include "control/journal.h"
#include "control/node_commands.h"

enum { KEYS_STAY_MS = 5000 };

static const struct node_asker self_asks = {"system", "node"};

/* What the state says, while it is looked at. */
struct look {
    struct node_table nodes;
    struct ca_view ca;
    const struct node *me; /* NULL: the state does not have this node */
    uint64_t self;
};

static int look_open(struct cluster *c, struct look *l)
{
    struct kv *kv;
    *l = (struct look){.self = pki_identity_name(c->identity)->node_id};
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int rc = state_nodes_read(kv, &l->nodes);
    if (rc == 0)
        rc = state_ca_view(kv, &l->ca);
    consensus_view_end(view);
    if (rc)
        node_table_fini(&l->nodes);
    else
        l->me = node_find(&l->nodes, l->self);
    return rc;
}

static void look_close(struct look *l)
{
    node_table_fini(&l->nodes);
    ca_view_fini(&l->ca);
}

int cluster_ca_view(struct cluster *c, struct ca_view *out)
{
    struct kv *kv;
    struct db_view *view = consensus_view_begin(c->consensus, &kv);
    if (!view)
        return -ENOMEM;
    int rc = state_ca_view(kv, out);
    consensus_view_end(view);
    return rc;
}

/* ------------------------------------------------------------------ what it has */

void ca_changed(struct cluster *c, bool soon)
{
    c->ca.settled = false;
    bool waits = soon || c->ca.phase != CA_STEADY; /* else the upkeep is early enough */
    if (c->mesh && !c->closing && waits)
        net_upkeep_within(c, soon ? CA_SOON_MS : CA_LATER_MS);
}

const char *cluster_ca_blocked(const struct cluster *c)
{
    return c->ca.blocked;
}

void ca_files_changed(struct cluster *c)
{
    pki_identity_ca(c->identity, c->ca.own);
    c->ca.serial++;
    ca_changed(c, true);
    if (c->config.handlers.certificates)
        c->config.handlers.certificates(c->config.arg, c->ca.serial);
}

void cluster_certificates_taken(struct cluster *c, uint64_t serial)
{
    if (!c->mesh || serial == c->ca.taken)
        return;
    c->ca.taken = serial;
    ca_changed(c, true);
}

bool cluster_ca_shown(const struct cluster *c, uint8_t out[NODE_HASH_BYTES])
{
    if (!c->mesh || c->closing || c->ca.taken != c->ca.serial)
        return false;
    memcpy(out, c->ca.own, NODE_HASH_BYTES);
    return true;
}

static bool key_is_of(const struct pki_text *key, const struct ca_cert *cert)
{
    return key->data && cert->len && pki_key_is_of(cert->pem, cert->len, key->data, key->len);
}

bool ca_signs(const struct cluster *c)
{
    uint8_t hash[PKI_FINGERPRINT_BYTES];
    const struct pki_files *p = &c->pki;
    return p->ca_key.data &&
           pki_fingerprint_signer(p->ca.data, p->ca.len, p->ca_key.data, p->ca_key.len, hash) == 0 &&
           (!c->ca.signer_said || memcmp(hash, c->ca.signer, sizeof(hash)) == 0);
}

bool ca_wants_certificate(const struct cluster *c)
{
    return c->ca.signer_said && memcmp(c->ca.own, c->ca.signer, sizeof(c->ca.own)) != 0;
}

static void signer_note(struct cluster *c, const struct ca_row *row)
{
    const struct ca_cert *signer = ca_signer(row);
    c->ca.signer_said = signer != NULL;
    if (signer)
        memcpy(c->ca.signer, signer->hash, sizeof(c->ca.signer));
}

void ca_open(struct cluster *c)
{
    struct look l;
    pki_identity_ca(c->identity, c->ca.own);
    c->ca.serial = 1;
    if (look_open(c, &l))
        return; /* the upkeep does it */
    signer_note(c, &l.ca.row);
    c->ca.phase = l.ca.row.phase;
    look_close(&l);
}

static void say_phase(struct cluster *c, const struct ca_row *row)
{
    static const char *const texts[CA_PHASE_COUNT] = {
        [CA_STEADY] = "it has been exchanged: the one before is not trusted any more",
        [CA_WANTED] = "it is to be exchanged: whoever leads makes another one",
        [CA_TRUST] = "there is another one, which every node trusts beside it before it signs anything",
        [CA_SIGN] = "the new one signs: every node gets a certificate of it",
    };
    if (c->ca.phase != row->phase)
        journal_info(c->config.journal, "cluster", "the cluster's CA: %s", texts[row->phase]);
    c->ca.phase = row->phase;
}

/* ------------------------------------------------------------------ whom it trusts */

/* The certificates that ca.pem is to have, the one that signs first. */
static struct pki_text bundle_of(const struct ca_row *row)
{
    const struct ca_cert *first = ca_signer(row);
    const struct ca_cert *second = row->phase == CA_TRUST  ? &row->next
                                   : row->phase == CA_SIGN ? &row->current
                                                           : NULL;
    struct pki_text text = {.len = first->len + (second ? second->len : 0)};
    text.data = calloc(1, text.len + 1);
    CHECK(text.data);
    memcpy(text.data, first->pem, first->len);
    if (second)
        memcpy(text.data + first->len, second->pem, second->len);
    return text;
}

static void on_bundle(struct cluster *c, int rc)
{
    if (rc)
        return;
    c->ca.hangs_up = true;
    ca_files_changed(c);
}

/* Connections that stand were made with certificates of a CA that is trusted no more. Who has got another one
 * meanwhile stays; who was left behind does not. */
static void hang_up_on_others(struct cluster *c, const struct node_table *t)
{
    c->ca.hangs_up = false;
    for (size_t i = 0; i < t->count; i++)
        if (!node_counts(t, &t->node[i]))
            mesh_drop(c->mesh, t->node[i].id, MESH_CHAIN);
}

/* True: ca.pem is as the state says. A node whose own certificate is of a CA that goes needs another one
 * first. */
static bool bundle_settle(struct cluster *c, const struct look *l)
{
    struct pki_identity *next;
    char err[PKI_ERR_MAX];
    struct pki_text bundle = bundle_of(&l->ca.row);
    if (bundle.len == c->pki.ca.len && memcmp(bundle.data, c->pki.ca.data, bundle.len) == 0) {
        pki_text_free(&bundle);
        return true;
    }
    if (pki_busy(c) || pki_identity_new(bundle.data, bundle.len, c->pki.cert.data, c->pki.cert.len,
                                        c->pki.key.data, c->pki.key.len, &next, err)) {
        pki_text_free(&bundle);
        return false;
    }
    pki_put(c, PKI_FILE_CA, &c->pki.ca, &bundle);
    pki_begin(c, "the cluster's CAs cannot be stored", next, on_bundle);
    return false;
}

/* ------------------------------------------------------------------ keys, of managers */

static bool has_key_of(const struct ca_node *n, const struct ca_cert *of)
{
    return n->has_key && memcmp(n->ca, of->hash, sizeof(n->ca)) == 0;
}

/* A manager that has said that it has it; else a node that was one, and has not dropped it yet. */
static void key_ask(struct cluster *c, const struct ca_view *v, const struct ca_cert *of)
{
    uint64_t giver = 0;
    for (size_t i = 0; i < v->count; i++) {
        const struct ca_node *n = &v->node[i];
        if (has_key_of(n, of) && mesh_is_up(c->mesh, n->id) && (!giver || net_is_manager(c, n->id)))
            giver = n->id;
    }
    if (!giver)
        giver = net_some_manager(c);
    if (giver)
        mesh_send(c->mesh, giver, CLUSTER_FRAME_CA_KEY, 0, of->hash, sizeof(of->hash));
}

static bool next_is_there(const struct cluster *c)
{
    return c->pki.next_key.data || c->pki.next_ca.data;
}

static void next_drop(struct cluster *c)
{
    if (c->pki.next_key.data)
        pki_drop(c, PKI_FILE_NEXT_KEY, &c->pki.next_key);
    if (c->pki.next_ca.data)
        pki_drop(c, PKI_FILE_NEXT_CA, &c->pki.next_ca);
}

static const char not_stored[] = "the CA's key cannot be stored",
                  not_removed[] = "the CA's key cannot be removed";

/* True: this manager has the keys that it should, and no others. */
static bool key_settle(struct cluster *c, const struct ca_view *v)
{
    const struct ca_cert *signer = ca_signer(&v->row), *next = &v->row.next;
    bool done = true;
    if (pki_busy(c))
        return false;
    if (v->row.phase == CA_TRUST && !key_is_of(&c->pki.next_key, next)) {
        key_ask(c, v, next);
        done = false;
    }
    if (signer && !key_is_of(&c->pki.ca_key, signer)) {
        done = false;
        if (key_is_of(&c->pki.next_key, signer)) {
            struct pki_text key = pki_copy(c->pki.next_key.data, c->pki.next_key.len);
            pki_put(c, PKI_FILE_CA_KEY, &c->pki.ca_key, &key);
            pki_begin(c, not_stored, NULL, NULL);
        } else {
            key_ask(c, v, signer);
        }
    }
    if (!done || !next_is_there(c) || (v->row.phase != CA_SIGN && v->row.phase != CA_STEADY))
        return done;
    next_drop(c);
    pki_begin(c, not_removed, NULL, NULL);
    return false;
}

/* Some manager has said that it has the key. */
static bool others_have(const struct look *l, const struct ca_cert *of)
{
    for (size_t i = 0; i < l->ca.count; i++) {
        const struct node *n = node_find(&l->nodes, l->ca.node[i].id);
        if (n && n->id != l->self && n->role == NODE_MANAGER && has_key_of(&l->ca.node[i], of))
            return true;
    }
    return false;
}

static void on_keys_left(struct cluster *c, int rc)
{
    if (rc == 0)
        journal_info(c->config.journal, "cluster",
                     "this node is no manager: it has removed its key of the CA");
}

/* A node that is no manager (any more) keeps no key that a manager has. It waits a moment: one that has
 * become a manager again, and said so before it dropped its own, may have to ask for it. True: there is
 * nothing to drop. */
static bool keys_leave(struct cluster *c, const struct look *l)
{
    const struct ca_cert *signer = ca_signer(&l->ca.row),
                         *next = l->ca.row.next.len ? &l->ca.row.next : signer;
    bool drops_ca = c->pki.ca_key.data && signer && others_have(l, signer);
    bool drops_next = next_is_there(c) && (!next || others_have(l, next));
    uint64_t now_ms = uv_now(c->config.loop);
    if (!c->ca.demoted_ms)
        c->ca.demoted_ms = now_ms;
    if (!drops_ca && !drops_next)
        return true;
    if (now_ms - c->ca.demoted_ms < KEYS_STAY_MS || !net_some_manager(c) || pki_busy(c))
        return false;
    if (drops_next)
        next_drop(c);
    if (drops_ca)
        pki_drop(c, PKI_FILE_CA_KEY, &c->pki.ca_key);
    pki_begin(c, not_removed, NULL, on_keys_left);
    return false;
}

static void on_key_wanted(struct cluster *c, uint64_t from, const void *body, size_t len)
{
    const struct pki_text *const keys[] = {&c->pki.ca_key, &c->pki.next_key};
    uint8_t hash[PKI_FINGERPRINT_BYTES];
    if (len != sizeof(hash) || !net_is_manager(c, from))
        return;
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (keys[i]->data &&
            pki_fingerprint_signer(c->pki.ca.data, c->pki.ca.len, keys[i]->data, keys[i]->len, hash) == 0 &&
            memcmp(hash, body, sizeof(hash)) == 0) {
            mesh_send(c->mesh, from, CLUSTER_FRAME_CA_KEY_REPLY, 0, keys[i]->data, keys[i]->len);
            return;
        }
}

static void on_key_stored(struct cluster *c, int rc)
{
    if (rc == 0)
        journal_info(c->config.journal, "cluster", "this node has the new CA's key now");
}

static void on_key(struct cluster *c, uint64_t from, const void *body, size_t len)
{
    struct ca_view v;
    if (len == 0 || len > PKI_PEM_BYTES_MAX || memchr(body, '\0', len) || pki_busy(c) ||
        !net_is_manager(c, pki_identity_name(c->identity)->node_id) || cluster_ca_view(c, &v))
        return;
    const struct ca_node *giver = ca_node_find(&v, from);
    if (!net_is_manager(c, from) && !(giver && giver->has_key)) {
        ca_view_fini(&v);
        return;
    }
    struct pki_text key = pki_copy(body, len);
    const struct ca_cert *signer = ca_signer(&v.row);
    if (v.row.phase == CA_TRUST && key_is_of(&key, &v.row.next))
        pki_put(c, PKI_FILE_NEXT_KEY, &c->pki.next_key, &key);
    else if (signer && key_is_of(&key, signer))
        pki_put(c, PKI_FILE_CA_KEY, &c->pki.ca_key, &key);
    if (key.data) { /* not taken: the state has gone on, or will */
        pki_text_free(&key);
        ca_changed(c, true);
    } else {
        pki_begin(c, not_stored, NULL, on_key_stored);
    }
    ca_view_fini(&v);
}

void ca_frame(struct cluster *c, uint64_t from, uint16_t type, const void *body, size_t len)
{
    if (type == CLUSTER_FRAME_CA_KEY)
        on_key_wanted(c, from, body, len);
    else
        on_key(c, from, body, len);
}

/* ------------------------------------------------------------------ what it says */

static void on_asked(void *arg, enum cmd_status status, uint64_t index, const void *detail, size_t len)
{
    struct cluster *c = arg;
    (void)index;
    c->ca.asking = false;
    /* Another node was quicker, or there is no leader: it is looked at again. */
    if (status != CMD_OK && status != CMD_CONFLICT && status != CMD_NO_LEADER && status != CMD_BUSY &&
        status != CMD_UNKNOWN_OUTCOME)
        journal_error(c->config.journal, "cluster", "the exchange of the CA: %s%s%.*s",
                      events_status_name(status), len ? ": " : "", (int)len, len ? (const char *)detail : "");
}

static void ask(struct cluster *c, void *cmd, size_t len)
{
    c->ca.asking = true;
    cluster_propose(c, cmd, len, on_asked, c);
}

static void say_trust(struct cluster *c, const struct look *l, bool bundled)
{
    const struct ca_row *row = &l->ca.row;
    const struct ca_node *said = ca_node_find(&l->ca, l->self);
    struct ca_node now = {.id = l->self,
                          .trusts = bundled && c->ca.taken == c->ca.serial,
                          .has_key = key_is_of(&c->pki.next_key, &row->next)};
    memcpy(now.ca, row->next.hash, sizeof(now.ca));
    bool known = said && memcmp(said->ca, now.ca, sizeof(now.ca)) == 0;
    if (c->ca.asking || !l->me || (!now.trusts && !now.has_key) ||
        (known && said->trusts == now.trusts && said->has_key == now.has_key))
        return;
    size_t len;
    void *cmd = node_cmd_ca_node(self_asks, &now, &len);
    ask(c, cmd, len);
}

/* ------------------------------------------------------------------ the leader's steps */

static bool is_there(void *arg, uint64_t node)
{
    const struct cluster *c = arg;
    uint64_t applied;
    return node == pki_identity_name(c->identity)->node_id || mesh_is_up(c->mesh, node) ||
           followers_find(c, node, &applied) != 0;
}

static void on_next_made(struct cluster *c, int rc)
{
    c->ca.unmade = rc != 0;
}

/* A pair that was made before, and never came to be known, is as good as another one. 0: there is one;
 * -EINPROGRESS, or -errno. */
static int next_make(struct cluster *c)
{
    struct pki_files *p = &c->pki;
    struct pki_text cert, key;
    bool usable = p->next_ca.data && p->next_key.data &&
                  pki_key_is_of(p->next_ca.data, p->next_ca.len, p->next_key.data, p->next_key.len) &&
                  !pki_key_is_of(p->ca.data, p->ca.len, p->next_key.data, p->next_key.len);
    if (pki_busy(c)) /* maybe with the removal of this very pair */
        return -EINPROGRESS;
    if (usable)
        return 0;
    if (next_is_there(c)) {
        next_drop(c);
        pki_begin(c, not_removed, NULL, on_next_made);
        return -EINPROGRESS;
    }
    int rc = pki_ca_make(pki_identity_name(c->identity)->cluster_id, &cert, &key);
    if (rc) {
        journal_error(c->config.journal, "cluster", "a new CA cannot be made: %s", strerror(-rc));
        return rc;
    }
    /* The key first: without it the certificate would be good for nothing. */
    pki_put(c, PKI_FILE_NEXT_KEY, &p->next_key, &key);
    pki_put(c, PKI_FILE_NEXT_CA, &p->next_ca, &cert);
    pki_begin(c, not_stored, NULL, on_next_made);
    return -EINPROGRESS;
}

/* Why this leader cannot make another CA; NULL: it can. waits: for the disk, just now. */
static const char *why_not_made(struct cluster *c, const struct look *l, bool *waits)
{
    *waits = false;
    if (!l->me || l->me->role != NODE_MANAGER)
        return "the leader is no manager";
    if (!c->pki.ca_key.data)
        return "the leader has no key of the CA (" PKI_FOLDER "/" PKI_FILE_CA_KEY
               "), and no other manager gave it one";
    if (!ca_signs(c))
        return "the leader's key (" PKI_FOLDER "/" PKI_FILE_CA_KEY
               ") is of another CA than the one that signs";
    int rc = next_make(c);
    *waits = rc == -EINPROGRESS;
    return rc && (!*waits || c->ca.unmade)
               ? "a new CA cannot be made or stored by the leader: look at its log"
               : NULL;
}

static void lead_make(struct cluster *c, const struct look *l)
{
    struct pki_files *p = &c->pki;
    struct ca_step step = {.to = CA_TRUST, .maker = l->self};
    struct pki_text current;
    size_t len;
    bool waits;
    const char *why = why_not_made(c, l, &waits);
    if (why && why != c->ca.blocked)
        journal_error(c->config.journal, "cluster", "the cluster's CA cannot be exchanged yet: %s", why);
    c->ca.blocked = why;
    if (why || waits || pki_signer_cert(p->ca.data, p->ca.len, p->ca_key.data, p->ca_key.len, &current))
        return;
    step.current.data = current.data;
    step.current.len = current.len;
    step.next.data = p->next_ca.data;
    step.next.len = p->next_ca.len;
    if (pki_fingerprint(current.data, current.len, step.current.hash) == 0 &&
        pki_fingerprint(p->next_ca.data, p->next_ca.len, step.next.hash) == 0 && current.len <= CA_PEM_MAX &&
        p->next_ca.len <= CA_PEM_MAX) {
        void *cmd = node_cmd_ca_step(self_asks, &step, &len);
        ask(c, cmd, len);
    }
    pki_text_free(&current);
}

static void lead_on(struct cluster *c, const struct look *l)
{
    const struct ca_row *row = &l->ca.row;
    struct ca_step step = {.to = row->phase == CA_TRUST ? CA_SIGN : CA_STEADY};
    size_t len;
    for (size_t i = 0; i < l->nodes.count; i++) {
        const struct node *n = &l->nodes.node[i];
        if (ca_lacks(row, n, ca_node_find(&l->ca, n->id)) == CA_LACKS_NOTHING)
            continue;
        if (!row->forced || !unseen_for(&c->ca.unseen, n->id, CA_AWAY_MS))
            return;
        step.force = true;
    }
    memcpy(step.next.hash, row->next.hash, sizeof(step.next.hash));
    void *cmd = node_cmd_ca_step(self_asks, &step, &len);
    ask(c, cmd, len);
}

void ca_upkeep(struct cluster *c)
{
    struct look l;
    struct consensus_status s;
    if (c->ca.settled || c->closing || look_open(c, &l))
        return;
    const struct ca_row *row = &l.ca.row;
    bool bundled = true, keyed = true;
    signer_note(c, row);
    say_phase(c, row);
    if (c->ca.hangs_up)
        hang_up_on_others(c, &l.nodes);
    if (ca_signer(row))
        bundled = bundle_settle(c, &l);
    if (l.me && l.me->role != NODE_MANAGER)
        keyed = keys_leave(c, &l);
    else
        c->ca.demoted_ms = 0;
    if (l.me && l.me->role == NODE_MANAGER)
        keyed = key_settle(c, &l.ca);
    c->ca.settled = row->phase == CA_STEADY && bundled && keyed && !pki_busy(c) && !ca_wants_certificate(c);
    if (row->phase == CA_TRUST)
        say_trust(c, &l, bundled);
    consensus_status(c->consensus, &s);
    if (s.leads && row->phase != CA_STEADY)
        unseen_look(&c->ca.unseen, s.term, &l.nodes, is_there, c, uv_now(c->config.loop));
    if (s.leads && !c->ca.asking && row->phase == CA_WANTED)
        lead_make(c, &l);
    else if (s.leads && !c->ca.asking && row->phase != CA_STEADY)
        lead_on(c, &l);
    if (!s.leads || row->phase != CA_WANTED)
        c->ca.blocked = NULL;
    look_close(&l);
}

void ca_close(struct cluster *c)
{
    unseen_free(&c->ca.unseen);
}
