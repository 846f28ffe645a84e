/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens with which hosts join. The secret is in the answer and nowhere else. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "check.h"
#include "control/daemon.h"
#include "control/mesh/pki.h"
#include "control/mesh/token.h"
#include "control/node_commands.h"
#include "control/nodes.h"
#include "control/socket/methods.h"
#include "control/socket/node_json.h"
#include "control/socket/propose.h"

#define CA_FILE "pki/ca.pem"

enum {
    EXPIRES_S_DEFAULT = 24 * 3600,
    EXPIRES_S_MAX = 365 * 24 * 3600,
    ID_CHARS_MIN = 6,
};

_Static_assert((int)TOKEN_SECRET_BYTES == (int)NODE_TOKEN_SECRET_BYTES &&
                   (int)TOKEN_CA_BYTES == (int)PKI_FINGERPRINT_BYTES,
               "a token has what the state and the certificates have");

/* "90s", "30m", "1h", "7d" in seconds; 0 if it is none. */
static uint64_t seconds_of(const char *text)
{
    static const struct {
        char unit;
        uint64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *text == '-' || value > EXPIRES_S_MAX || strlen(end) != 1)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(units); i++)
        if (units[i].unit == *end)
            return value * units[i].seconds;
    return 0;
}

/* The fingerprint of the cluster's CA, from this node's folder. 0 or -errno. */
static int read_ca(const struct daemon *d, uint8_t out[PKI_FINGERPRINT_BYTES])
{
    static char pem[PKI_PEM_BYTES_MAX];
    int fd = openat(d->folders.state_fd, CA_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    ssize_t len = read(fd, pem, sizeof(pem));
    close(fd);
    return len < 0 ? -EIO : pki_fingerprint(pem, (size_t)len, out);
}

struct wish {
    uint8_t role;
    bool replica;
    uint64_t expires_s;
};

static bool take_wish(struct rpc_call *call, const char *role, json_t *replica, const char *expires,
                      struct wish *out)
{
    bool manager = strcmp(role, "manager") == 0;
    out->role = manager ? NODE_MANAGER : NODE_WORKER;
    out->replica = replica ? json_is_true(replica) : manager;
    out->expires_s = expires ? seconds_of(expires) : EXPIRES_S_DEFAULT;
    if (!manager && strcmp(role, "worker") != 0)
        rpc_fail(call, RPC_INVALID_PARAMS, "write manager or worker", "'%.40s' is no role of a node", role);
    else if (replica && !json_is_boolean(replica))
        rpc_fail(call, RPC_INVALID_PARAMS, "write true or false", "replica is neither");
    else if (out->expires_s == 0 || out->expires_s > EXPIRES_S_MAX)
        rpc_fail(call, RPC_INVALID_PARAMS, "write 1s to 365d, as in 90s, 30m, 1h or 7d",
                 "'%.40s' is no time after which a token expires", expires ? expires : "");
    else
        return true;
    return false;
}

/* What the operator types on the new host. */
static void set_command(struct daemon *d, json_t *result, const char *text)
{
    char address[ADDRESS_TEXT_MAX] = "ADDRESS";
    struct cluster_status status;
    cluster_status(d->cluster, &status);
    const struct node *self = node_find(nodes_table(d->nodes), status.node_id);
    if (self && self->mesh.port)
        svc_address_text(&self->mesh, address);
    json_object_set_new(result, "command", json_sprintf("fairlead node join %s --token %s", address, text));
}

static int make_token(const uint8_t ca[TOKEN_CA_BYTES], struct node_token *row, char text[TOKEN_TEXT_MAX])
{
    struct token token;
    unsigned len = 0;
    memcpy(token.ca, ca, sizeof(token.ca));
    if (RAND_bytes(token.secret, sizeof(token.secret)) != 1 ||
        EVP_Digest(token.secret, sizeof(token.secret), row->hash, &len, EVP_sha256(), NULL) != 1)
        return -EIO;
    token_format(&token, text);
    OPENSSL_cleanse(&token, sizeof(token));
    return 0;
}

void method_token_create(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    const char *role, *expires = NULL;
    json_t *replica = NULL;
    int rotate = 0;
    struct wish wish;
    uint8_t ca[PKI_FINGERPRINT_BYTES];
    char text[TOKEN_TEXT_MAX];
    size_t len;
    if (!rpc_params(call, params, "{s:s, s?o, s?s, s?b}", "role", &role, "replica", &replica, "expires",
                    &expires, "rotate", &rotate) ||
        !take_wish(call, role, replica, expires, &wish))
        return;
    int err = read_ca(d, ca);
    if (err) {
        rpc_fail(call, RPC_UNAVAILABLE,
                 "set cluster.listen in the configuration file, or run `fairlead cluster init`, on this node",
                 "there is no cluster to join here: STATE/" CA_FILE ": %s", strerror(-err));
        return;
    }
    struct node_token row = {
        .role = wish.role, .replica = wish.replica, .expires_ms = journal_now_ms() + wish.expires_s * 1000};
    if (make_token(ca, &row, text)) {
        rpc_fail(call, RPC_INTERNAL, "try again", "no random bytes could be had");
        return;
    }
    json_t *result = node_token_json(&row);
    json_object_del(result, "created");
    json_object_set_new(result, "token", json_string(text));
    set_command(d, result, text);
    void *cmd =
        node_cmd_token_set((struct node_asker){call->peer->actor, propose_source}, &row, rotate, &len);
    propose_command(d, call, cmd, len, result, NULL);
}

void method_token_list(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct node_tokens tokens;
    if (!rpc_params(call, params, "{}"))
        return;
    int err = cluster_tokens(d->cluster, &tokens);
    if (err) {
        rpc_fail(call, RPC_INTERNAL, "look at the error log of fairleadd", "the state cannot be read: %s",
                 strerror(-err));
        return;
    }
    json_t *rows = json_array();
    uint64_t now_ms = journal_now_ms();
    for (size_t i = 0; i < tokens.count; i++) {
        json_t *row = node_token_json(&tokens.token[i]);
        json_object_set_new(row, "expired", json_boolean(tokens.token[i].expires_ms <= now_ms));
        json_array_append_new(rows, row);
    }
    node_tokens_fini(&tokens);
    rpc_reply(call, json_pack("{s:o}", "tokens", rows));
}

/* How many tokens have an id that begins so; the last of them in out. */
static size_t find_tokens(const struct node_tokens *tokens, const char *id, uint8_t out[NODE_HASH_BYTES])
{
    size_t count = 0;
    for (size_t i = 0; i < tokens->count; i++) {
        json_t *hash = node_hash_json(tokens->token[i].hash);
        const char *text = json_string_value(hash);
        if (text && strncmp(text, id, strlen(id)) == 0) {
            memcpy(out, tokens->token[i].hash, NODE_HASH_BYTES);
            count++;
        }
        json_decref(hash);
    }
    return count;
}

void method_token_delete(void *context, struct rpc_call *call, json_t *params)
{
    struct daemon *d = context;
    struct node_tokens tokens;
    uint8_t hash[NODE_HASH_BYTES];
    const char *id;
    size_t len;
    if (!rpc_params(call, params, "{s:s}", "id", &id))
        return;
    size_t count = 0;
    if (strlen(id) >= ID_CHARS_MIN && cluster_tokens(d->cluster, &tokens) == 0) {
        count = find_tokens(&tokens, id, hash);
        node_tokens_fini(&tokens);
    }
    if (count != 1) {
        rpc_fail(
            call, RPC_NOT_FOUND, "give the first six or more characters of an id of `fairlead node token-ls`",
            count ? "more than one token has an id that begins with '%.64s'" : "there is no token '%.64s'",
            id);
        return;
    }
    void *cmd = node_cmd_token_rm((struct node_asker){call->peer->actor, propose_source}, hash, &len);
    propose_command(d, call, cmd, len, json_object(), NULL);
}
