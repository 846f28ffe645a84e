/* SPDX-License-Identifier: Apache-2.0 */
/* Blobs of the repository that is being copied: each once, whoever needs it, and several at a time. */
#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/mirror/copy.h"

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct blob *)a)->digest, ((const struct blob *)b)->digest);
}

/* The one of that digest, new if need be. With the lock. */
static struct blob *blob_of(struct copy *c, const struct document_ref *ref)
{
    struct blob *b = calloc(1, sizeof(*b));
    CHECK(b);
    memcpy(b->digest, ref->digest, sizeof(b->digest));
    b->size = ref->size;
    struct blob **at = tsearch(b, &c->blobs, compare);
    CHECK(at);
    if (*at != b) {
        free(b);
        return *at;
    }
    b->next_wanted = c->wanted;
    c->wanted = b;
    pthread_cond_broadcast(&c->moved);
    return b;
}

static void blob_free(void *node)
{
    struct blob *b = node;
    free(b->error);
    free(b);
}

void blobs_forget(struct copy *c)
{
    CHECK(!c->wanted);
    tdestroy(c->blobs, blob_free);
    c->blobs = NULL;
}

bool blobs_help(struct hand *h)
{
    struct copy *c = h->copy;
    struct blob *b = c->wanted;
    char err[SIDE_ERROR_MAX] = "";
    if (!b)
        return false;
    c->wanted = b->next_wanted;
    b->state = BLOB_BUSY;
    pthread_mutex_unlock(&c->lock);
    int rc = transfer_blob(h, b->digest, b->size, err);
    pthread_mutex_lock(&c->lock);
    b->state = rc ? BLOB_FAILED : BLOB_DONE;
    b->error = rc ? strdup(err) : NULL;
    pthread_cond_broadcast(&c->moved);
    return true;
}

static bool under_way(struct blob *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (list[i]->state <= BLOB_BUSY)
            return true;
    return false;
}

int blobs_copy(struct hand *h, const struct document *d)
{
    struct copy *c = h->copy;
    struct blob **mine = calloc(d->count + 1, sizeof(*mine));
    size_t count = 0;
    int rc = 0;
    CHECK(mine);
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < d->count; i++)
        if (!d->refs[i].manifest && !d->refs[i].elsewhere)
            mine[count++] = blob_of(c, &d->refs[i]);
    while (under_way(mine, count))
        if (!blobs_help(h))
            pthread_cond_wait(&c->moved, &c->lock);
    for (size_t i = 0; i < count && rc == 0; i++) {
        if (mine[i]->state != BLOB_FAILED)
            continue;
        rc = -EIO;
        snprintf(h->error, sizeof(h->error), "%s", mine[i]->error ? mine[i]->error : "");
    }
    pthread_mutex_unlock(&c->lock);
    free(mine);
    return rc;
}
