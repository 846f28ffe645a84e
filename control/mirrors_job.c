/* SPDX-License-Identifier: Apache-2.0 */
/* What a process of mirroring is told: the rule, who it is there, where this registry is, what is left over.
 */
#include <errno.h>
#include <fcntl.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "control/credentials.h"
#include "control/mirrors_private.h"

enum { FILE_MAX = 256 << 10 };

/* The text of a file of the node, malloc'd. NULL, and the reason in why. */
static char *file_read(const char *path, char why[MIRRORS_ERROR_MAX])
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    char *text = NULL;
    ssize_t n = -1;
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size < FILE_MAX) {
        text = calloc(1, FILE_MAX);
        CHECK(text);
        n = read(fd, text, FILE_MAX - 1);
    } else if (fd >= 0) {
        errno = EINVAL;
    }
    if (n < 0) {
        snprintf(why, MIRRORS_ERROR_MAX, "%s: %s", path, strerror(errno));
        free(text);
        text = NULL;
    }
    if (fd >= 0)
        close(fd);
    return text;
}

/* USER:PASSWORD in the first line of a file that nobody else may read. */
static bool credentials_add(json_t *remote, const char *path, char why[MIRRORS_ERROR_MAX])
{
    struct credentials c;
    if (!*path)
        return true;
    if (!credentials_read_both(path, &c, why, MIRRORS_ERROR_MAX))
        return false;
    json_t *user = json_string(c.user), *password = json_string(c.password);
    bool good = user && password;
    if (good) {
        json_object_set(remote, "user", user);
        json_object_set(remote, "password", password);
    } else {
        snprintf(why, MIRRORS_ERROR_MAX, "%s: it is not UTF-8", path);
    }
    json_decref(user);
    json_decref(password);
    explicit_bzero(&c, sizeof(c));
    return good;
}

static bool ca_add(json_t *remote, const char *path, char why[MIRRORS_ERROR_MAX])
{
    char *text = *path ? file_read(path, why) : NULL;
    if (!text)
        return !*path;
    bool good = strstr(text, "-----BEGIN CERTIFICATE-----") &&
                json_object_set_new(remote, "ca", json_string(text)) == 0;
    if (!good)
        snprintf(why, MIRRORS_ERROR_MAX, "%s: it has no certificates as PEM", path);
    free(text);
    return good;
}

static json_t *pending_json(const struct mirror_state *s)
{
    json_t *list = json_array(), *value;
    const char *repo;
    json_object_foreach(s->pending, repo, value)
    {
        json_array_append_new(list, json_string(repo));
    }
    return list;
}

json_t *mirror_job(struct mirrors *m, const struct mirror_state *s, bool dry_run, char why[MIRRORS_ERROR_MAX])
{
    const struct mirror_rule *r = &s->rule;
    char local[MIRRORS_URL_MAX];
    const char *nowhere;
    if (!m->config.local(m->config.arg, local, &nowhere)) {
        snprintf(why, MIRRORS_ERROR_MAX, "%s", nowhere);
        return NULL;
    }
    json_t *remote = json_pack("{s:s}", "url", r->url);
    if (!credentials_add(remote, r->credentials, why) || !ca_add(remote, r->ca, why)) {
        json_decref(remote);
        return NULL;
    }
    json_t *job = json_pack("{s:b, s:b, s:b, s:o, s:s, s:s, s:s, s:s, s:s, s:I, s:i}", "push", r->push,
                            "dry_run", dry_run, "referrers", r->referrers, "remote", remote, "local", local,
                            "repos", r->repos, "tags", r->tags, "strip", r->strip, "prefix", r->prefix,
                            "rate", (json_int_t)r->rate, "parallel", (int)r->parallel);
    CHECK(job);
    if (!s->run.whole)
        json_object_set_new(job, "only", pending_json(s));
    return job;
}

/* --- what has changed --- */

void mirror_pending_add(struct mirror_state *s, const char *repo, uint64_t now_ms)
{
    if (!s->clock.event_ms)
        s->clock.event_ms = now_ms ? now_ms : 1;
    if (json_object_size(s->pending) >= MIRRORS_PENDING_MAX)
        s->pending_all = true;
    else
        json_object_set_new(s->pending, repo, json_true());
}

void mirror_pending_all(struct mirror_state *s)
{
    s->pending_all = true;
}

void mirror_pending_clear(struct mirror_state *s)
{
    json_object_clear(s->pending);
    s->pending_all = false;
    s->clock.event_ms = 0;
}

/* Not where it is applied: libraries may differ. */
int mirrors_expression_check(const struct mirror_rule *m, char err[MIRROR_ERROR_MAX])
{
    regex_t e;
    char why[128];
    int rc = m->tags[0] == '~' ? regcomp(&e, m->tags + 1, REG_EXTENDED | REG_NOSUB) : 0;
    if (rc) {
        regerror(rc, &e, why, sizeof(why));
        snprintf(err, MIRROR_ERROR_MAX, "tags: the expression cannot be read: %s", why);
        return -EINVAL;
    }
    if (m->tags[0] == '~')
        regfree(&e);
    return 0;
}
