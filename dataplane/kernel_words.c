/* SPDX-License-Identifier: Apache-2.0 */
#include "dataplane/kernel_words.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "abi.h"

enum { EVIDENCE_BYTES = ABI_EVIDENCE_SLOTS * sizeof(uint64_t) };

static int map_words(int verdicts_fd, int evidence_fd, struct kernel_words *words)
{
    void *verdicts = mmap(NULL, words->count * sizeof(uint64_t), PROT_READ, MAP_SHARED, verdicts_fd, 0);
    if (verdicts == MAP_FAILED)
        return -errno;
    void *evidence = mmap(NULL, EVIDENCE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, evidence_fd, 0);
    if (evidence == MAP_FAILED) {
        int err = -errno;
        munmap(verdicts, words->count * sizeof(uint64_t));
        return err;
    }
    words->verdicts = verdicts;
    words->evidence = evidence;
    return 0;
}

int kernel_words_new(int verdicts_fd, int evidence_fd, uint32_t count, struct kernel_words **out)
{
    struct kernel_words *words = calloc(1, sizeof(*words));
    int err = words ? 0 : -ENOMEM;
    if (!err && count) {
        words->count = count;
        err = map_words(verdicts_fd, evidence_fd, words);
    }
    if (count) {
        close(verdicts_fd);
        close(evidence_fd);
    }
    if (err) {
        free(words);
        return err;
    }
    *out = words;
    return 0;
}

void kernel_words_free(struct kernel_words *words)
{
    if (words && words->count) {
        munmap((void *)(uintptr_t)words->verdicts, words->count * sizeof(uint64_t));
        munmap(words->evidence, EVIDENCE_BYTES);
    }
    free(words);
}
