/* SPDX-License-Identifier: Apache-2.0 */
/* What another registry may say to mirroring: links, lists, manifests, lists of referrers. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/mirror/document.h"
#include "control/mirror/url.h"

static bool on_name(void *arg, const char *name)
{
    size_t *count = arg;
    CHECK(name_repo_valid(name));
    return ++*count < 100;
}

static void documents(const char *data, size_t len)
{
    struct document d;
    size_t count = 0;
    char why[300];
    bool more;
    if (document_read(data, len, "application/x", &d) == 0) {
        for (size_t i = 0; i < d.count; i++)
            CHECK(name_digest_valid(d.refs[i].digest) && d.refs[i].size >= 0);
        document_fini(&d);
    }
    document_names(data, len, "repositories", name_repo_valid, on_name, &count);
    document_error(data, len, why, sizeof(why));
    json_t *list = document_referrers(data, len);
    if (list)
        free(document_referrers_merge(NULL, list, &more));
    json_decref(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char next[URL_ROOM], url[URL_ROOM], repo[REPO_NAME_MAX + 1];
    char *text = malloc(len + 1);
    CHECK(text);
    memcpy(text, data, len);
    text[len] = '\0';
    if (url_next(text, next) && url_resolve("https://registry.example/v2/_catalog?n=1", next, url))
        CHECK(strncasecmp(url, "http", 4) == 0);
    if (name_map("team", "copies", text, repo))
        CHECK(name_repo_valid(repo));
    documents(text, len);
    free(text);
    return 0;
}
