/* SPDX-License-Identifier: Apache-2.0 */
/* Routes: the first byte is the method, the rest the path. Names and tags agree with the specification's
 * regexes. */
#include <regex.h>
#include <stdlib.h>

#include "check.h"
#include "dataplane/registry/route.h"

#define PART "[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*"

struct grammars {
    regex_t name, tag;
};

static const struct grammars *grammars(void)
{
    static struct grammars g;
    static bool ready;
    if (!ready) {
        CHECK(regcomp(&g.name, "^" PART "(/" PART ")*$", REG_EXTENDED | REG_NOSUB) == 0);
        CHECK(regcomp(&g.tag, "^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$", REG_EXTENDED | REG_NOSUB) == 0);
        ready = true;
    }
    return &g;
}

/* A NUL in the view ends the text for the regex: such a view is none of the grammars. */
static bool matches(const regex_t *regex, struct view v)
{
    char text[512];
    if (v.len >= sizeof(text) || memchr(v.p, '\0', v.len))
        return false;
    memcpy(text, v.p, v.len);
    text[v.len] = '\0';
    return regexec(regex, text, 0, NULL, 0) == 0;
}

static void check_grammars(struct view v)
{
    if (v.len == 0 || v.len > 300)
        return;
    CHECK(route_name_valid(v) == (v.len <= REPO_NAME_MAX && matches(&grammars()->name, v)));
    CHECK(route_tag_valid(v) == matches(&grammars()->tag, v));
}

static void check_route(const struct route *r)
{
    bool named = r->endpoint != ROUTE_BASE && r->endpoint != ROUTE_CATALOG;
    CHECK(r->endpoint < ROUTE_ENDPOINTS_COUNT);
    if (!named)
        return;
    CHECK(matches(&grammars()->name, r->repo));
    if (r->endpoint == ROUTE_MANIFEST && !r->by_digest)
        CHECK(matches(&grammars()->tag, r->reference));
    if (r->endpoint == ROUTE_BLOB || r->endpoint == ROUTE_REFERRERS || r->by_digest) {
        char text[DIGEST_TEXT_MAX + 1];
        size_t len = digest_format(&r->digest, text);
        CHECK(view_eq(r->reference, view_of(text, len)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct route r;
    if (size == 0)
        return 0;
    size_t len = size - 1;
    char *path = malloc(len + 1), *scratch = malloc(len + 1);
    CHECK(path && scratch);
    memcpy(path, data + 1, len);
    struct view v = view_of(path, len);
    check_grammars(v);
    if (route_read((enum http_method)(data[0] % (HTTP_OTHER + 1)), v, scratch, len, &r) == ROUTE_OK)
        check_route(&r);
    free(path);
    free(scratch);
    return 0;
}
