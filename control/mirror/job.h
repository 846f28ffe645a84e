/* SPDX-License-Identifier: Apache-2.0 */
/* What one run is to do: a JSON object on standard input, from control. */
#ifndef FL_MIRROR_JOB_H
#define FL_MIRROR_JOB_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct job {
    json_t *root; /* has the texts */
    bool push, dry_run, referrers;
    const char *remote_url, *user, *password, *ca; /* NULL: none */
    const char *local_url;
    const char *repos, *tags, *strip, *prefix;
    uint64_t rate;
    unsigned parallel;
    const json_t *only; /* repositories of the source that are meant, no others; NULL: all */
};

/* 0, or -EINVAL with what is wrong in err. */
int job_read(struct job *job, const char *text, size_t len, char *err, size_t err_len);
void job_fini(struct job *job);

#endif
