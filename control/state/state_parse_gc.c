/* SPDX-License-Identifier: Apache-2.0 */
/* The garbage collection's commands taken apart. */
#include <stdio.h>

#include "state_internal.h"

static int fail(char *err, size_t err_len, const char *text)
{
    snprintf(err, err_len, "%s", text);
    return -EINVAL;
}

struct state_gc_entry state_gc_next(struct wire_reader *entries)
{
    struct state_gc_entry e;
    cmd_get_digest(entries, &e.digest);
    e.mark = wire_get_u64(entries);
    return e;
}

static int parse_entries(struct wire_reader *r, struct state_gc *gc, char *err, size_t err_len)
{
    gc->count = wire_get_u32(r);
    gc->entries = *r;
    if (gc->count == 0 || gc->count > CMD_GC_BATCH)
        return fail(err, err_len, "a step of the garbage collection is for some things, and not too many");
    for (uint32_t i = 0; i < gc->count && !r->failed; i++)
        (void)state_gc_next(r);
    return r->failed ? fail(err, err_len, "command is cut short") : 0;
}

static int parse_repo(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    out->repo.data = (const char *)wire_get_bytes(r, &out->repo.len);
    out->gc.kind = wire_get_u8(r);
    out->gc.step = wire_get_u8(r);
    if (r->failed || !state_repo_name_valid(out->repo.data, out->repo.len))
        return fail(err, err_len, "repository name is not valid");
    if (out->gc.kind != NAMES_MARK_LINK && out->gc.kind != NAMES_MARK_MANIFEST)
        return fail(err, err_len, "what is marked is neither a link nor a manifest");
    if (out->gc.step < CMD_GC_SEE || out->gc.step > CMD_GC_DROP)
        return fail(err, err_len, "there is no such step");
    return parse_entries(r, &out->gc, err, err_len);
}

static int parse_blobs(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    out->gc.step = wire_get_u8(r);
    if (r->failed || (out->gc.step != CMD_GC_SEE && out->gc.step != CMD_GC_DROP))
        return fail(err, err_len, "there is no such step");
    return parse_entries(r, &out->gc, err, err_len);
}

int state_parse_gc(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    switch (out->head.type) {
    case CMD_GC_REPO:
        return parse_repo(r, out, err, err_len);
    case CMD_GC_BLOBS:
        return parse_blobs(r, out, err, err_len);
    case CMD_GC_KEEP:
        cmd_get_digest(r, &out->digest);
        return r->failed ? fail(err, err_len, "digest is not valid") : 0;
    default: /* CMD_GC_TOTALS has no fields */
        return 0;
    }
}
