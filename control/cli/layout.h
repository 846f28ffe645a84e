/* SPDX-License-Identifier: Apache-2.0 */
/* Folders with images (OCI image-spec, image-layout.md), and the registry that they come from or go to. */
#ifndef FL_CLI_LAYOUT_H
#define FL_CLI_LAYOUT_H

#include <stddef.h>
#include <jansson.h>

#include "control/cli/cli.h"
#include "control/cli/http.h"

enum { LAYOUT_ERROR_MAX = 512, LAYOUT_FILE_MAX = 8 << 20, LAYOUT_TAG_MAX = 128 };

struct layout_file {
    char *bytes; /* ends with NUL; layout_file_free */
    size_t len;
};

/* A small regular file. 0 or -errno with a text. */
int layout_read(const char *path, struct layout_file *out, char err[LAYOUT_ERROR_MAX]);
void layout_file_free(struct layout_file *file);

/* Writes a small file as a whole: under another name, then durable, then in its place. 0 or -errno. */
int layout_write(const char *path, const void *bytes, size_t len);

/* index.json of a layout: *out gets a reference. 0, or -errno with a text; -ENOENT: there is none. */
int layout_index(const char *root, json_t **out, char err[LAYOUT_ERROR_MAX]);

/* The tag that an entry of index.json has, or NULL. */
const char *layout_tag(const json_t *entry);

/* The media type of a manifest: what it says, or what its fields tell. */
const char *layout_type(const json_t *manifest);

/* The registry that --registry names, or this node's. NULL after an error was printed. */
struct http *layout_registry(struct cli *cli);

#endif
