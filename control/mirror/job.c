/* SPDX-License-Identifier: Apache-2.0 */
#include "control/mirror/job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

enum { PARALLEL_MAX = 16 };

int job_read(struct job *job, const char *text, size_t len, char *err, size_t err_len)
{
    json_error_t e;
    json_int_t rate = 0;
    int push, dry, referrers, parallel;
    json_t *only = NULL;
    memset(job, 0, sizeof(*job));
    job->root = json_loadb(text, len, 0, &e);
    if (!job->root ||
        json_unpack_ex(job->root, &e, 0,
                       "{s:b, s:b, s:b, s:{s:s, s?s, s?s, s?s}, s:s, s:s, s:s, s:s, s:s, s:I, s:i, s?o}",
                       "push", &push, "dry_run", &dry, "referrers", &referrers, "remote", "url",
                       &job->remote_url, "user", &job->user, "password", &job->password, "ca", &job->ca,
                       "local", &job->local_url, "repos", &job->repos, "tags", &job->tags, "strip",
                       &job->strip, "prefix", &job->prefix, "rate", &rate, "parallel", &parallel, "only",
                       &only)) {
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
    return 0;
}

void job_fini(struct job *job)
{
    json_decref(job->root);
}
