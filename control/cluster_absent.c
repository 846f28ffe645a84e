/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which replicas are not heard. Whoever leads says it to the managers, and each of these to the workers that
 * follow it, as these see nobody else: so all go by the same word, and by none when nobody leads.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_internal.h"

enum { WORD_VERSION = 1, WORD_HEAD_BYTES = 2 + 4 + 4, WORD_ROW_BYTES = 8 + 1, WORD_VALID_MS = 10000 };

static uint64_t now_of(const struct cluster *c)
{
    return uv_now(c->config.loop);
}

static bool is_fresh(const struct cluster *c)
{
    return c->absent.said && now_of(c) - c->absent.at_ms < WORD_VALID_MS;
}

/* Takes the list. */
static void word_take(struct cluster *c, struct cluster_absent *list, size_t count, uint64_t at_ms)
{
    free(c->absent.list);
    c->absent.list = list;
    c->absent.count = count;
    c->absent.at_ms = at_ms;
    c->absent.said = true;
}

void cluster_say_absent(struct cluster *c, const struct cluster_absent *list, size_t count)
{
    struct cluster_absent *copy = calloc(count + 1, sizeof(*copy));
    CHECK(copy);
    for (size_t i = 0; i < count; i++)
        copy[i] = list[i];
    word_take(c, copy, count, now_of(c));
}

int cluster_absent(const struct cluster *c, const struct cluster_absent **list, size_t *count)
{
    if (!is_fresh(c))
        return -ESTALE;
    *list = c->absent.list;
    *count = c->absent.count;
    return 0;
}

/* ------------------------------------------------------------------ between nodes */

static uint8_t *word_make(const struct cluster *c, size_t *len)
{
    struct wire_writer w = {.cap = WORD_HEAD_BYTES + c->absent.count * WORD_ROW_BYTES};
    w.buf = malloc(w.cap);
    CHECK(w.buf);
    wire_put_u16(&w, WORD_VERSION);
    wire_put_u32(&w, (uint32_t)(now_of(c) - c->absent.at_ms));
    wire_put_u32(&w, (uint32_t)c->absent.count);
    for (size_t i = 0; i < c->absent.count; i++) {
        wire_put_u64(&w, c->absent.list[i].id);
        wire_put_u8(&w, c->absent.list[i].gone);
    }
    CHECK(!w.failed);
    *len = w.len;
    return w.buf;
}

static void tell_managers(struct cluster *c, uint64_t self, const uint8_t *body, size_t len)
{
    for (size_t i = 0; i < c->known_count; i++)
        if (c->known[i].manager && c->known[i].id != self)
            mesh_send(c->mesh, c->known[i].id, CLUSTER_FRAME_ABSENT, 0, body, len);
}

/* Only to replicas: the others have no use for it. Both lists are by id. */
static void tell_followers(struct cluster *c, const uint8_t *body, size_t len)
{
    struct consensus_follower list[64];
    uint64_t after = 0;
    size_t n, at = 0;
    while ((n = consensus_followers(c->consensus, after, list, sizeof(list) / sizeof(list[0])))) {
        for (size_t i = 0; i < n; i++) {
            while (at < c->known_count && c->known[at].id < list[i].id)
                at++;
            if (at < c->known_count && c->known[at].id == list[i].id && c->known[at].replica)
                mesh_send(c->mesh, list[i].id, CLUSTER_FRAME_ABSENT, 0, body, len);
        }
        after = list[n - 1].id;
    }
}

void absent_tell(struct cluster *c)
{
    uint64_t self = pki_identity_name(c->identity)->node_id;
    struct consensus_status s;
    size_t len;
    if (!is_fresh(c) || !net_is_manager(c, self) || c->source)
        return;
    consensus_status(c->consensus, &s);
    uint8_t *body = word_make(c, &len);
    if (s.leader_id == self)
        tell_managers(c, self, body, len);
    tell_followers(c, body, len);
    free(body);
}

int absent_frame(struct cluster *c, uint64_t from, const void *body, size_t len)
{
    struct wire_reader r = {.buf = body, .len = len};
    uint16_t version = wire_get_u16(&r);
    uint32_t age_ms = wire_get_u32(&r), count = wire_get_u32(&r);
    if (r.failed || version != WORD_VERSION || count > NODES_MAX ||
        len != WORD_HEAD_BYTES + (size_t)count * WORD_ROW_BYTES)
        return -EPROTO;
    uint64_t now = now_of(c);
    if (!net_is_manager(c, from) || age_ms >= WORD_VALID_MS || age_ms > now ||
        (c->absent.said && now - age_ms < c->absent.at_ms))
        return 0;
    struct cluster_absent *list = calloc(count + 1, sizeof(*list));
    CHECK(list);
    for (uint32_t i = 0; i < count; i++) {
        list[i].id = wire_get_u64(&r);
        list[i].gone = wire_get_u8(&r) != 0;
    }
    word_take(c, list, count, now - age_ms);
    return 0;
}

void absent_close(struct cluster *c)
{
    free(c->absent.list);
    c->absent.list = NULL;
    c->absent.count = 0;
    c->absent.said = false;
}
