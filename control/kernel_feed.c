/* SPDX-License-Identifier: Apache-2.0 */
#include "control/kernel_feed.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <net/ethernet.h>
#include <string.h>

#include "abi.h"
#include "check.h"

static int program_of(const struct bpf_load *load)
{
    struct bpf_load_program program;
    for (size_t i = 0; bpf_load_program(load, i, &program); i++)
        if (strcmp(program.name, "feed") == 0)
            return program.fd;
    return -ENOENT;
}

int kernel_feed_run(const struct bpf_load *load, const uint64_t *word, size_t count)
{
    uint8_t bytes[ETHER_HDR_LEN + ABI_FEED_WORDS * sizeof(*word)] = {0};
    LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = bytes,
                .data_size_in = (uint32_t)(ETHER_HDR_LEN + count * sizeof(*word)), .repeat = 1);
    int fd = program_of(load);
    CHECK(count > 0 && count <= ABI_FEED_WORDS);
    if (fd < 0)
        return fd;
    memcpy(bytes + ETHER_HDR_LEN, word, count * sizeof(*word));
    return bpf_prog_test_run_opts(fd, &run) ? -errno : 0;
}
