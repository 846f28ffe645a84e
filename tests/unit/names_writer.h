/* SPDX-License-Identifier: Apache-2.0 */
/* The writer's half of include/names.h, for tests: an LMDB file in a folder of its own under /tmp. */
#ifndef FL_TEST_NAMES_WRITER_H
#define FL_TEST_NAMES_WRITER_H

#include <lmdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "include/names.h"
#include "dataplane/http/view.h"

struct names_writer {
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi[NAMES_DB_COUNT];
    struct names_epochs *epochs;
    char folder[64], path[96];
};

static inline void writer_begin(struct names_writer *w)
{
    /* The protocol: transaction T only while no ring is at less than T-2. */
    uint64_t next = atomic_load(&w->epochs->committed) + 1;
    for (unsigned i = 0; i < RINGS_MAX; i++) {
        uint64_t at;
        while ((at = atomic_load(&w->epochs->ring[i].reading)) != 0 && at + 2 < next)
            usleep(1);
    }
    CHECK(mdb_txn_begin(w->env, NULL, 0, &w->txn) == 0);
}

static inline void writer_commit(struct names_writer *w)
{
    size_t id = mdb_txn_id(w->txn);
    CHECK(mdb_txn_commit(w->txn) == 0);
    atomic_store(&w->epochs->committed, id);
}

static inline void writer_put(struct names_writer *w, enum names_db db, const void *key, size_t key_len,
                              const void *value, size_t value_len)
{
    MDB_val k = {key_len, (void *)(uintptr_t)key}, v = {value_len, (void *)(uintptr_t)value};
    CHECK(mdb_put(w->txn, w->dbi[db], &k, &v, 0) == 0);
}

static inline void writer_del(struct names_writer *w, enum names_db db, const void *key, size_t key_len)
{
    MDB_val k = {key_len, (void *)(uintptr_t)key};
    CHECK(mdb_del(w->txn, w->dbi[db], &k, NULL) == 0);
}

static inline void writer_open(struct names_writer *w)
{
    static const char *const names[] = NAMES_DB_NAMES;
    struct names_meta meta = {.magic = NAMES_MAGIC, .version = NAMES_VERSION};
    memset(w, 0, sizeof(*w));
    w->epochs = aligned_alloc(64, sizeof(*w->epochs));
    CHECK(w->epochs);
    memset(w->epochs, 0, sizeof(*w->epochs));
    (void)snprintf(w->folder, sizeof(w->folder), "/tmp/fl-names-XXXXXX");
    CHECK(mkdtemp(w->folder));
    (void)snprintf(w->path, sizeof(w->path), "%s/names", w->folder);
    CHECK(mdb_env_create(&w->env) == 0);
    CHECK(mdb_env_set_maxdbs(w->env, NAMES_DB_COUNT) == 0);
    CHECK(mdb_env_set_mapsize(w->env, NAMES_MAP_BYTES) == 0);
    CHECK(mdb_env_open(w->env, w->path, MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOSYNC, 0600) == 0);
    writer_begin(w);
    for (unsigned i = 0; i < NAMES_DB_COUNT; i++)
        CHECK(mdb_dbi_open(w->txn, names[i], MDB_CREATE, &w->dbi[i]) == 0);
    writer_put(w, NAMES_META, "state", 5, &meta, sizeof(meta));
    writer_commit(w);
}

static inline void writer_close(struct names_writer *w)
{
    mdb_env_close(w->env);
    unlink(w->path);
    rmdir(w->folder);
    free(w->epochs);
}

/* ------------------------------------------------------------------ records */

static inline void writer_repo(struct names_writer *w, const char *repo)
{
    struct names_repo r = {.created_ms = 1};
    writer_put(w, NAMES_REPOS, repo, strlen(repo), &r, sizeof(r));
}

static inline void writer_tag(struct names_writer *w, const char *repo, const char *tag,
                              const struct digest *d)
{
    uint8_t key[NAMES_KEY_MAX];
    struct names_tag t = {.time_ms = 1};
    digest_pack(d, t.digest);
    writer_put(w, NAMES_TAGS, key, names_key(key, repo, strlen(repo), tag, strlen(tag)), &t, sizeof(t));
}

static inline void writer_link(struct names_writer *w, const char *repo, const struct digest *d,
                               uint64_t size)
{
    uint8_t key[NAMES_KEY_MAX];
    struct names_link l = {.size = size};
    struct names_blob b = {.size = size, .links = 1};
    writer_put(w, NAMES_LINKS, key, names_key_digest(key, repo, strlen(repo), d), &l, sizeof(l));
    writer_put(w, NAMES_BLOBS, key, digest_pack(d, key), &b, names_blob_bytes(&b));
}

static inline void writer_manifest(struct names_writer *w, const char *repo, const struct digest *d,
                                   uint64_t size, const char *type, const char *artifact_type,
                                   const struct digest *subject)
{
    uint8_t key[NAMES_KEY_MAX], value[1024];
    struct names_manifest m = {.size = size,
                               .media_type_len = (uint16_t)strlen(type),
                               .artifact_type_len = (uint16_t)strlen(artifact_type),
                               .has_subject = subject != NULL};
    size_t len = sizeof(m);
    memcpy(value, &m, len);
    memcpy(value + len, type, m.media_type_len);
    len += m.media_type_len;
    memcpy(value + len, artifact_type, m.artifact_type_len);
    len += m.artifact_type_len;
    if (subject)
        len += digest_pack(subject, value + len);
    writer_put(w, NAMES_MANIFESTS, key, names_key_digest(key, repo, strlen(repo), d), value, len);
}

static inline void writer_referrer(struct names_writer *w, const char *repo, const struct digest *subject,
                                   const struct digest *d, const char *type, struct view descriptor)
{
    uint8_t key[NAMES_KEY_MAX], packed[2 * DIGEST_PACKED_MAX];
    size_t type_len = strlen(type), packed_len = digest_pack(subject, packed);
    uint8_t *value = malloc(2 + type_len + descriptor.len);
    CHECK(value);
    packed_len += digest_pack(d, packed + packed_len);
    value[0] = (uint8_t)type_len;
    value[1] = (uint8_t)(type_len >> 8);
    memcpy(value + 2, type, type_len);
    memcpy(value + 2 + type_len, descriptor.p, descriptor.len);
    writer_put(w, NAMES_REFERRERS, key, names_key(key, repo, strlen(repo), packed, packed_len), value,
               2 + type_len + descriptor.len);
    free(value);
    packed_len = names_key_index_referrer(key, repo, strlen(repo), subject, type, type_len, d);
    writer_put(w, NAMES_INDEX, key, packed_len, "", 0);
}

/* Whether NAMES_INDEX is said to be whole, as it is where only these functions write. */
static inline void writer_index(struct names_writer *w, bool whole)
{
    struct names_index_state index = {.whole = whole};
    writer_put(w, NAMES_META, "index", 5, &index, sizeof(index));
}

/* A digest whose bytes are all made from n. */
static inline struct digest test_digest(uint8_t alg, uint32_t n)
{
    struct digest d = {.alg = alg};
    for (unsigned i = 0; i < digest_size(alg); i++)
        d.bytes[i] = (uint8_t)(n >> (8 * (i & 3)));
    return d;
}

#endif
