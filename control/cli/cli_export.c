/* SPDX-License-Identifier: Apache-2.0 */
/* Images of a registry as an OCI layout: every blob is hashed as it comes, and has its name when it is whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <openssl/evp.h>

#include "check.h"
#include "control/cli/cli.h"
#include "control/cli/http.h"
#include "control/cli/layout.h"
#include "control/cli/table.h"
#include "digest.h"
#include "limits.h"

enum { DEPTH_MAX = 8, PAGE = 1000 };

static const char manifest_types[] =
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json, */*";

struct exporting {
    struct cli *cli;
    struct http *http;
    const char *root;
    char repo[REPO_NAME_MAX + 1];
    json_t *index; /* index.json */
    json_t *done;  /* digests that are whole, with what they refer to */
    long long manifests, tags, blobs, bytes, there;
};

/* A blob on its way into the folder. */
struct incoming {
    int fd;
    EVP_MD_CTX *ctx;
    long long bytes;
};

static void progress(const struct exporting *ex, bool last)
{
    char bytes[FIGURE_MAX];
    if (ex->cli->options & OPTION_JSON || (!isatty(STDERR_FILENO) && !last))
        return;
    fprintf(stderr, "%s%lld tags, %lld manifests, %lld blobs, %s%s", isatty(STDERR_FILENO) ? "\r\033[K" : "",
            ex->tags, ex->manifests, ex->blobs, figure_bytes((double)ex->bytes, bytes), last ? "\n" : "");
}

static int fail(const struct exporting *ex, const char *what, const char *why)
{
    fprintf(stderr, "%sfairlead: %s, %s: %s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "", ex->repo, what, why);
    return -1;
}

/* blobs/ALGORITHM/HEX; makes the folder. */
static int blob_path(const struct exporting *ex, const char *text, struct digest *d, char out[PATH_MAX])
{
    char hex[2 * DIGEST_BYTES_MAX + 1];
    if (digest_parse(text, strlen(text), d))
        return fail(ex, text, "the registry sent what is no digest");
    digest_hex(d, hex);
    if (snprintf(out, PATH_MAX, "%s/blobs/%s", ex->root, digest_alg_name(d->alg)) >= PATH_MAX - 140)
        return fail(ex, text, "the path of the folder is too long");
    if (mkdir(out, 0755) && errno != EEXIST)
        return fail(ex, out, strerror(errno));
    snprintf(out + strlen(out), PATH_MAX - strlen(out), "/%s", hex);
    return 0;
}

static bool digest_matches(EVP_MD_CTX *ctx, const struct digest *d)
{
    uint8_t bytes[EVP_MAX_MD_SIZE];
    return EVP_DigestFinal_ex(ctx, bytes, NULL) && memcmp(bytes, d->bytes, digest_size(d->alg)) == 0;
}

static EVP_MD_CTX *digest_begin(const struct digest *d)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    CHECK(ctx && EVP_DigestInit_ex(ctx, d->alg == DIGEST_SHA512 ? EVP_sha512() : EVP_sha256(), NULL));
    return ctx;
}

static bool on_bytes(void *arg, const void *bytes, size_t len)
{
    struct incoming *in = arg;
    for (size_t at = 0; at < len;) {
        ssize_t n = write(in->fd, (const char *)bytes + at, len - at);
        if (n < 0)
            return false;
        at += (size_t)n;
    }
    in->bytes += (long long)len;
    return EVP_DigestUpdate(in->ctx, bytes, len);
}

static int fetch_into(struct exporting *ex, const char *text, const struct digest *d, const char *fresh)
{
    char url[HTTP_URL_MAX / 2], err[HTTP_ERROR_MAX];
    struct http_answer answer;
    struct incoming in = {.fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    if (in.fd < 0)
        return fail(ex, fresh, strerror(errno));
    in.ctx = digest_begin(d);
    snprintf(url, sizeof(url), "/v2/%s/blobs/%s", ex->repo, text);
    int rc = http_fetch(ex->http, url, on_bytes, &in, &answer, err) ? fail(ex, text, err) : 0;
    if (rc == 0 && answer.status != 200)
        rc = fail(ex, text, http_why(&answer, err));
    if (rc == 0 && !digest_matches(in.ctx, d))
        rc = fail(ex, text, "the registry sent other bytes than these");
    if (rc == 0 && fsync(in.fd))
        rc = fail(ex, fresh, strerror(errno));
    ex->bytes += in.bytes;
    http_answer_free(&answer);
    EVP_MD_CTX_free(in.ctx);
    close(in.fd);
    return rc;
}

static int export_blob(struct exporting *ex, const char *text)
{
    char path[PATH_MAX], fresh[PATH_MAX + 8];
    struct digest d;
    int rc = blob_path(ex, text, &d, path);
    if (rc)
        return rc;
    if (access(path, F_OK) == 0) {
        ex->there++;
        return 0;
    }
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    rc = fetch_into(ex, text, &d, fresh);
    if (rc == 0 && rename(fresh, path))
        rc = fail(ex, path, strerror(errno));
    if (rc)
        unlink(fresh);
    ex->blobs += rc == 0;
    progress(ex, false);
    return rc;
}

static int export_manifest(struct exporting *ex, const char *reference, const char *tag, unsigned depth);

static int export_list(struct exporting *ex, const json_t *list, bool manifests, unsigned depth)
{
    json_t *row;
    size_t i;
    int rc = 0;
    json_array_foreach(list, i, row)
    {
        if (json_array_size(json_object_get(row, "urls")))
            continue;
        rc |= manifests ? export_manifest(ex, cli_text(row, "digest"), NULL, depth + 1)
                        : export_blob(ex, cli_text(row, "digest"));
    }
    return rc;
}

/* An entry of index.json: the tag's, or that of something which only referrers lead to. */
static void enter(struct exporting *ex, const char *digest, const char *type, size_t size, const char *tag)
{
    json_t *list = json_object_get(ex->index, "manifests"), *row;
    size_t i = 0;
    while (i < json_array_size(list)) {
        row = json_array_get(list, i);
        const char *other = layout_tag(row);
        bool same = tag ? other && strcmp(other, tag) == 0 : strcmp(cli_text(row, "digest"), digest) == 0;
        if (same && !tag)
            return;
        if (same)
            json_array_remove(list, i);
        else
            i++;
    }
    row = json_pack("{s:s, s:s, s:I}", "mediaType", type, "digest", digest, "size", (json_int_t)size);
    if (tag)
        json_object_set_new(row, "annotations", json_pack("{s:s}", "org.opencontainers.image.ref.name", tag));
    json_array_append_new(list, row);
}

/* Signatures and the like; registries without the endpoint have none. */
static int export_referrers(struct exporting *ex, const char *digest, unsigned depth)
{
    char url[HTTP_URL_MAX / 2], err[HTTP_ERROR_MAX];
    struct http_answer answer;
    snprintf(url, sizeof(url), "/v2/%s/referrers/%s", ex->repo, digest);
    if (http_get(ex->http, url, NULL, &answer, err))
        return fail(ex, digest, err);
    json_t *index = answer.status == 200 ? json_loadb(answer.body, answer.len, 0, NULL) : NULL, *row;
    size_t i;
    int rc = 0;
    json_array_foreach(json_object_get(index, "manifests"), i, row)
    {
        rc |= export_manifest(ex, cli_text(row, "digest"), NULL, depth + 1);
        enter(ex, cli_text(row, "digest"), cli_text(row, "mediaType"), (size_t)cli_number(row, "size"), NULL);
    }
    json_decref(index);
    http_answer_free(&answer);
    return rc;
}

static int export_content(struct exporting *ex, const char *digest, const struct http_answer *answer,
                          unsigned depth)
{
    json_t *manifest = json_loadb(answer->body, answer->len, 0, NULL),
           *config = json_object_get(manifest, "config");
    char path[PATH_MAX];
    struct digest d;
    if (!manifest)
        return fail(ex, digest, "it is no manifest");
    int rc = config ? export_blob(ex, cli_text(config, "digest")) : 0;
    rc |= export_list(ex, json_object_get(manifest, "layers"), false, depth);
    rc |= export_list(ex, json_object_get(manifest, "blobs"), false, depth);
    rc |= export_list(ex, json_object_get(manifest, "manifests"), true, depth);
    json_decref(manifest);
    rc = rc ? rc : blob_path(ex, digest, &d, path);
    if (rc == 0 && (rc = layout_write(path, answer->body, answer->len)))
        rc = fail(ex, path, strerror(-rc));
    if (rc == 0)
        json_object_set_new(ex->done, digest, json_true());
    ex->manifests += rc == 0;
    progress(ex, false);
    return rc ? rc : export_referrers(ex, digest, depth);
}

/* The digest of what came; where it was asked for by one, it must be that. */
static int name_content(const struct exporting *ex, const char *reference, const struct http_answer *answer,
                        char out[DIGEST_TEXT_MAX + 1])
{
    struct digest d = {.alg = DIGEST_SHA256};
    if (strchr(reference, ':') && digest_parse(reference, strlen(reference), &d))
        return fail(ex, reference, "the registry sent what is no digest");
    EVP_MD_CTX *ctx = digest_begin(&d);
    bool named = strchr(reference, ':') != NULL, right = EVP_DigestUpdate(ctx, answer->body, answer->len);
    if (right && named)
        right = digest_matches(ctx, &d);
    else if (right)
        right = EVP_DigestFinal_ex(ctx, d.bytes, NULL);
    EVP_MD_CTX_free(ctx);
    digest_format(&d, out);
    return right ? 0 : fail(ex, reference, "the registry sent other bytes than these");
}

static int export_manifest(struct exporting *ex, const char *reference, const char *tag, unsigned depth)
{
    char url[HTTP_URL_MAX / 2], err[HTTP_ERROR_MAX], digest[DIGEST_TEXT_MAX + 1];
    struct http_answer answer;
    if (json_object_get(ex->done, reference))
        return 0;
    if (depth > DEPTH_MAX)
        return fail(ex, reference, "indexes are nested too deeply");
    snprintf(url, sizeof(url), "/v2/%s/manifests/%s", ex->repo, reference);
    if (http_get(ex->http, url, manifest_types, &answer, err))
        return fail(ex, reference, err);
    int rc = answer.status == 200 ? name_content(ex, reference, &answer, digest)
                                  : fail(ex, reference, http_why(&answer, err));
    if (rc == 0 && !json_object_get(ex->done, digest))
        rc = export_content(ex, digest, &answer, depth);
    if (rc == 0 && tag)
        enter(ex, digest, answer.type, answer.len, tag);
    http_answer_free(&answer);
    return rc;
}

static int export_all(struct exporting *ex)
{
    char after[LAYOUT_TAG_MAX + 1] = "";
    bool more = true;
    int rc = 0;
    while (more) {
        json_t *row,
            *page = cli_ask(ex->cli, "repo.tags",
                            json_pack("{s:s, s:s, s:i}", "repo", ex->repo, "after", after, "limit", PAGE));
        size_t i;
        if (!page)
            return -1;
        json_array_foreach(json_object_get(page, "tags"), i, row)
        {
            snprintf(after, sizeof(after), "%s", cli_text(row, "tag"));
            int one = export_manifest(ex, after, after, 0);
            ex->tags += one == 0;
            rc |= one;
        }
        more = json_is_true(json_object_get(page, "more"));
        json_decref(page);
    }
    return rc;
}

static int folder_prepare(struct exporting *ex)
{
    static const char layout[] = "{\"imageLayoutVersion\":\"1.0.0\"}";
    char path[PATH_MAX], err[LAYOUT_ERROR_MAX];
    if (snprintf(path, sizeof(path), "%s/blobs", ex->root) >= (int)sizeof(path))
        return fail(ex, ex->root, "the path is too long");
    /* Before anything is written: what the folder has is named by its index alone. */
    int rc = layout_index(ex->root, &ex->index, err);
    if (rc && rc != -ENOENT)
        return cli_fail(err);
    if ((mkdir(ex->root, 0755) && errno != EEXIST) || (mkdir(path, 0755) && errno != EEXIST))
        return fail(ex, ex->root, strerror(errno));
    snprintf(path, sizeof(path), "%s/oci-layout", ex->root);
    rc = layout_write(path, layout, sizeof(layout) - 1);
    if (rc)
        return fail(ex, path, strerror(-rc));
    if (!ex->index)
        ex->index = json_pack("{s:i, s:s, s:[]}", "schemaVersion", 2, "mediaType",
                              "application/vnd.oci.image.index.v1+json", "manifests");
    return 0;
}

static int index_write(struct exporting *ex)
{
    char path[PATH_MAX], *text = json_dumps(ex->index, JSON_COMPACT);
    CHECK(text);
    snprintf(path, sizeof(path), "%s/index.json", ex->root);
    int rc = layout_write(path, text, strlen(text));
    free(text);
    return rc ? fail(ex, path, strerror(-rc)) : 0;
}

static int summarize(struct exporting *ex, int rc)
{
    progress(ex, true);
    if (ex->cli->options & OPTION_JSON) {
        json_t *all = json_pack("{s:I, s:I, s:I, s:I, s:I}", "tags", (json_int_t)ex->tags, "manifests",
                                (json_int_t)ex->manifests, "blobs", (json_int_t)ex->blobs, "bytes",
                                (json_int_t)ex->bytes, "there", (json_int_t)ex->there);
        cli_print_json(ex->cli, all);
        json_decref(all);
    }
    return rc ? EXIT_FAILED : EXIT_OK;
}

int command_export(struct cli *cli)
{
    struct exporting ex = {.cli = cli, .root = cli->argument[1]};
    if (strlen(cli->argument[0]) > REPO_NAME_MAX)
        return cli_fail("the name is too long; `fairlead repo ls` lists the repositories");
    snprintf(ex.repo, sizeof(ex.repo), "%s", cli->argument[0]);
    char *tag = strrchr(ex.repo, ':');
    if (tag)
        *tag++ = '\0';
    ex.http = layout_registry(cli);
    if (!ex.http)
        return EXIT_FAILED;
    ex.done = json_object();
    int rc = folder_prepare(&ex);
    if (rc == 0) {
        rc = tag ? export_manifest(&ex, tag, tag, 0) : export_all(&ex);
        ex.tags += tag && rc == 0;
        rc |= index_write(&ex);
    }
    int code = summarize(&ex, rc);
    json_decref(ex.index);
    json_decref(ex.done);
    http_free(ex.http);
    return code;
}
