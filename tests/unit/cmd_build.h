/* SPDX-License-Identifier: Apache-2.0 */
/* Commands for tests, in a buffer of the caller. */
#ifndef FL_CMD_BUILD_H
#define FL_CMD_BUILD_H

#include "check.h"
#include "cmd.h"

struct cmd_build {
    struct wire_writer w;
    uint8_t buf[16384];
};

static inline struct digest digest_make(uint8_t alg, unsigned seed)
{
    struct digest d = {.alg = alg};
    for (size_t i = 0; i < digest_size(alg); i++)
        d.bytes[i] = (uint8_t)(i < sizeof(seed) ? seed >> (8 * i) : seed * 37 + i * 11);
    return d;
}

static inline void cmd_text(struct cmd_build *b, const char *text)
{
    wire_put_bytes(&b->w, text, strlen(text));
}

static inline void cmd_begin(struct cmd_build *b, uint16_t type, uint64_t time_ms)
{
    struct cmd_head head = {.type = type,
                            .time_ms = time_ms,
                            .actor = "tester",
                            .actor_len = 6,
                            .source = "127.0.0.1",
                            .source_len = 9,
                            .request_id = "r1",
                            .request_id_len = 2};
    b->w = (struct wire_writer){.buf = b->buf, .cap = sizeof(b->buf)};
    cmd_put_head(&b->w, &head);
}

static inline void cmd_blob_link(struct cmd_build *b, uint64_t time_ms, const char *repo,
                                 const struct digest *d, uint64_t size)
{
    cmd_begin(b, CMD_BLOB_LINK, time_ms);
    cmd_text(b, repo);
    cmd_put_digest(&b->w, d);
    wire_put_u64(&b->w, size);
}

/* At the end of a command that says who holds a blob: `count` ids that follow one another. */
static inline void cmd_holders_at_end(struct cmd_build *b, uint64_t first, unsigned count)
{
    struct cmd_holders h = {0};
    for (unsigned i = 0; i < count; i++)
        cmd_holders_add(&h, first + i);
    cmd_put_holders(&b->w, &h);
}

static inline void cmd_blob_copies(struct cmd_build *b, uint64_t time_ms, const struct digest *d,
                                   const struct cmd_holders *gained, const struct cmd_holders *lost)
{
    cmd_begin(b, CMD_BLOB_COPIES, time_ms);
    cmd_put_digest(&b->w, d);
    cmd_put_holders(&b->w, gained);
    cmd_put_holders(&b->w, lost);
}

/* At the end of a CMD_BLOB_COPIES: who has to hold it for it to count. */
static inline void cmd_needed(struct cmd_build *b, const struct cmd_holders *needed)
{
    cmd_put_holders(&b->w, needed);
}

static inline void cmd_blob_mount(struct cmd_build *b, uint64_t time_ms, const char *repo,
                                  const struct digest *d, const char *from)
{
    cmd_begin(b, CMD_BLOB_MOUNT, time_ms);
    cmd_text(b, repo);
    cmd_put_digest(&b->w, d);
    cmd_text(b, from);
}

/* CMD_BLOB_UNLINK or CMD_MANIFEST_DELETE */
static inline void cmd_repo_digest(struct cmd_build *b, uint16_t type, uint64_t time_ms, const char *repo,
                                   const struct digest *d)
{
    cmd_begin(b, type, time_ms);
    cmd_text(b, repo);
    cmd_put_digest(&b->w, d);
}

static inline void cmd_tag_delete(struct cmd_build *b, uint64_t time_ms, const char *repo, const char *tag)
{
    cmd_begin(b, CMD_TAG_DELETE, time_ms);
    cmd_text(b, repo);
    cmd_text(b, tag);
}

static inline void cmd_repo_delete(struct cmd_build *b, uint64_t time_ms, const char *repo)
{
    cmd_begin(b, CMD_REPO_DELETE, time_ms);
    cmd_text(b, repo);
}

static inline void cmd_setting_set(struct cmd_build *b, uint64_t time_ms, const char *key, const char *value)
{
    cmd_begin(b, CMD_SETTING_SET, time_ms);
    cmd_text(b, key);
    cmd_text(b, value);
}

struct cmd_build_ref {
    uint8_t kind;
    struct digest digest;
};

struct cmd_build_manifest {
    const char *repo, *media_type, *artifact_type, *descriptor;
    struct digest digest;
    uint64_t size;
    const struct digest *subject; /* NULL: none */
    uint8_t require_refs;         /* enum cmd_refs */
    const struct cmd_build_ref *refs;
    uint32_t refs_count;
    const char *const *tags;
    uint32_t tags_count;
};

static inline void cmd_manifest_put(struct cmd_build *b, uint64_t time_ms, const struct cmd_build_manifest *m)
{
    cmd_begin(b, CMD_MANIFEST_PUT, time_ms);
    cmd_text(b, m->repo);
    cmd_put_digest(&b->w, &m->digest);
    wire_put_u64(&b->w, m->size);
    cmd_text(b, m->media_type);
    cmd_text(b, m->artifact_type ? m->artifact_type : "");
    wire_put_u8(&b->w, m->subject != NULL);
    if (m->subject)
        cmd_put_digest(&b->w, m->subject);
    cmd_text(b, m->descriptor ? m->descriptor : "");
    wire_put_u8(&b->w, m->require_refs);
    wire_put_u32(&b->w, m->refs_count);
    for (uint32_t i = 0; i < m->refs_count; i++) {
        wire_put_u8(&b->w, m->refs[i].kind);
        cmd_put_digest(&b->w, &m->refs[i].digest);
        wire_put_u64(&b->w, 100);
    }
    wire_put_u32(&b->w, m->tags_count);
    for (uint32_t i = 0; i < m->tags_count; i++)
        cmd_text(b, m->tags[i]);
}

#endif
