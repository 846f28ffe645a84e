/* SPDX-License-Identifier: Apache-2.0 */
/* Backups, and what else is done to a state that rests. */
#include <errno.h>
#include <linux/limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "control/cli/cli.h"
#include "control/cli/table.h"

enum { PASSPHRASE_MAX = 1024, POLL_MS = 200 };

/* The passphrase from the file, or asked on the terminal. False after an error was printed. */
static bool take_passphrase(const struct cli *cli, bool twice, char out[PASSPHRASE_MAX])
{
    const char *path = cli_value(cli, OPTION_PASSPHRASE);
    if (path) {
        FILE *file = fopen(path, "re");
        bool read = file && fgets(out, PASSPHRASE_MAX, file);
        if (file)
            fclose(file);
        out[read ? strcspn(out, "\r\n") : 0] = '\0';
        if (!read)
            fprintf(stderr, "fairlead: there is no passphrase in %s\n", path);
        return read;
    }
    if (!isatty(STDIN_FILENO)) {
        cli_fail("there is no terminal to ask for the passphrase; give --passphrase-file FILE");
        return false;
    }
    snprintf(out, PASSPHRASE_MAX, "%s", getpass("Passphrase: "));
    if (twice && strcmp(getpass("The same again: "), out) != 0) {
        cli_fail("the two are not the same");
        return false;
    }
    return true;
}

/* What the daemon takes: it has another working folder. */
static bool absolute(const char *path, char out[PATH_MAX])
{
    char here[PATH_MAX];
    if (*path == '/')
        return snprintf(out, PATH_MAX, "%s", path) < PATH_MAX;
    return getcwd(here, sizeof(here)) && snprintf(out, PATH_MAX, "%s/%s", here, path) < PATH_MAX;
}

/* Waits until it is made, or not. */
static int follow(struct cli *cli)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
    for (;;) {
        json_t *status = cli_ask(cli, "backup.status", json_object());
        char bytes[FIGURE_MAX];
        if (!status)
            return EXIT_FAILED;
        if (!json_is_true(json_object_get(status, "running"))) {
            int code = *cli_text(status, "error") ? cli_fail(cli_text(status, "error")) : EXIT_OK;
            if (code == EXIT_OK && cli->options & OPTION_JSON)
                cli_print_json(cli, status);
            else if (code == EXIT_OK)
                printf("%s: %lld files, %s\n", cli_text(status, "path"), cli_number(status, "files"),
                       figure_bytes(cli_real(status, "bytes"), bytes));
            json_decref(status);
            return code;
        }
        json_decref(status);
        nanosleep(&pause, NULL);
    }
}

int command_backup_create(struct cli *cli)
{
    char passphrase[PASSPHRASE_MAX], path[PATH_MAX];
    if (!absolute(cli->argument[0], path))
        return cli_fail("the path of the file is too long");
    if (!take_passphrase(cli, true, passphrase))
        return EXIT_FAILED;
    json_t *params = json_pack("{s:s, s:s, s:b}", "path", path, "passphrase", passphrase, "blobs",
                               (cli->options & OPTION_BLOBS) != 0);
    explicit_bzero(passphrase, sizeof(passphrase));
    if (!params)
        return cli_fail("the path or the passphrase is not UTF-8");
    json_t *answer = cli_ask(cli, "backup.create", params);
    if (!answer)
        return EXIT_FAILED;
    json_decref(answer);
    return follow(cli);
}

/* The passphrase where fairleadd reads it: its standard input. */
static bool feed(char passphrase[PASSPHRASE_MAX])
{
    int ends[2];
    size_t len = strlen(passphrase);
    passphrase[len] = '\n';
    bool fed = pipe(ends) == 0 && write(ends[1], passphrase, len + 1) == (ssize_t)len + 1 &&
               dup2(ends[0], STDIN_FILENO) == STDIN_FILENO && close(ends[0]) == 0 && close(ends[1]) == 0;
    explicit_bzero(passphrase, PASSPHRASE_MAX);
    return fed;
}

/* What is for a state that no daemon runs with, the daemon's program does; it stands beside this one. */
static int become_daemon(const char *const *argv)
{
    char daemon[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", daemon, sizeof(daemon) - 4);
    if (len > 0) {
        memcpy(daemon + len, "d", 2);
        execv(daemon, (char *const *)(uintptr_t)argv);
    }
    fprintf(stderr, "fairlead: fairleadd cannot be run: %s; run it: fairleadd %s --state DIR\n",
            strerror(errno), argv[1]);
    return EXIT_FAILED;
}

int command_cluster_force_new(struct cli *cli)
{
    const char *argv[6] = {"fairleadd", "--force-new"}, *state = cli_value(cli, OPTION_STATE);
    size_t count = 2;
    if (state) {
        argv[count++] = "--state";
        argv[count++] = state;
    }
    if (cli->options & OPTION_YES)
        argv[count++] = "--yes";
    return become_daemon(argv);
}

int command_backup_restore(struct cli *cli)
{
    char passphrase[PASSPHRASE_MAX];
    const char *argv[8] = {"fairleadd", "--restore", cli->argument[0]}, *state = cli_value(cli, OPTION_STATE);
    size_t count = 3;
    if (state) {
        argv[count++] = "--state";
        argv[count++] = state;
    }
    if (cli->options & OPTION_VERIFY)
        argv[count++] = "--verify";
    if (!take_passphrase(cli, false, passphrase))
        return EXIT_FAILED;
    if (!feed(passphrase))
        return cli_fail("the passphrase cannot be handed over");
    return become_daemon(argv);
}
