/* SPDX-License-Identifier: Apache-2.0 */
/* Many commands as one: each is applied to what the ones before it made, and if one is refused, none was. */
#include <stdio.h>
#include <stdlib.h>

#include "kv_overlay.h"
#include "state_service.h"

static int fail(char *err, size_t err_len, uint32_t i, const char *text)
{
    snprintf(err, err_len, "part %u: %s", i + 1, text);
    return -EINVAL;
}

int state_parse_transaction(struct wire_reader *r, struct state_cmd *out, char *err, size_t err_len)
{
    struct state_cmd *part = malloc(sizeof(*part));
    char text[SVC_ERROR_MAX];
    int rc = 0;
    CHECK(part);
    out->parts_count = wire_get_u32(r);
    out->parts = *r;
    if (!r->failed && (out->parts_count == 0 || out->parts_count > STATE_PARTS_MAX))
        rc = fail(err, err_len, 0, "a transaction has 1 to 16384 parts");
    for (uint32_t i = 0; i < out->parts_count && rc == 0 && !r->failed; i++)
        if (state_part_next(r, &out->head, part, text, sizeof(text)))
            rc = fail(err, err_len, i, text);
    free(part);
    return rc;
}

static int apply_parts(struct kv *kv, struct state_event *out, struct state_event *part)
{
    struct wire_reader r = out->cmd.parts;
    char err[128];
    for (uint32_t i = 0; i < out->cmd.parts_count; i++) {
        part->index = out->index;
        part->status = CMD_OK;
        part->changed = false;
        part->detail_len = 0;
        /* It was parsed before. */
        CHECK(state_part_next(&r, &out->cmd.head, &part->cmd, err, sizeof(err)) == 0);
        int rc = state_apply_type(kv, part);
        if (rc)
            return rc;
        if (part->status != CMD_OK) {
            state_refuse_format(out, part->status, "part %u of %u: %.*s", i + 1, out->cmd.parts_count,
                                (int)part->detail_len, (const char *)part->detail);
            return 0;
        }
        out->changed |= part->changed;
    }
    return 0;
}

int state_transaction(struct kv *kv, struct state_event *out)
{
    struct state_event *part = malloc(sizeof(*part));
    struct kv_overlay overlay;
    CHECK(part);
    kv_overlay_init(&overlay, kv);
    int rc = apply_parts(&overlay.kv, out, part);
    if (rc == 0 && out->status == CMD_OK && out->changed)
        rc = kv_overlay_flush(&overlay);
    if (out->status != CMD_OK)
        out->changed = false;
    kv_overlay_fini(&overlay);
    free(part);
    return rc;
}
