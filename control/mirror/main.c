/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fairlead-mirror: one run of one rule of mirroring. A client of two registries, and nothing more: control
 * starts it, without privileges, gives it the job on standard input, and reads on standard output how far it
 * is. It opens no file, remembers nothing, and may be killed at any point.
 */
#include <curl/curl.h>
#include <errno.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "control/mirror/copy.h"

enum { JOB_BYTES_MAX = 4 << 20, DATA_BYTES_MAX = 1 << 30 };

/* It ends with control, can gain nothing, and leaves no core with credentials in it. */
static void confine(void)
{
    const struct rlimit none = {0, 0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
#ifndef FL_SANITIZER
    /* What a registry makes it remember is bounded one by one; this is for all of it together. */
    const struct rlimit data = {DATA_BYTES_MAX, DATA_BYTES_MAX};
    setrlimit(RLIMIT_DATA, &data);
    /* A sanitizer looks for leaks by tracing its own process. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
    setrlimit(RLIMIT_CORE, &none);
    syscall(SYS_close_range, 3, ~0u, 0);
    signal(SIGPIPE, SIG_IGN);
}

static char *input_read(size_t *len)
{
    char *text = malloc(JOB_BYTES_MAX);
    CHECK(text);
    *len = fread(text, 1, JOB_BYTES_MAX, stdin);
    return text;
}

int main(void)
{
    struct job job;
    char err[256];
    size_t len;
    confine();
    if (isatty(STDIN_FILENO)) {
        fprintf(stderr,
                "fairlead-mirror: fairleadd starts it; `fairlead mirror run NAME` is what you want\n");
        return 2;
    }
    char *text = input_read(&len);
    int rc = job_read(&job, text, len, err, sizeof(err));
    explicit_bzero(text, len);
    free(text);
    if (rc) {
        printf("{\"type\":\"end\",\"error\":\"the job cannot be read\"}\n");
        fprintf(stderr, "fairlead-mirror: %s\n", err);
        job_fini(&job);
        return 2;
    }
    CHECK(curl_global_init(CURL_GLOBAL_DEFAULT) == 0);
    rc = copy_run(&job);
    job_fini(&job);
    curl_global_cleanup();
    return rc ? 1 : 0;
}
