/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mesh/joiner.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/mesh/line.h"
#include "control/mesh/line_tls.h"
#include "control/mesh/peers.h"

struct joiner {
    struct line_pool pool;
    struct line *line;
    SSL_CTX *tls;
    uv_timer_t patience;
    struct token token;
    struct pki_text key;
    uint8_t *body; /* of the request */
    size_t body_len;
    char manager[ADDRESS_TEXT_MAX];
    bool answered;
    bool later; /* it is refused for now */
    joiner_done done;
    void *arg;
};

static void on_pool_closed(void *arg)
{
    struct joiner *j = arg;
    SSL_CTX_free(j->tls);
    pki_text_free(&j->key);
    OPENSSL_cleanse(&j->token, sizeof(j->token));
    if (j->body)
        OPENSSL_cleanse(j->body, j->body_len);
    free(j->body);
    free(j);
}

static void on_patience_closed(uv_handle_t *handle)
{
    struct joiner *j = handle->data;
    line_pool_close(&j->pool, on_pool_closed, j);
}

/* Once; the line is ended by now. */
static void finish(struct joiner *j, const struct pki_files *files, const struct pki_name *name,
                   const char *why)
{
    uv_close((uv_handle_t *)&j->patience, on_patience_closed);
    j->done(j->arg, files, name, why, j->later);
}

static void give_up(struct joiner *j, const char *why)
{
    line_end(j->line, false);
    finish(j, NULL, NULL, why);
}

static void on_ready(void *owner)
{
    struct joiner *j = owner;
    struct pki_name name;
    char why[MESH_WHY_MAX], text[JOINER_WHY_MAX];
    if (line_tls_check_pin(line_tls(j->line), j->token.ca, &name, why) != MESH_OK) {
        snprintf(text, sizeof(text), "%s is not of the token's cluster: %s", j->manager, why);
        give_up(j, text);
        return;
    }
    line_set_limit(j->line, FRAME_REPLY_MAX);
    if (line_send(j->line, MESH_JOIN, 0, j->body, j->body_len, SIZE_MAX))
        give_up(j, strerror(ENOMEM));
}

/* What came fits together, and is of the cluster of the token. */
static bool check(const struct joiner *j, const struct frame_join_reply *reply, struct pki_name *name,
                  char why[PKI_ERR_MAX])
{
    struct pki_identity *identity;
    bool pinned = false;
    if (pki_identity_new(reply->ca.data, reply->ca.len, reply->cert.data, reply->cert.len, j->key.data,
                         j->key.len, &identity, why))
        return false;
    STACK_OF(X509) *cas = pki_identity_cas(identity);
    for (int i = 0; i < sk_X509_num(cas); i++) {
        uint8_t fingerprint[PKI_FINGERPRINT_BYTES];
        pki_fingerprint_of(sk_X509_value(cas, i), fingerprint);
        pinned |= memcmp(fingerprint, j->token.ca, sizeof(fingerprint)) == 0;
    }
    *name = *pki_identity_name(identity);
    pki_identity_free(identity);
    if (pinned && name->node_id == reply->node_id && memcmp(name->cluster_id, reply->cluster_id, 16) == 0)
        return true;
    snprintf(why, PKI_ERR_MAX, "the certificate is not what the rest of the answer says");
    return false;
}

static struct pki_text text_of(struct frame_text from)
{
    struct pki_text text = {(char *)(uintptr_t)from.data, from.len};
    return text;
}

static void on_reply(struct joiner *j, const uint8_t *body, size_t len)
{
    struct frame_join_reply reply;
    struct pki_name name;
    struct pki_files files = {0};
    char why[PKI_ERR_MAX] = "it makes no sense", text[JOINER_WHY_MAX];
    int rc = frame_join_reply_get(body, len, &reply);
    if (rc == 0 && reply.refusal.len) {
        j->later = reply.node_id == FRAME_JOIN_LATER;
        snprintf(text, sizeof(text), "%s %s: %.*s", j->manager, j->later ? "is not ready yet" : "refuses",
                 (int)reply.refusal.len, reply.refusal.data);
        give_up(j, text);
        return;
    }
    if (rc || !check(j, &reply, &name, why)) {
        snprintf(text, sizeof(text), "the answer of %s cannot be used: %s", j->manager, why);
        give_up(j, text);
        return;
    }
    files = (struct pki_files){.ca = text_of(reply.ca), .cert = text_of(reply.cert), .key = j->key};
    peers_format(reply.manager, reply.manager_count, &files.peers);
    line_end(j->line, false);
    finish(j, &files, &name, NULL);
    pki_text_free(&files.peers);
}

static void on_frame(void *owner, const struct frame_head *head, const uint8_t *body)
{
    struct joiner *j = owner;
    char text[JOINER_WHY_MAX];
    if (head->type == MESH_JOIN_REPLY) {
        on_reply(j, body, head->bytes);
        return;
    }
    int n = snprintf(text, sizeof(text), "%s refuses: ", j->manager);
    for (size_t i = 0; head->type == MESH_REFUSED && i < head->bytes && n < JOINER_WHY_MAX - 1; i++)
        text[n++] = body[i] >= ' ' && body[i] <= '~' ? (char)body[i] : '?';
    text[n] = '\0';
    give_up(j, head->type == MESH_REFUSED ? text
                                          : "what answers there is no Fairlead that this one understands");
}

static void on_ended(void *owner, enum mesh_reason why, const char *text)
{
    struct joiner *j = owner;
    char line[JOINER_WHY_MAX];
    snprintf(line, sizeof(line), "%s: %s (%s)", j->manager, mesh_reason_text(why), text);
    finish(j, NULL, NULL, line);
}

static void on_patience(uv_timer_t *timer)
{
    struct joiner *j = timer->data;
    char text[JOINER_WHY_MAX];
    snprintf(text, sizeof(text), "%s did not answer within %d s; try again, or another manager", j->manager,
             JOINER_PATIENCE_MS / 1000);
    give_up(j, text);
}

static const struct line_handlers handlers = {.ready = on_ready, .frame = on_frame, .ended = on_ended};

static int request_make(struct joiner *j, const struct joiner_ask *ask)
{
    struct pki_text request;
    int rc = pki_request_of(ask->key->data, ask->key->len, &request);
    if (rc)
        return rc;
    struct frame_join join = {.cluster_version = ask->cluster_version,
                              .name = {ask->name, strlen(ask->name)},
                              .request = {request.data, request.len},
                              .mesh_address = {ask->mesh_address, strlen(ask->mesh_address)},
                              .data_address = {ask->data_address, strlen(ask->data_address)}};
    memcpy(join.secret, ask->token.secret, sizeof(join.secret));
    j->body = malloc(FRAME_GUEST_BODY_MAX);
    CHECK(j->body);
    j->body_len = frame_join_put(&join, j->body, FRAME_GUEST_BODY_MAX);
    pki_text_free(&request);
    return j->body_len ? 0 : -EMSGSIZE;
}

int joiner_start(uv_loop_t *loop, const struct joiner_ask *ask, joiner_done done, void *arg)
{
    struct joiner *j = calloc(1, sizeof(*j));
    CHECK(j);
    j->done = done;
    j->arg = arg;
    j->token = ask->token;
    j->key.data = strdup(ask->key->data);
    j->key.len = ask->key->len;
    snprintf(j->manager, sizeof(j->manager), "%s", ask->manager.text);
    j->tls = line_tls_new(NULL);
    int rc = j->key.data && j->tls ? request_make(j, ask) : -ENOMEM;
    line_pool_open(&j->pool, loop);
    uv_timer_init(loop, &j->patience);
    j->patience.data = j;
    j->line = rc ? NULL : line_dial(&j->pool, j->tls, &ask->manager, &handlers, j);
    if (!j->line) {
        uv_close((uv_handle_t *)&j->patience, on_patience_closed);
        return rc ? rc : -ENOMEM;
    }
    uv_timer_start(&j->patience, on_patience, JOINER_PATIENCE_MS, 0);
    return 0;
}
