/* SPDX-License-Identifier: Apache-2.0 */
#include "control/force_main.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "control/folders.h"
#include "control/raft/consensus.h"

static const char warning[] = "This is for a cluster that has lost the majority of its managers for good. "
                              "This node goes on as the only\n"
                              "manager that votes, with what its own log has:\n"
                              "  - what the others acknowledged, and this node never got, is lost;\n"
                              "  - the others must never run again with the state they have: remove them "
                              "(`fairlead node rm --force`), delete\n"
                              "    their state, and let them join anew. Two halves that both go on are two "
                              "clusters of the same name.\n";

static bool confirmed(void)
{
    char answer[8];
    if (!isatty(STDIN_FILENO)) {
        fprintf(stderr, "fairleadd: nothing was changed; --yes says that this is meant\n");
        return false;
    }
    printf("Type yes to go on: ");
    fflush(stdout);
    if (fgets(answer, sizeof(answer), stdin) && strcmp(answer, "yes\n") == 0)
        return true;
    fprintf(stderr, "fairleadd: nothing was changed\n");
    return false;
}

int force_main(const struct config *config, bool yes)
{
    char err[512];
    struct folders folders = {.state_fd = open(config->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    int code = 1;
    if (folders.state_fd < 0 || faccessat(folders.state_fd, "raft", F_OK, 0)) {
        fprintf(stderr, "fairleadd: there is no state in %s: %s; give its folder by --state or --config\n",
                config->state_dir, strerror(errno));
        goto out;
    }
    if (folders_lock(&folders, config->state_dir, err, sizeof(err))) {
        fprintf(stderr, "fairleadd: %s\n", err);
        goto out;
    }
    fputs(warning, stdout);
    if (!yes && !confirmed())
        goto out_lock;
    if (consensus_force_new(config->state_dir, err, sizeof(err))) {
        fprintf(stderr, "fairleadd: %s\n", err);
        goto out_lock;
    }
    printf("%s: this node is the only manager that votes; start fairleadd, then remove the others\n",
           config->state_dir);
    code = 0;
out_lock:
    close(folders.lock_fd);
out:
    if (folders.state_fd >= 0)
        close(folders.state_fd);
    return code;
}
