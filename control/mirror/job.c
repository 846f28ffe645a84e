/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror/job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { PARALLEL_MAX = 16, UPLOADS_MAX = 64 };

static void uploads_read(struct job *job, const json_t *list)
{
    const json_t *item;
    size_t i;
    job->uploads = calloc(UPLOADS_MAX, sizeof(*job->uploads));
    CHECK(job->uploads);
    json_array_foreach(list, i, item)
    {
        struct job_upload u = {.repo = json_string_value(json_object_get(item, "repo")),
                               .digest = json_string_value(json_object_get(item, "digest")),
                               .location = json_string_value(json_object_get(item, "location"))};
        if (u.repo && u.digest && u.location && job->upload_count < UPLOADS_MAX)
            job->uploads[job->upload_count++] = u;
    }
}

int job_read(struct job *job, const char *text, size_t len, char *err, size_t err_len)
{
    json_error_t e;
    json_int_t rate = 0;
    int push, dry, referrers, parallel;
    json_t *only = NULL, *uploads = NULL;
    memset(job, 0, sizeof(*job));
    job->root = json_loadb(text, len, 0, &e);
    if (!job->root ||
        json_unpack_ex(job->root, &e, 0,
                       "{s:b, s:b, s:b, s:{s:s, s?s, s?s, s?s}, s:s, s:s, s:s, s:s, s:s, s:I, s:i, s?o, s?o}",
                       "push", &push, "dry_run", &dry, "referrers", &referrers, "remote", "url",
                       &job->remote_url, "user", &job->user, "password", &job->password, "ca", &job->ca,
                       "local", &job->local_url, "repos", &job->repos, "tags", &job->tags, "strip",
                       &job->strip, "prefix", &job->prefix, "rate", &rate, "parallel", &parallel, "only",
                       &only, "uploads", &uploads)) {
        snprintf(err, err_len, "the job cannot be read: %s", e.text);
        return -EINVAL;
    }
    job->push = push;
    job->dry_run = dry;
    job->referrers = referrers;
    job->rate = rate > 0 ? (uint64_t)rate : 0;
    job->parallel = parallel < 1 ? 1 : parallel > PARALLEL_MAX ? PARALLEL_MAX : (unsigned)parallel;
    job->only = json_is_array(only) ? only : NULL;
    if (!job->password)
        job->user = NULL;
    uploads_read(job, uploads);
    return 0;
}

void job_fini(struct job *job)
{
    free(job->uploads);
    json_decref(job->root);
}

const char *job_upload_find(const struct job *job, const char *repo, const char *digest)
{
    for (size_t i = 0; i < job->upload_count; i++)
        if (strcmp(job->uploads[i].repo, repo) == 0 && strcmp(job->uploads[i].digest, digest) == 0)
            return job->uploads[i].location;
    return NULL;
}
