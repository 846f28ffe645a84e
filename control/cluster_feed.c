/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verdicts for the workers that follow this node and do not probe: each gets all of them once, then what
 * changes. A connection that broke, a full queue or a worker that followed somebody else meanwhile begins
 * anew.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cluster_internal.h"
#include "control/verdict_frame.h"

enum { LISTS_PER_TURN = 32 }; /* lists that are sent in one turn: workers that wait for theirs probe */

/* Whoever does not probe everything: replicas do. Both lists are by id. */
static bool is_replica(const struct cluster *c, uint64_t node, size_t *at)
{
    while (*at < c->known_count && c->known[*at].id < node)
        (*at)++;
    return *at == c->known_count || c->known[*at].id != node || c->known[*at].replica;
}

static bool has_list(const struct feed *f, uint64_t node, size_t *at)
{
    while (*at < f->count && f->node[*at] < node)
        (*at)++;
    return *at < f->count && f->node[*at] == node;
}

/* 0 or -errno of the mesh. */
static int send_rows(struct cluster *c, uint64_t node, uint8_t flags, const struct verdict_row *row,
                     size_t count)
{
    uint8_t *body = malloc(VERDICT_FRAME_MAX);
    int result = 0;
    CHECK(body);
    for (size_t sent = 0; result == 0 && (sent < count || sent == 0);) {
        size_t n = count - sent < VERDICT_ROWS_MAX ? count - sent : VERDICT_ROWS_MAX;
        uint8_t now =
            (uint8_t)((sent == 0 ? flags & VERDICT_BEGINS : 0) | (sent + n == count ? VERDICT_ENDS : 0));
        size_t len = verdict_frame_put(now, row + sent, n, body);
        result = mesh_send(c->mesh, node, CLUSTER_FRAME_VERDICTS, 0, body, len);
        sent += n;
        if (n == 0)
            break;
    }
    free(body);
    return result;
}

struct turn {
    const struct cluster_verdicts *v;
    size_t replicas_at, lists_at;
    uint64_t *kept;
    size_t kept_count, lists;
};

static void tell_one(struct cluster *c, struct turn *turn, uint64_t node)
{
    const struct cluster_verdicts *v = turn->v;
    if (is_replica(c, node, &turn->replicas_at))
        return;
    int result = -1;
    if (has_list(&c->feed, node, &turn->lists_at)) {
        result = send_rows(c, node, 0, v->changed, v->changed_count);
    } else if (turn->lists < LISTS_PER_TURN) {
        turn->lists++;
        result = send_rows(c, node, VERDICT_BEGINS, v->all, v->all_count);
    }
    if (result == 0)
        turn->kept[turn->kept_count++] = node;
}

size_t cluster_feed(struct cluster *c, const struct cluster_verdicts *v)
{
    struct consensus_follower list[64];
    struct consensus_status s;
    uint64_t after = 0;
    size_t n;
    if (!c->mesh || c->closing || c->source)
        return 0;
    consensus_status(c->consensus, &s);
    struct turn turn = {.v = v, .kept = calloc(s.followers + 1, sizeof(uint64_t))};
    CHECK(turn.kept);
    while ((n = consensus_followers(c->consensus, after, list, sizeof(list) / sizeof(list[0])))) {
        for (size_t i = 0; i < n && turn.kept_count < s.followers; i++)
            tell_one(c, &turn, list[i].id);
        after = list[n - 1].id;
    }
    free(c->feed.node);
    c->feed.node = turn.kept;
    c->feed.count = turn.kept_count;
    return turn.kept_count;
}

bool cluster_feed_wanted(const struct cluster *c)
{
    struct consensus_status s;
    if (!c->mesh || c->closing || c->source)
        return false;
    consensus_status(c->consensus, &s);
    return s.followers > 0;
}

void cluster_feed_anew(struct cluster *c)
{
    c->feed.count = 0;
}

void verdicts_down(struct cluster *c, uint64_t node)
{
    size_t kept = 0;
    for (size_t i = 0; i < c->feed.count; i++)
        if (c->feed.node[i] != node)
            c->feed.node[kept++] = c->feed.node[i];
    c->feed.count = kept;
    if (node == c->source && c->config.handlers.verdicts)
        c->config.handlers.verdicts(c->config.arg, NULL);
}

/* Only of the manager that this node follows. */
int verdicts_frame(struct cluster *c, uint64_t from, const void *body, size_t len)
{
    struct verdict_frame frame;
    int result = verdict_frame_get(body, len, &frame);
    if (result)
        return result;
    if (from == c->source && net_is_manager(c, from) && c->config.handlers.verdicts)
        c->config.handlers.verdicts(c->config.arg, &frame);
    return 0;
}

void verdicts_close(struct cluster *c)
{
    free(c->feed.node);
    c->feed.node = NULL;
    c->feed.count = 0;
}
