/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cli/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

static int read_all(int fd, struct layout_file *out)
{
    struct stat st;
    if (fstat(fd, &st))
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if (st.st_size > LAYOUT_FILE_MAX)
        return -EFBIG;
    size_t cap = (size_t)st.st_size;
    ssize_t n = 0;
    out->bytes = malloc(cap + 1);
    CHECK(out->bytes);
    for (out->len = 0; out->len < cap; out->len += (size_t)n)
        if ((n = read(fd, out->bytes + out->len, cap - out->len)) <= 0)
            break;
    out->bytes[out->len] = '\0';
    if (n >= 0)
        return 0;
    int rc = -errno;
    layout_file_free(out);
    return rc;
}

int layout_read(const char *path, struct layout_file *out, char err[LAYOUT_ERROR_MAX])
{
    *out = (struct layout_file){.len = 0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int rc = fd < 0 ? -errno : read_all(fd, out);
    if (fd >= 0)
        close(fd);
    if (rc)
        snprintf(err, LAYOUT_ERROR_MAX, "%.400s: %s", path, strerror(-rc));
    return rc;
}

void layout_file_free(struct layout_file *file)
{
    free(file->bytes);
    file->bytes = NULL;
}

int layout_write(const char *path, const void *bytes, size_t len)
{
    char fresh[PATH_MAX];
    if (snprintf(fresh, sizeof(fresh), "%s.new", path) >= (int)sizeof(fresh))
        return -ENAMETOOLONG;
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < len;) {
        ssize_t n = write(fd, (const char *)bytes + at, len - at);
        rc = n < 0 ? -errno : 0;
        at += n > 0 ? (size_t)n : 0;
    }
    if (rc == 0 && fsync(fd))
        rc = -errno;
    close(fd);
    if (rc == 0 && rename(fresh, path))
        rc = -errno;
    if (rc)
        unlink(fresh);
    return rc;
}

int layout_index(const char *root, json_t **out, char err[LAYOUT_ERROR_MAX])
{
    char path[PATH_MAX];
    struct layout_file file;
    *out = NULL;
    snprintf(err, LAYOUT_ERROR_MAX, "%.400s: the path is too long", root);
    if (snprintf(path, sizeof(path), "%s/index.json", root) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    int rc = layout_read(path, &file, err);
    if (rc)
        return rc;
    json_t *index = json_loadb(file.bytes, file.len, JSON_REJECT_DUPLICATES, NULL);
    layout_file_free(&file);
    if (json_is_array(json_object_get(index, "manifests"))) {
        *out = index;
        return 0;
    }
    json_decref(index);
    snprintf(err, LAYOUT_ERROR_MAX, "%.400s: it is no index of images", path);
    return -EINVAL;
}

/* distribution-spec: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127} */
static bool tag_valid(const char *tag)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
    size_t len = strspn(tag, letters);
    return len >= 1 && len <= LAYOUT_TAG_MAX && tag[len] == '\0' && *tag != '.' && *tag != '-';
}

const char *layout_tag(const json_t *entry)
{
    const char *name = json_string_value(
        json_object_get(json_object_get(entry, "annotations"), "org.opencontainers.image.ref.name"));
    /* Some tools write the whole name of the image there. */
    const char *colon = name ? strrchr(name, ':') : NULL;
    const char *tag = colon ? colon + 1 : name;
    return tag && tag_valid(tag) ? tag : NULL;
}

const char *layout_type(const json_t *manifest)
{
    const char *type = json_string_value(json_object_get(manifest, "mediaType"));
    if (type)
        return type;
    return json_object_get(manifest, "manifests") ? "application/vnd.oci.image.index.v1+json"
                                                  : "application/vnd.oci.image.manifest.v1+json";
}

/* The first address of this node's registry, in clear if there is one. */
static bool own_registry(struct cli *cli, char out[HTTP_URL_MAX / 2])
{
    json_t *status = cli_ask(cli, "status", json_object()), *row;
    size_t i;
    bool found = false;
    if (!status)
        return false;
    json_array_foreach(json_object_get(status, "services"), i, row)
    {
        if (strcmp(cli_text(row, "service"), "registry") != 0 || found)
            continue;
        found = snprintf(out, HTTP_URL_MAX / 2, "%s://%s",
                         json_is_true(json_object_get(row, "tls")) ? "https" : "http",
                         cli_text(row, "address")) < HTTP_URL_MAX / 2;
    }
    json_decref(status);
    if (!found)
        cli_fail("this node listens nowhere as a registry; say which one with --registry URL");
    return found;
}

struct http *layout_registry(struct cli *cli)
{
    char url[HTTP_URL_MAX / 2];
    const char *given = cli_value(cli, OPTION_REGISTRY);
    if (given)
        snprintf(url, sizeof(url), "%s", given);
    else if (!own_registry(cli, url))
        return NULL;
    struct http *http = http_new(url);
    if (!http)
        cli_fail("the registry's URL is too long");
    return http;
}
