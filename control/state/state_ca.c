/* SPDX-License-Identifier: Apache-2.0 */
/* The CA's rotation: which step is taken when. */
#include <stdlib.h>

#include "ca_rows.h"
#include "node_rows.h"
#include "state_service.h"

/* --- rows --- */

static struct state_key key_row(void)
{
    struct state_key key = {.len = strlen("ca")};
    memcpy(key.data, "ca", key.len);
    return key;
}

static struct state_key key_node(uint64_t id)
{
    static const char prefix[] = "ca-node:";
    struct state_key key = {.len = sizeof(prefix) - 1};
    memcpy(key.data, prefix, key.len);
    for (int shift = 56; shift >= 0; shift -= 8)
        key.data[key.len++] = (uint8_t)(id >> shift);
    return key;
}

int state_ca_read(struct kv *kv, struct ca_row *out)
{
    struct state_key key = key_row();
    struct kv_bytes value;
    memset(out, 0, sizeof(*out));
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(&key), &value);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    struct wire_reader r = {.buf = value.data, .len = value.len};
    ca_row_get(&r, out);
    return wire_at_end(&r) ? 0 : -EUCLEAN;
}

static int row_put(struct kv *kv, struct ca_row *row, struct state_event *out)
{
    struct state_key key = key_row();
    uint8_t bytes[CA_ROW_BYTES_MAX];
    struct wire_writer w = {.buf = bytes, .cap = sizeof(bytes)};
    row->changed_ms = out->cmd.head.time_ms;
    ca_row_put(&w, row);
    CHECK(!w.failed);
    out->changed = true;
    return state_row_put(kv, PRIVATE_DATA, &key, bytes, w.len);
}

static int decode_node(struct kv_bytes value, struct ca_node *out)
{
    struct wire_reader r = {.buf = value.data, .len = value.len};
    ca_node_get(&r, out);
    return wire_at_end(&r) ? 0 : -EUCLEAN;
}

static int said_get(struct kv *kv, uint64_t id, struct ca_node *out)
{
    struct state_key key = key_node(id);
    struct kv_bytes value;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(&key), &value);
    return rc ? rc : decode_node(value, out);
}

static int said_put(struct kv *kv, const struct ca_node *n)
{
    struct state_key key = key_node(n->id);
    uint8_t bytes[CA_NODE_BYTES_MAX];
    struct wire_writer w = {.buf = bytes, .cap = sizeof(bytes)};
    ca_node_put(&w, n);
    CHECK(!w.failed);
    return state_row_put(kv, PRIVATE_DATA, &key, bytes, w.len);
}

static int said_next(struct kv *kv, uint64_t id, struct ca_node *out)
{
    struct state_key key = key_node(id);
    struct kv_bytes found, value;
    size_t prefix = key.len - sizeof(id);
    int rc = kv_seek(kv, PRIVATE_DATA, state_key_bytes(&key), true, &found, &value);
    if (rc)
        return rc;
    return found.len == key.len && memcmp(found.data, key.data, prefix) == 0 ? decode_node(value, out)
                                                                             : -ENOENT;
}

int state_ca_node_del(struct kv *kv, uint64_t id)
{
    struct state_key key = key_node(id);
    int rc = kv_del(kv, PRIVATE_DATA, state_key_bytes(&key));
    return rc == -ENOENT ? 0 : rc;
}

int state_ca_drop(struct kv *kv)
{
    struct state_key key = key_row();
    struct ca_node n;
    int rc;
    while ((rc = said_next(kv, 0, &n)) == 0) {
        rc = state_ca_node_del(kv, n.id);
        if (rc)
            return rc;
    }
    if (rc != -ENOENT)
        return rc;
    rc = kv_del(kv, PRIVATE_DATA, state_key_bytes(&key));
    return rc == -ENOENT ? 0 : rc;
}

int state_ca_view(struct kv *kv, struct ca_view *out)
{
    memset(out, 0, sizeof(*out));
    int rc = state_ca_read(kv, &out->row);
    uint64_t id = 0;
    size_t room = 0;
    while (rc == 0) {
        if (out->count == room) {
            room = room ? 2 * room : 16;
            out->node = reallocarray(out->node, room, sizeof(*out->node));
            CHECK(out->node);
        }
        rc = said_next(kv, id, &out->node[out->count]);
        if (rc == 0)
            id = out->node[out->count++].id;
    }
    if (rc == -ENOENT)
        return 0;
    ca_view_fini(out);
    return rc;
}

/* --- commands --- */

/* Whether a manager that is left has the next CA's key: 1, 0, -errno. */
static int key_is_there(struct kv *kv, const struct ca_row *row)
{
    struct ca_node said = {.id = 0};
    struct node n;
    int rc;
    while ((rc = said_next(kv, said.id, &said)) == 0) {
        if (!said.has_key || memcmp(said.ca, row->next.hash, NODE_HASH_BYTES) != 0)
            continue;
        rc = state_node_read(kv, said.id, &n);
        if (rc == 0 && n.role == NODE_MANAGER)
            return 1;
        if (rc && rc != -ENOENT)
            return rc;
    }
    return rc == -ENOENT ? 0 : rc;
}

static int begin(struct kv *kv, struct ca_row *row, struct state_event *out)
{
    row->phase = CA_WANTED;
    row->forced = false;
    row->begun_ms = out->cmd.head.time_ms;
    memset(&row->next, 0, sizeof(row->next));
    return row_put(kv, row, out);
}

int state_ca_rotate(struct kv *kv, struct state_event *out)
{
    struct node_cluster c;
    struct ca_row row;
    bool force = out->cmd.of_node.ca.rotate_force;
    int rc = state_cluster_get(kv, &c);
    if (rc == -ENOENT)
        return state_refuse_text(out, CMD_NODE_UNKNOWN,
                                 "this node is no cluster yet; make it one with `fairlead cluster init`");
    if (rc == 0)
        rc = state_ca_read(kv, &row);
    if (rc)
        return rc;
    if (force && row.phase != CA_TRUST && row.phase != CA_SIGN)
        return state_refuse_text(
            out, CMD_INVALID,
            "nothing waits for a node that is away: there is no rotation, or it has only "
            "just begun");
    if (force) {
        if (row.forced)
            return 0;
        row.forced = true;
        return row_put(kv, &row, out);
    }
    if (row.phase == CA_WANTED)
        return 0;
    if (row.phase == CA_STEADY)
        return begin(kv, &row, out);
    rc = row.phase == CA_TRUST ? key_is_there(kv, &row) : 1;
    if (rc < 0)
        return rc;
    return rc == 0
               ? begin(kv, &row, out)
               : state_refuse_text(out, CMD_CONFLICT,
                                   "the CA is being exchanged already; `fairlead cluster show` says what it "
                                   "waits for, and --force goes on without nodes that are away");
}

/* The first node that lacks something: 0, -ENOENT (none does), -errno. */
static int find_lack(struct kv *kv, const struct ca_row *row, struct node *n, enum ca_lack *lack)
{
    struct ca_node said;
    int rc;
    memset(n, 0, sizeof(*n));
    while ((rc = state_node_next(kv, n->id, n)) == 0) {
        rc = said_get(kv, n->id, &said);
        if (rc && rc != -ENOENT)
            return rc;
        *lack = ca_lacks(row, n, rc ? NULL : &said);
        if (*lack != CA_LACKS_NOTHING)
            return 0;
    }
    return rc;
}

static int tokens_drop(struct kv *kv)
{
    struct node_token t;
    int rc;
    while ((rc = state_token_next(kv, NULL, &t)) == 0) {
        rc = state_token_del(kv, t.hash);
        if (rc)
            return rc;
    }
    return rc == -ENOENT ? 0 : rc;
}

/* A CA was made: its certificate, and which manager has its key. */
static int step_trust(struct kv *kv, struct ca_row *row, const struct ca_step *s, struct state_event *out)
{
    struct ca_node maker = {.id = s->maker, .has_key = true};
    struct node n;
    if (row->phase != CA_WANTED)
        return state_refuse_text(out, CMD_CONFLICT, "no new CA is wanted (any more)");
    if (row->current.len && memcmp(row->current.hash, s->current.hash, NODE_HASH_BYTES) != 0)
        return state_refuse_text(out, CMD_CONFLICT, "the cluster's CA is another one");
    int rc = state_node_read(kv, s->maker, &n);
    if (rc && rc != -ENOENT)
        return rc;
    if (rc || n.role != NODE_MANAGER)
        return state_refuse_text(out, CMD_NODE_UNKNOWN, "who made the CA is no manager");
    row->phase = CA_TRUST;
    ca_cert_set(&row->current, &s->current);
    ca_cert_set(&row->next, &s->next);
    memcpy(maker.ca, s->next.hash, sizeof(maker.ca));
    rc = said_put(kv, &maker);
    return rc ? rc : row_put(kv, row, out);
}

static int step_on(struct kv *kv, struct ca_row *row, const struct ca_step *s, struct state_event *out)
{
    enum ca_lack lack = CA_LACKS_NOTHING;
    struct node n;
    if (row->phase != (s->to == CA_SIGN ? CA_TRUST : CA_SIGN) ||
        memcmp(row->next.hash, s->next.hash, NODE_HASH_BYTES) != 0)
        return state_refuse_text(out, CMD_CONFLICT, "the rotation is at another step already");
    int rc = find_lack(kv, row, &n, &lack);
    if (rc == 0 && !(row->forced && s->force))
        return state_refuse_format(out, CMD_CONFLICT, "'%s' lacks something still: %s", n.name,
                                   ca_lack_name(lack));
    if (rc && rc != -ENOENT)
        return rc;
    rc = s->to == CA_SIGN ? key_is_there(kv, row) : 1;
    if (rc < 0)
        return rc;
    if (rc == 0)
        return state_refuse_text(out, CMD_CONFLICT, "no manager that is left has the new CA's key");
    if (s->to == CA_SIGN) { /* tokens pin the CA that hosts saw before */
        row->phase = CA_SIGN;
        rc = tokens_drop(kv);
        return rc ? rc : row_put(kv, row, out);
    }
    row->phase = CA_STEADY;
    row->forced = false;
    row->count++;
    row->current = row->next;
    memset(&row->next, 0, sizeof(row->next));
    return row_put(kv, row, out);
}

int state_ca_step(struct kv *kv, struct state_event *out)
{
    const struct ca_step *s = &out->cmd.of_node.ca.step;
    struct ca_row row;
    int rc = state_ca_read(kv, &row);
    if (rc)
        return rc;
    return s->to == CA_TRUST ? step_trust(kv, &row, s, out) : step_on(kv, &row, s, out);
}

int state_ca_node(struct kv *kv, struct state_event *out)
{
    const struct ca_node *said = &out->cmd.of_node.ca.node;
    struct ca_node before;
    struct ca_row row;
    struct node n;
    int rc = state_node_read(kv, said->id, &n);
    if (rc == -ENOENT)
        return state_refuse_format(out, CMD_NODE_UNKNOWN, "there is no node %llu",
                                   (unsigned long long)said->id);
    if (rc == 0)
        rc = state_ca_read(kv, &row);
    if (rc)
        return rc;
    if (row.phase != CA_TRUST || memcmp(row.next.hash, said->ca, NODE_HASH_BYTES) != 0)
        return state_refuse_text(out, CMD_CONFLICT, "that CA is not being made known (any more)");
    rc = said_get(kv, said->id, &before);
    if (rc && rc != -ENOENT)
        return rc;
    if (rc == 0 && before.trusts == said->trusts && before.has_key == said->has_key &&
        memcmp(before.ca, said->ca, sizeof(before.ca)) == 0)
        return 0;
    out->changed = true;
    return said_put(kv, said);
}
