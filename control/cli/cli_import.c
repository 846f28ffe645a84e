/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images that lie on this host's disks: the tree of a docker-registry, or an OCI layout. Their blobs stay
 * where they are, as far as the file system can share them (control/importer.h); their manifests go to the
 * registry like those of a push.
 */
#include <dirent.h>
#include <errno.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/cli/cli.h"
#include "control/cli/http.h"
#include "control/cli/layout.h"
#include "control/cli/table.h"
#include "digest.h"
#include "limits.h"

enum { DEPTH_MAX = 8, FOLDER_DEPTH_MAX = 32 };

struct import {
    struct cli *cli;
    struct http *http;
    char root[PATH_MAX]; /* absolute; blobs lie below it */
    bool registry;       /* a registry's tree: blobs/sha256/XX/HEX/data; else blobs/sha256/HEX */
    const char *name;    /* repository of a layout, prefix for a tree; NULL: none */
    json_t *done;        /* "repository digest": what needs not be done again */
    long long manifests, tags, blobs, bytes, copied, failed;
};

static void progress(const struct import *in, bool last)
{
    char bytes[FIGURE_MAX];
    if (in->cli->options & OPTION_JSON || (!isatty(STDERR_FILENO) && !last))
        return;
    fprintf(stderr, "%s%lld manifests, %lld tags, %lld blobs, %s%s", isatty(STDERR_FILENO) ? "\r\033[K" : "",
            in->manifests, in->tags, in->blobs, figure_bytes((double)in->bytes, bytes), last ? "\n" : "");
}

static int fail(struct import *in, const char *repo, const char *what, const char *why)
{
    in->failed++;
    fprintf(stderr, "%sfairlead: %s, %s: %s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "", repo, what, why);
    return -1;
}

/* Whether it is the first time. */
static bool begin(struct import *in, const char *repo, const char *digest)
{
    char key[REPO_NAME_MAX + DIGEST_TEXT_MAX + 8];
    snprintf(key, sizeof(key), "%s %s", repo, digest);
    if (json_object_get(in->done, key))
        return false;
    json_object_set_new(in->done, key, json_true());
    return true;
}

static int blob_path(const struct import *in, const char *digest, char out[PATH_MAX])
{
    struct digest d;
    char hex[2 * DIGEST_BYTES_MAX + 1];
    if (digest_parse(digest, strlen(digest), &d))
        return -EINVAL;
    digest_hex(&d, hex);
    int len = in->registry ? snprintf(out, PATH_MAX, "%s/blobs/%s/%.2s/%s/data", in->root,
                                      digest_alg_name(d.alg), hex, hex)
                           : snprintf(out, PATH_MAX, "%s/blobs/%s/%s", in->root, digest_alg_name(d.alg), hex);
    return len < PATH_MAX ? 0 : -ENAMETOOLONG;
}

static int import_blob(struct import *in, const char *repo, const char *digest)
{
    char path[PATH_MAX];
    if (!begin(in, repo, digest))
        return 0;
    if (blob_path(in, digest, path))
        return fail(in, repo, digest, "this is no digest");
    json_t *answer = cli_ask(in->cli, "blob.import",
                             json_pack("{s:s, s:s, s:s}", "repo", repo, "digest", digest, "path", path));
    if (!answer)
        return fail(in, repo, digest, "this blob was not taken");
    in->blobs++;
    in->bytes += cli_number(answer, "bytes");
    in->copied += strcmp(cli_text(answer, "way"), "copy") == 0 ? cli_number(answer, "bytes") : 0;
    json_decref(answer);
    progress(in, false);
    return 0;
}

static int import_manifest(struct import *in, const char *repo, const char *digest, unsigned depth);

/* Blobs of a descriptor's list; those that lie elsewhere by design (urls) are left there. */
static int import_list(struct import *in, const char *repo, const json_t *list, unsigned depth,
                       bool manifests)
{
    json_t *row;
    size_t i;
    int rc = 0;
    json_array_foreach(list, i, row)
    {
        const char *digest = cli_text(row, "digest");
        char path[PATH_MAX];
        if (manifests && (blob_path(in, digest, path) || access(path, F_OK)))
            continue; /* an index may name platforms that are not here */
        if (!manifests && json_array_size(json_object_get(row, "urls")))
            continue;
        rc |= manifests ? import_manifest(in, repo, digest, depth + 1) : import_blob(in, repo, digest);
    }
    return rc;
}

static int put_manifest(struct import *in, const char *repo, const char *reference, const char *type,
                        const char *bytes, size_t len)
{
    char path[HTTP_URL_MAX / 2], err[HTTP_ERROR_MAX];
    struct http_answer answer;
    snprintf(path, sizeof(path), "/v2/%s/manifests/%s", repo, reference);
    if (http_put(in->http, path, type, bytes, len, &answer, err))
        return fail(in, repo, reference, err);
    int rc = answer.status == 201 ? 0 : fail(in, repo, reference, http_why(&answer, err));
    http_answer_free(&answer);
    return rc;
}

/* What it refers to first, as in a push. tag may be NULL. */
static int import_content(struct import *in, const char *repo, const char *reference,
                          const struct layout_file *file, const json_t *manifest, unsigned depth)
{
    const json_t *config = json_object_get(manifest, "config");
    int rc = config ? import_blob(in, repo, cli_text(config, "digest")) : 0;
    rc |= import_list(in, repo, json_object_get(manifest, "layers"), depth, false);
    rc |= import_list(in, repo, json_object_get(manifest, "blobs"), depth, false);
    rc |= import_list(in, repo, json_object_get(manifest, "manifests"), depth, true);
    return rc ? rc : put_manifest(in, repo, reference, layout_type(manifest), file->bytes, file->len);
}

static int import_reference(struct import *in, const char *repo, const char *digest, const char *reference,
                            unsigned depth)
{
    char path[PATH_MAX], err[LAYOUT_ERROR_MAX];
    struct layout_file file;
    if (depth > DEPTH_MAX)
        return fail(in, repo, digest, "indexes are nested too deeply");
    if (blob_path(in, digest, path))
        return fail(in, repo, digest, "this is no digest");
    if (layout_read(path, &file, err))
        return fail(in, repo, digest, err);
    json_t *manifest = json_loadb(file.bytes, file.len, JSON_REJECT_DUPLICATES, NULL);
    int rc = manifest ? import_content(in, repo, reference, &file, manifest, depth)
                      : fail(in, repo, digest, "it is no manifest");
    json_decref(manifest);
    layout_file_free(&file);
    return rc;
}

static int import_manifest(struct import *in, const char *repo, const char *digest, unsigned depth)
{
    if (!begin(in, repo, digest))
        return 0;
    int rc = import_reference(in, repo, digest, digest, depth);
    in->manifests += rc == 0;
    progress(in, false);
    return rc;
}

static void import_tag(struct import *in, const char *repo, const char *digest, const char *tag)
{
    if (import_manifest(in, repo, digest, 0) == 0 && import_reference(in, repo, digest, tag, 0) == 0)
        in->tags++;
}

/* ---------------------------------------------------------------- an OCI layout */

static int import_layout(struct import *in)
{
    char err[LAYOUT_ERROR_MAX];
    json_t *row, *index;
    size_t i;
    if (layout_index(in->root, &index, err))
        return cli_fail(err);
    json_array_foreach(json_object_get(index, "manifests"), i, row)
    {
        const char *digest = cli_text(row, "digest"), *tag = layout_tag(row);
        if (tag)
            import_tag(in, in->name, digest, tag);
        else
            import_manifest(in, in->name, digest, 0);
    }
    json_decref(index);
    return EXIT_OK;
}

/* ---------------------------------------------------------------- a registry's tree */

/* The digest in a file "link" of a folder. */
static bool read_link(const char *folder, const char *entry, char out[DIGEST_TEXT_MAX + 1])
{
    char path[PATH_MAX], err[LAYOUT_ERROR_MAX];
    struct layout_file file;
    if (snprintf(path, sizeof(path), "%s/%s/link", folder, entry) >= (int)sizeof(path) ||
        layout_read(path, &file, err))
        return false;
    size_t len = strcspn(file.bytes, "\r\n ");
    bool fits = len > 0 && len <= DIGEST_TEXT_MAX;
    if (fits)
        snprintf(out, DIGEST_TEXT_MAX + 1, "%.*s", (int)len, file.bytes);
    layout_file_free(&file);
    return fits;
}

typedef void (*entry_fn)(struct import *in, const char *repo, const char *folder, const char *entry);

static void each_entry(struct import *in, const char *repo, const char *folder, entry_fn each)
{
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            each(in, repo, folder, e->d_name);
    if (dir)
        closedir(dir);
}

static void on_tag(struct import *in, const char *repo, const char *folder, const char *entry)
{
    char sub[PATH_MAX], digest[DIGEST_TEXT_MAX + 1];
    if (snprintf(sub, sizeof(sub), "%s/%s", folder, entry) < (int)sizeof(sub) &&
        read_link(sub, "current", digest))
        import_tag(in, repo, digest, entry);
}

/* What has no tag: signatures, attestations, images that are pulled by digest. */
static void on_revision(struct import *in, const char *repo, const char *folder, const char *entry)
{
    char digest[DIGEST_TEXT_MAX + 1];
    if (read_link(folder, entry, digest))
        import_manifest(in, repo, digest, 0);
}

static void import_repository(struct import *in, const char *folder, const char *name)
{
    static const char *const algorithms[] = {"sha256", "sha512"};
    char sub[PATH_MAX], repo[REPO_NAME_MAX + 2];
    if (snprintf(repo, sizeof(repo), "%s%s%s", in->name ? in->name : "", in->name ? "/" : "", name) >
        REPO_NAME_MAX) {
        fail(in, name, "its name", "it is too long");
        return;
    }
    if (snprintf(sub, sizeof(sub), "%s/_manifests/tags", folder) < (int)sizeof(sub))
        each_entry(in, repo, sub, on_tag);
    for (size_t i = 0; i < 2; i++)
        if (snprintf(sub, sizeof(sub), "%s/_manifests/revisions/%s", folder, algorithms[i]) <
            (int)sizeof(sub))
            each_entry(in, repo, sub, on_revision);
}

/* Folders below repositories/ that have _manifests are repositories; others may have some below. */
static void walk(struct import *in, const char *folder, const char *name, unsigned depth)
{
    DIR *dir = depth < FOLDER_DEPTH_MAX ? opendir(folder) : NULL;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char sub[PATH_MAX], below[PATH_MAX];
        if (strcmp(e->d_name, "_manifests") == 0)
            import_repository(in, folder, name);
        if (e->d_name[0] == '_' || e->d_name[0] == '.')
            continue;
        if (snprintf(sub, sizeof(sub), "%s/%s", folder, e->d_name) < (int)sizeof(sub) &&
            snprintf(below, sizeof(below), "%s%s%s", name, *name ? "/" : "", e->d_name) < (int)sizeof(below))
            walk(in, sub, below, depth + 1);
    }
    if (dir)
        closedir(dir);
}

/* ---------------------------------------------------------------- the command */

/* What the folder is: sets root. False: neither. */
static bool recognize(struct import *in, const char *folder)
{
    static const char *const below[] = {"", "/docker/registry/v2", "/registry/v2", "/v2"};
    char real[PATH_MAX], path[PATH_MAX + 32];
    if (!realpath(folder, real))
        return false;
    snprintf(in->root, sizeof(in->root), "%s", real);
    snprintf(path, sizeof(path), "%s/oci-layout", real);
    if (access(path, F_OK) == 0)
        return true;
    in->registry = true;
    for (size_t i = 0; i < sizeof(below) / sizeof(*below); i++) {
        snprintf(path, sizeof(path), "%s%s/repositories", real, below[i]);
        if (access(path, F_OK) == 0)
            return snprintf(in->root, sizeof(in->root), "%s%s", real, below[i]) < (int)sizeof(in->root);
    }
    return false;
}

static int summarize(struct import *in)
{
    json_t *all =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "manifests", (json_int_t)in->manifests, "tags",
                  (json_int_t)in->tags, "blobs", (json_int_t)in->blobs, "bytes", (json_int_t)in->bytes,
                  "copied", (json_int_t)in->copied, "failed", (json_int_t)in->failed);
    char copied[FIGURE_MAX];
    progress(in, true);
    if (in->cli->options & OPTION_JSON)
        cli_print_json(in->cli, all);
    else if (in->copied)
        printf(
            "%s had to be copied: the store is on another file system, or its user may not read the files\n",
            figure_bytes((double)in->copied, copied));
    json_decref(all);
    return in->failed ? EXIT_FAILED : EXIT_OK;
}

int command_import(struct cli *cli)
{
    struct import in = {.cli = cli, .name = cli->argument_count > 1 ? cli->argument[1] : NULL};
    char path[PATH_MAX];
    if (!recognize(&in, cli->argument[0]))
        return cli_fail("there is neither an OCI layout (oci-layout) nor a registry's tree (repositories/) "
                        "in this folder");
    if (!in.registry && !in.name)
        return cli_fail("an OCI layout has no name: say which repository it becomes, as in `fairlead import "
                        "FOLDER team/app`");
    if (snprintf(path, sizeof(path), "%s/repositories", in.root) >= (int)sizeof(path))
        return cli_fail("the path of the folder is too long");
    in.http = layout_registry(cli);
    if (!in.http)
        return EXIT_FAILED;
    in.done = json_object();
    int code = EXIT_OK;
    if (in.registry)
        walk(&in, path, "", 0);
    else
        code = import_layout(&in);
    if (code == EXIT_OK)
        code = summarize(&in);
    json_decref(in.done);
    http_free(in.http);
    return code;
}
