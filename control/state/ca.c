/* SPDX-License-Identifier: Apache-2.0 */
/* The CA's row, what nodes say of it, and their bytes. */
#include "control/state/ca.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ca_rows.h"
#include "control/state/by_id.h"

enum { ROW_VERSION = 1 };

enum ca_lack ca_lacks(const struct ca_row *row, const struct node *n, const struct ca_node *said)
{
    if (row->phase == CA_SIGN)
        return memcmp(n->ca, row->next.hash, NODE_HASH_BYTES) == 0 ? CA_LACKS_NOTHING : CA_LACKS_CERTIFICATE;
    if (row->phase != CA_TRUST)
        return CA_LACKS_NOTHING;
    if (!said || memcmp(said->ca, row->next.hash, NODE_HASH_BYTES) != 0 || !said->trusts)
        return CA_LACKS_TRUST;
    return n->role == NODE_MANAGER && !said->has_key ? CA_LACKS_KEY : CA_LACKS_NOTHING;
}

const struct ca_node *ca_node_find(const struct ca_view *v, uint64_t id)
{
    _Static_assert(offsetof(struct ca_node, id) == 0, "as by_id wants it");
    return by_id(v->node, v->count, sizeof(v->node[0]), id);
}

const struct ca_cert *ca_signer(const struct ca_row *row)
{
    const struct ca_cert *signer = row->phase == CA_SIGN ? &row->next : &row->current;
    return signer->len ? signer : NULL;
}

const char *ca_phase_name(unsigned phase)
{
    static const char *const names[CA_PHASE_COUNT] = {"steady", "wanted", "trust", "sign"};
    return phase < CA_PHASE_COUNT ? names[phase] : "unknown";
}

const char *ca_lack_name(enum ca_lack lack)
{
    static const char *const names[CA_LACK_COUNT] = {"nothing", "trust", "key", "certificate"};
    return (unsigned)lack < CA_LACK_COUNT ? names[lack] : "unknown";
}

void ca_view_fini(struct ca_view *v)
{
    free(v->node);
    memset(v, 0, sizeof(*v));
}

/* ------------------------------------------------------------------ bytes */

static void hash_get(struct wire_reader *r, uint8_t out[NODE_HASH_BYTES])
{
    const uint8_t *hash = wire_get(r, NODE_HASH_BYTES);
    if (hash)
        memcpy(out, hash, NODE_HASH_BYTES);
}

static bool flag_get(struct wire_reader *r)
{
    uint8_t flag = wire_get_u8(r);
    if (flag > 1)
        r->failed = true;
    return flag == 1;
}

static void pem_put(struct wire_writer *w, const struct ca_pem *p)
{
    wire_put(w, p->hash, sizeof(p->hash));
    wire_put_bytes(w, p->data, p->len);
}

static void pem_get(struct wire_reader *r, struct ca_pem *p)
{
    hash_get(r, p->hash);
    p->data = (const char *)wire_get_bytes(r, &p->len);
    if (r->failed || p->len > CA_PEM_MAX) {
        r->failed = true;
        p->len = 0;
    }
}

void ca_cert_set(struct ca_cert *c, const struct ca_pem *p)
{
    memset(c, 0, sizeof(*c));
    memcpy(c->hash, p->hash, sizeof(c->hash));
    if (p->len)
        memcpy(c->pem, p->data, p->len);
    c->len = p->len;
}

static void cert_put(struct wire_writer *w, const struct ca_cert *c)
{
    struct ca_pem p = {.data = c->pem, .len = c->len};
    memcpy(p.hash, c->hash, sizeof(p.hash));
    pem_put(w, &p);
}

static void cert_get(struct wire_reader *r, struct ca_cert *c)
{
    struct ca_pem p = {.len = 0};
    pem_get(r, &p);
    ca_cert_set(c, &p);
}

void ca_row_put(struct wire_writer *w, const struct ca_row *row)
{
    wire_put_u8(w, ROW_VERSION);
    wire_put_u8(w, row->phase);
    wire_put_u8(w, row->forced);
    wire_put_u32(w, row->count);
    wire_put_u64(w, row->begun_ms);
    wire_put_u64(w, row->changed_ms);
    cert_put(w, &row->current);
    cert_put(w, &row->next);
}

void ca_row_get(struct wire_reader *r, struct ca_row *row)
{
    memset(row, 0, sizeof(*row));
    uint8_t version = wire_get_u8(r);
    row->phase = wire_get_u8(r);
    row->forced = flag_get(r);
    row->count = wire_get_u32(r);
    row->begun_ms = wire_get_u64(r);
    row->changed_ms = wire_get_u64(r);
    cert_get(r, &row->current);
    cert_get(r, &row->next);
    if (version != ROW_VERSION || row->phase >= CA_PHASE_COUNT)
        r->failed = true;
}

void ca_step_put(struct wire_writer *w, const struct ca_step *s)
{
    wire_put_u8(w, s->to);
    wire_put_u8(w, s->force);
    wire_put_u64(w, s->maker);
    pem_put(w, &s->current);
    pem_put(w, &s->next);
}

void ca_step_get(struct wire_reader *r, struct ca_step *s)
{
    memset(s, 0, sizeof(*s));
    s->to = wire_get_u8(r);
    s->force = flag_get(r);
    s->maker = wire_get_u64(r);
    pem_get(r, &s->current);
    pem_get(r, &s->next);
    bool whole = s->current.len && s->next.len && s->maker;
    if ((s->to != CA_TRUST && s->to != CA_SIGN && s->to != CA_STEADY) || (s->to == CA_TRUST && !whole))
        r->failed = true;
}

void ca_node_put(struct wire_writer *w, const struct ca_node *n)
{
    wire_put_u64(w, n->id);
    wire_put(w, n->ca, sizeof(n->ca));
    wire_put_u8(w, n->trusts);
    wire_put_u8(w, n->has_key);
}

void ca_node_get(struct wire_reader *r, struct ca_node *n)
{
    memset(n, 0, sizeof(*n));
    n->id = wire_get_u64(r);
    hash_get(r, n->ca);
    n->trusts = flag_get(r);
    n->has_key = flag_get(r);
}
