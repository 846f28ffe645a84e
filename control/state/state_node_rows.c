/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of nodes and tokens, and the tables of all. */
#include <stdlib.h>

#include "ca_rows.h"
#include "node_rows.h"

static struct state_key key_of(const char *prefix, const void *rest, size_t rest_len)
{
    struct state_key key;
    size_t len = strlen(prefix);
    CHECK(len + rest_len <= sizeof(key.data));
    memcpy(key.data, prefix, len);
    if (rest_len)
        memcpy(key.data + len, rest, rest_len);
    key.len = len + rest_len;
    return key;
}

static struct state_key key_node(uint64_t id)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(id >> (56 - 8 * i));
    return key_of("node:", bytes, sizeof(bytes));
}

static struct state_key key_name(const char *name)
{
    return key_of("node-name:", name, strlen(name));
}

static struct state_key key_address(const struct svc_address *a)
{
    uint8_t bytes[sizeof(a->ip) + 2];
    memcpy(bytes, a->ip, sizeof(a->ip));
    bytes[sizeof(a->ip)] = (uint8_t)(a->port >> 8);
    bytes[sizeof(a->ip) + 1] = (uint8_t)a->port;
    return key_of("node-at:", bytes, sizeof(bytes));
}

static struct state_key key_token(const uint8_t hash[NODE_HASH_BYTES])
{
    return key_of("token:", hash, NODE_HASH_BYTES);
}

static int get_id(struct kv *kv, const struct state_key *key, uint64_t *id)
{
    struct kv_bytes value;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(key), &value);
    if (rc)
        return rc;
    struct wire_reader r = {.buf = value.data, .len = value.len};
    *id = wire_get_u64(&r);
    return wire_at_end(&r) ? 0 : -EUCLEAN;
}

static int put_id(struct kv *kv, const struct state_key *key, uint64_t id)
{
    uint8_t row[8];
    struct wire_writer w = {.buf = row, .cap = sizeof(row)};
    wire_put_u64(&w, id);
    return state_row_put(kv, PRIVATE_DATA, key, row, w.len);
}

int state_cluster_get(struct kv *kv, struct node_cluster *out)
{
    struct state_key key = key_of("cluster", NULL, 0);
    struct kv_bytes value;
    *out = (struct node_cluster){.version = CLUSTER_VERSION_FIRST};
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(&key), &value);
    if (rc)
        return rc;
    struct wire_reader r = {.buf = value.data, .len = value.len};
    node_cluster_row_get(&r, out);
    return wire_at_end(&r) ? 0 : -EUCLEAN;
}

int state_cluster_put(struct kv *kv, const struct node_cluster *c)
{
    struct state_key key = key_of("cluster", NULL, 0);
    uint8_t row[NODE_ROW_BYTES_MAX];
    struct wire_writer w = {.buf = row, .cap = sizeof(row)};
    node_cluster_row_put(&w, c);
    CHECK(!w.failed);
    return state_row_put(kv, PRIVATE_DATA, &key, row, w.len);
}

int state_cluster_read(struct kv *kv, struct node_cluster *out)
{
    int rc = state_cluster_get(kv, out);
    return rc == -ENOENT ? 0 : rc;
}

static int decode_node(struct kv_bytes value, struct node *out)
{
    struct wire_reader r = {.buf = value.data, .len = value.len};
    node_row_get(&r, out);
    return wire_at_end(&r) ? 0 : -EUCLEAN;
}

int state_node_read(struct kv *kv, uint64_t id, struct node *out)
{
    struct state_key key = key_node(id);
    struct kv_bytes value;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(&key), &value);
    return rc ? rc : decode_node(value, out);
}

int state_node_put(struct kv *kv, const struct node *n)
{
    struct state_key key = key_node(n->id);
    uint8_t row[NODE_ROW_BYTES_MAX];
    struct wire_writer w = {.buf = row, .cap = sizeof(row)};
    node_row_put(&w, n);
    CHECK(!w.failed);
    return state_row_put(kv, PRIVATE_DATA, &key, row, w.len);
}

int state_node_del(struct kv *kv, uint64_t id)
{
    struct state_key key = key_node(id);
    return kv_del(kv, PRIVATE_DATA, state_key_bytes(&key));
}

/* The first row behind the key that has its first `prefix` bytes. */
static int next_row(struct kv *kv, const struct state_key *key, size_t prefix, struct kv_bytes *value)
{
    struct kv_bytes found;
    int rc = kv_seek(kv, PRIVATE_DATA, state_key_bytes(key), true, &found, value);
    if (rc)
        return rc;
    return found.len > prefix && memcmp(found.data, key->data, prefix) == 0 ? 0 : -ENOENT;
}

int state_node_next(struct kv *kv, uint64_t id, struct node *out)
{
    struct state_key key = key_node(id);
    struct kv_bytes value;
    int rc = next_row(kv, &key, strlen("node:"), &value);
    return rc ? rc : decode_node(value, out);
}

int state_node_of_name(struct kv *kv, const char *name, uint64_t *id)
{
    struct state_key key = key_name(name);
    return get_id(kv, &key, id);
}

int state_node_of_address(struct kv *kv, const struct svc_address *a, uint64_t *id)
{
    struct state_key key = key_address(a);
    return get_id(kv, &key, id);
}

int state_node_name_move(struct kv *kv, uint64_t id, const char *from, const char *to)
{
    struct state_key old = key_name(from), new = key_name(to);
    if (strcmp(from, to) == 0)
        return 0;
    int rc = *from ? kv_del(kv, PRIVATE_DATA, state_key_bytes(&old)) : 0;
    return rc || !*to ? rc : put_id(kv, &new, id);
}

int state_node_address_move(struct kv *kv, uint64_t id, const struct svc_address *from,
                            const struct svc_address *to)
{
    struct state_key old = key_address(from), new = key_address(to);
    if (memcmp(from, to, sizeof(*from)) == 0)
        return 0;
    int rc = from->port ? kv_del(kv, PRIVATE_DATA, state_key_bytes(&old)) : 0;
    return rc || !to->port ? rc : put_id(kv, &new, id);
}

static int decode_token(struct kv_bytes value, struct node_token *out)
{
    struct wire_reader r = {.buf = value.data, .len = value.len};
    node_token_row_get(&r, out);
    return wire_at_end(&r) ? 0 : -EUCLEAN;
}

int state_token_get(struct kv *kv, const uint8_t hash[NODE_HASH_BYTES], struct node_token *out)
{
    struct state_key key = key_token(hash);
    struct kv_bytes value;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(&key), &value);
    return rc ? rc : decode_token(value, out);
}

int state_token_put(struct kv *kv, const struct node_token *t)
{
    struct state_key key = key_token(t->hash);
    uint8_t row[NODE_ROW_BYTES_MAX];
    struct wire_writer w = {.buf = row, .cap = sizeof(row)};
    node_token_row_put(&w, t);
    CHECK(!w.failed);
    return state_row_put(kv, PRIVATE_DATA, &key, row, w.len);
}

int state_token_del(struct kv *kv, const uint8_t hash[NODE_HASH_BYTES])
{
    struct state_key key = key_token(hash);
    return kv_del(kv, PRIVATE_DATA, state_key_bytes(&key));
}

int state_token_next(struct kv *kv, const uint8_t *hash, struct node_token *out)
{
    struct state_key key = hash ? key_token(hash) : key_of("token:", NULL, 0);
    struct kv_bytes value;
    int rc = next_row(kv, &key, strlen("token:"), &value);
    return rc ? rc : decode_token(value, out);
}

int state_nodes_read(struct kv *kv, struct node_table *out)
{
    struct ca_row ca;
    memset(out, 0, sizeof(*out));
    int rc = state_cluster_read(kv, &out->cluster);
    if (rc == 0)
        rc = state_ca_read(kv, &ca);
    if (rc)
        return rc;
    if (ca.phase == CA_STEADY && ca.current.len)
        memcpy(out->ca, ca.current.hash, sizeof(out->ca));
    out->node = calloc(out->cluster.nodes + 1u, sizeof(*out->node));
    CHECK(out->node);
    for (uint64_t id = 0; out->count < out->cluster.nodes && rc == 0; id = out->node[out->count - 1].id) {
        rc = state_node_next(kv, id, &out->node[out->count]);
        if (rc == 0 && out->node[out->count].id <= id)
            rc = -EUCLEAN;
        out->count += rc == 0;
        if (rc)
            break;
    }
    if (rc)
        node_table_fini(out);
    return rc == -ENOENT ? -EUCLEAN : rc;
}

int state_tokens_read(struct kv *kv, struct node_tokens *out)
{
    const uint8_t *hash = NULL;
    int rc = 0;
    memset(out, 0, sizeof(*out));
    out->token = calloc(NODE_TOKENS_MAX, sizeof(*out->token));
    CHECK(out->token);
    while (out->count < NODE_TOKENS_MAX && rc == 0) {
        struct node_token *t = &out->token[out->count];
        rc = state_token_next(kv, hash, t);
        out->count += rc == 0;
        hash = t->hash;
    }
    if (rc && rc != -ENOENT)
        node_tokens_fini(out);
    return rc == -ENOENT ? 0 : rc;
}
