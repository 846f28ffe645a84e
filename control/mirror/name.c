/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror/name.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "names_policy.h"

static const char lower[] = "abcdefghijklmnopqrstuvwxyz0123456789";

/* [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*, with '/' between components. */
bool name_repo_valid(const char *name)
{
    const char *p = name;
    if (strlen(name) > REPO_NAME_MAX)
        return false;
    for (;;) {
        size_t word = strspn(p, lower);
        if (word == 0)
            return false;
        p += word;
        size_t dashes = strspn(p, "-");
        if (*p == '\0')
            return true;
        if (dashes)
            p += dashes;
        else if (p[0] == '_' && p[1] == '_')
            p += 2;
        else if (*p == '/' || *p == '.' || *p == '_')
            p++;
        else
            return false;
    }
}

bool name_tag_valid(const char *tag)
{
    size_t len = strspn(tag, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    return len && len <= TAG_NAME_MAX && tag[len] == '\0' && *tag != '.' && *tag != '-';
}

bool name_digest_valid(const char *digest)
{
    size_t hex = strncmp(digest, "sha256:", 7) == 0 ? 64 : strncmp(digest, "sha512:", 7) == 0 ? 128 : 0;
    return hex && strspn(digest + 7, "0123456789abcdef") == hex && digest[7 + hex] == '\0';
}

bool name_map(const char *strip, const char *prefix, const char *source, char out[REPO_NAME_MAX + 1])
{
    size_t len = strlen(strip);
    const char *rest = source;
    if (len && policy_covers(strip, len, source, strlen(source)))
        rest += len + (source[len] == '/');
    int n = snprintf(out, REPO_NAME_MAX + 1, "%s%s%s", prefix, *prefix && *rest ? "/" : "", rest);
    return n > 0 && n <= REPO_NAME_MAX && name_repo_valid(out);
}

bool name_list_plain(const char *patterns)
{
    return strpbrk(patterns, "*?!") == NULL;
}

bool name_referrers_tag(const char *digest, char out[TAG_NAME_MAX + 1])
{
    const char *colon = strchr(digest, ':');
    if (!colon || colon - digest > 32)
        return false;
    snprintf(out, TAG_NAME_MAX + 1, "%.*s-%.64s", (int)(colon - digest), digest, colon + 1);
    return name_tag_valid(out);
}

bool name_tag_refers(const char *tag, bool *exact)
{
    static const char *const ends[] = {"", ".sig", ".att", ".sbom"};
    size_t alg = strncmp(tag, "sha256-", 7) == 0 || strncmp(tag, "sha512-", 7) == 0 ? 7 : 0;
    if (!alg || strspn(tag + alg, "0123456789abcdef") != 64)
        return false;
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        *exact = i == 0;
        if (strcmp(tag + alg + 64, ends[i]) == 0)
            return true;
    }
    return false;
}

int name_filter_init(struct name_filter *f, const char *text)
{
    f->patterns = *text == '~' ? NULL : text;
    if (f->patterns)
        return 0;
    return regcomp(&f->expression, text + 1, REG_EXTENDED | REG_NOSUB) ? -EINVAL : 0;
}

void name_filter_fini(struct name_filter *f)
{
    if (!f->patterns)
        regfree(&f->expression);
}

bool name_filter_matches(const struct name_filter *f, const char *tag)
{
    if (f->patterns)
        return pattern_match(f->patterns, tag, strlen(tag));
    return regexec(&f->expression, tag, 0, NULL, 0) == 0;
}
