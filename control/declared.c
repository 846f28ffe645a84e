/* SPDX-License-Identifier: Apache-2.0 */
#include "control/declared.h"

#include <stdlib.h>

#include "check.h"
#include "control/cluster.h"
#include "control/cluster_policy.h"
#include "control/journal.h"

static void look(struct declared *d);

static void on_retry(uv_timer_t *timer)
{
    look(timer->data);
}

static void look_later(struct declared *d)
{
    if (!d->closing)
        uv_timer_start(&d->retry, on_retry, DECLARED_RETRY_MS, 0);
}

static void on_proposed(void *arg, enum cmd_status status, uint64_t index, const void *detail,
                        size_t detail_len)
{
    struct declared *d = arg;
    (void)index;
    d->under_way = false;
    switch (status) {
    case CMD_OK:
        journal_info(d->journal, d->kind->component, "the configuration changed %zu %s", d->changes,
                     d->kind->what);
        break;
    case CMD_NO_LEADER:
    case CMD_BUSY:
    case CMD_UNKNOWN_OUTCOME:
    case CMD_NO_SPACE:
    case CMD_TOO_NEW: /* a node that is not upgraded yet; or this one is new, and has not said its version */
        look_later(d);
        return;
    default:
        d->refused = true;
        journal_error(d->journal, d->kind->component, "the configuration's %s were refused: %.*s",
                      d->kind->what, (int)detail_len, (const char *)detail);
    }
    d->emptied &= d->again;
    if (d->again)
        look(d);
}

static void look(struct declared *d)
{
    void *cmd = NULL;
    size_t len = 0;
    d->again = d->under_way;
    if (d->under_way || d->closing || (d->none && !d->emptied && cluster_has_others(d->cluster)))
        return;
    if (d->kind->diff(d->owner, &cmd, &d->changes, &len)) {
        look_later(d);
        return;
    }
    if (!cmd) {
        d->emptied = false;
        return;
    }
    if (d->kind->version && !cluster_knows(d->cluster, d->kind->version)) {
        /* Who leads may be a node that is not upgraded yet, and would refuse what it does not know for good.
         */
        free(cmd);
        look_later(d);
        return;
    }
    d->under_way = true;
    cluster_propose(d->cluster, cmd, len, on_proposed, d);
}

void declared_changed(struct declared *d, size_t count, size_t before)
{
    d->emptied = count == 0 && (d->emptied || before > 0);
    d->none = count == 0;
    d->refused = false;
    look(d);
}

void declared_init(struct declared *d, const struct declared_kind *kind, void *owner, uv_loop_t *loop,
                   struct journal *journal, struct cluster *cluster)
{
    *d =
        (struct declared){.kind = kind, .owner = owner, .journal = journal, .cluster = cluster, .none = true};
    uv_timer_init(loop, &d->retry);
    d->retry.data = d;
}

void declared_close(struct declared *d)
{
    d->closing = true;
    uv_close((uv_handle_t *)&d->retry, NULL);
}

void declared_fini(struct declared *d)
{
    CHECK(!d->under_way);
}
