/* SPDX-License-Identifier: Apache-2.0 */
/*
 * names_rows FILE: what a names file says of all blobs and repositories, whatever runs beside it. One
 * transaction, read with the lock file that control itself uses (as root): no page is taken from it.
 *
 *   applied INDEX NODE
 *   blob DIGEST LINKS SIZE HOLDER...
 *   repo NAME TAGS MANIFESTS BLOBS BYTES
 */
#include <inttypes.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "names.h"

static void fail(const char *what, int rc)
{
    fprintf(stderr, "names_rows: %s: %s\n", what, rc ? mdb_strerror(rc) : "it is no such row");
    exit(1);
}

static void print_meta(MDB_val key, MDB_val value)
{
    struct names_meta meta;
    if (value.mv_size < sizeof(meta) || key.mv_size != 5 || memcmp(key.mv_data, "state", 5) != 0)
        return;
    memcpy(&meta, value.mv_data, sizeof(meta));
    printf("applied %" PRIu64 " %" PRIu64 "\n", meta.applied_index, meta.node_id);
}

static void print_blob(MDB_val key, MDB_val value)
{
    char text[DIGEST_TEXT_MAX + 1];
    struct names_blob blob;
    struct digest digest;
    if (digest_unpack(key.mv_data, key.mv_size, &digest) != key.mv_size ||
        !names_blob_read(value.mv_data, value.mv_size, &blob))
        fail("blobs", 0);
    digest_format(&digest, text);
    printf("blob %s %" PRIu64 " %" PRIu64, text, blob.links, blob.size);
    for (unsigned i = 0; i < blob.holder_count; i++)
        printf(" %" PRIu64, blob.holder[i]);
    printf("\n");
}

static void print_repo(MDB_val key, MDB_val value)
{
    struct names_repo repo;
    if (value.mv_size < sizeof(repo))
        fail("repos", 0);
    memcpy(&repo, value.mv_data, sizeof(repo));
    printf("repo %.*s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", (int)key.mv_size,
           (const char *)key.mv_data, repo.tags, repo.manifests, repo.blobs, repo.bytes);
}

static void print_all(MDB_txn *txn, enum names_db db, void (*print)(MDB_val key, MDB_val value))
{
    static const char *const name[] = NAMES_DB_NAMES;
    MDB_val key, value;
    MDB_cursor *cursor;
    MDB_dbi dbi;
    int rc = mdb_dbi_open(txn, name[db], 0, &dbi);
    if (rc || (rc = mdb_cursor_open(txn, dbi, &cursor)))
        fail(name[db], rc);
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
        print(key, value);
    mdb_cursor_close(cursor);
    if (rc != MDB_NOTFOUND)
        fail(name[db], rc);
}

int main(int argc, char **argv)
{
    MDB_env *env;
    MDB_txn *txn;
    int rc;
    if (argc != 2) {
        fprintf(stderr, "names_rows FILE\n");
        return 2;
    }
    if ((rc = mdb_env_create(&env)) || (rc = mdb_env_set_maxdbs(env, NAMES_DB_COUNT)) ||
        (rc = mdb_env_set_mapsize(env, NAMES_MAP_BYTES)) ||
        (rc = mdb_env_open(env, argv[1], MDB_RDONLY | MDB_NOSUBDIR, 0)) ||
        (rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn)))
        fail(argv[1], rc);
    print_all(txn, NAMES_META, print_meta);
    print_all(txn, NAMES_BLOBS, print_blob);
    print_all(txn, NAMES_REPOS, print_repo);
    mdb_txn_abort(txn);
    mdb_env_close(env);
    return 0;
}
