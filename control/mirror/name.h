/* SPDX-License-Identifier: Apache-2.0 */
/* Names of repositories, tags and digests that another registry said or a rule is about. Pure. */
#ifndef FL_MIRROR_NAME_H
#define FL_MIRROR_NAME_H

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>

#include "limits.h"

enum { DIGEST_TEXT_ROOM = 144 };

/* The grammar of the OCI distribution specification: what fails it goes into no URL. */
bool name_repo_valid(const char *name);
bool name_tag_valid(const char *tag);
bool name_digest_valid(const char *digest);

/* What a source's repository is called on the other side: without `strip` in front, behind `prefix`. False:
 * it cannot be called so. */
bool name_map(const char *strip, const char *prefix, const char *source, char out[REPO_NAME_MAX + 1]);

/* Whether it is a list of names without any pattern in it. */
bool name_list_plain(const char *patterns);

/* The fall-back tag of a digest's referrers, as in sha256-HEX; false where it does not fit. */
bool name_referrers_tag(const char *digest, char out[TAG_NAME_MAX + 1]);

/* Whether the tag has the form of the fall-back tag (exact), or begins with it as cosign's tags of
 * signatures, attestations and SBOMs do (sha256-HEX.sig). */
bool name_tag_refers(const char *tag, bool *exact);

/* Which tags are meant: patterns, or an extended regular expression behind '~'. */
struct name_filter {
    const char *patterns; /* borrowed; NULL: it is an expression */
    regex_t expression;
};
/* 0, or -EINVAL for an expression that is none. */
int name_filter_init(struct name_filter *f, const char *text);
void name_filter_fini(struct name_filter *f);
bool name_filter_matches(const struct name_filter *f, const char *tag);

#endif
