/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who follows whom. A worker is connected with one manager; the managers tell each other which ones follow
 * them and how far they are, so that every manager can show all nodes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_internal.h"

enum { REPORT_VERSION = 1, REPORT_HEAD_BYTES = 2 + 4, REPORT_ROW_BYTES = 16, REPORT_VALID_MS = 6000 };

/* What a manager said last. */
struct followers_report {
    struct followers_report *next;
    uint64_t manager, at_ms;
    size_t count;
    struct {
        uint64_t id, applied;
    } row[]; /* by id */
};

static uint64_t now_of(const struct cluster *c)
{
    return uv_now(c->config.loop);
}

static void report_drop(struct cluster *c, uint64_t manager)
{
    for (struct followers_report **at = &c->reports; *at; at = &(*at)->next)
        if ((*at)->manager == manager) {
            struct followers_report *r = *at;
            *at = r->next;
            free(r);
            return;
        }
}

static uint8_t *report_make(const struct cluster *c, size_t *len)
{
    struct consensus_follower list[64];
    struct consensus_status s;
    size_t n;
    uint64_t after = 0;
    consensus_status(c->consensus, &s);
    struct wire_writer w = {.cap = REPORT_HEAD_BYTES + s.followers * REPORT_ROW_BYTES};
    w.buf = malloc(w.cap);
    CHECK(w.buf);
    wire_put_u16(&w, REPORT_VERSION);
    wire_put_u32(&w, 0);
    size_t count = 0;
    while ((n = consensus_followers(c->consensus, after, list, sizeof(list) / sizeof(list[0])))) {
        for (size_t i = 0; i < n; i++) {
            wire_put_u64(&w, list[i].id);
            wire_put_u64(&w, list[i].applied);
        }
        count += n;
        after = list[n - 1].id;
    }
    CHECK(!w.failed);
    for (size_t i = 0; i < 4; i++)
        w.buf[2 + i] = (uint8_t)(count >> (8 * i));
    *len = w.len;
    return w.buf;
}

void followers_tell(struct cluster *c)
{
    uint64_t self = pki_identity_name(c->identity)->node_id;
    uint8_t *body = NULL;
    size_t len;
    if (!net_is_manager(c, self) || c->source)
        return;
    for (size_t i = 0; i < c->known_count; i++) {
        const struct known_node *k = &c->known[i];
        if (!k->manager || k->id == self || !mesh_is_up(c->mesh, k->id))
            continue;
        if (!body)
            body = report_make(c, &len);
        mesh_send(c->mesh, k->id, CLUSTER_FRAME_FOLLOWERS, 0, body, len);
    }
    free(body);
}

int followers_frame(struct cluster *c, uint64_t from, const void *body, size_t len)
{
    struct wire_reader r = {.buf = body, .len = len};
    uint16_t version = wire_get_u16(&r);
    uint32_t count = wire_get_u32(&r);
    if (r.failed || version != REPORT_VERSION || count > NODES_MAX ||
        len != REPORT_HEAD_BYTES + (size_t)count * REPORT_ROW_BYTES)
        return -EPROTO;
    if (!net_is_manager(c, from))
        return 0;
    struct followers_report *report = calloc(1, sizeof(*report) + count * sizeof(report->row[0]));
    CHECK(report);
    report->manager = from;
    report->at_ms = now_of(c);
    report->count = count;
    for (uint32_t i = 0; i < count; i++) {
        report->row[i].id = wire_get_u64(&r);
        report->row[i].applied = wire_get_u64(&r);
    }
    report_drop(c, from);
    report->next = c->reports;
    c->reports = report;
    return 0;
}

/* False: it is not in the report. */
static bool find(const struct followers_report *r, uint64_t node, uint64_t *applied)
{
    size_t low = 0, high = r->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (r->row[middle].id < node)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == r->count || r->row[low].id != node)
        return false;
    *applied = r->row[low].applied;
    return true;
}

uint64_t followers_find(const struct cluster *c, uint64_t node, uint64_t *applied)
{
    struct consensus_follower own;
    if (consensus_followers(c->consensus, node - 1, &own, 1) && own.id == node) {
        *applied = own.applied;
        return pki_identity_name(c->identity)->node_id;
    }
    for (const struct followers_report *r = c->reports; r; r = r->next)
        if (now_of(c) - r->at_ms < REPORT_VALID_MS && find(r, node, applied))
            return r->manager;
    return 0;
}

void followers_close(struct cluster *c)
{
    while (c->reports)
        report_drop(c, c->reports->manager);
}
