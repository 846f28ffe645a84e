/* SPDX-License-Identifier: Apache-2.0 */
/* The cluster's CA. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "control/cli/cli.h"

enum { SHOWN_CHARS = 16 };

/* The nodes that lack something, as one line: "c (certificate, away), d (trust)". */
static void print_waits(const json_t *rotation)
{
    json_t *row;
    size_t i;
    json_array_foreach(json_object_get(rotation, "waits_for"), i, row)
    {
        printf("%s%s (%s%s)", i ? ", " : "; waits for ", cli_text(row, "node"), cli_text(row, "lacks"),
               json_is_true(json_object_get(row, "away")) ? ", away" : "");
    }
}

void cli_print_ca(const json_t *answer)
{
    const json_t *ca = json_object_get(answer, "ca"), *rotation = json_object_get(ca, "rotation");
    const char *fingerprint = cli_text(ca, "fingerprint");
    if (*fingerprint)
        printf("%-16s sha256 %.*s...\n", "ca", SHOWN_CHARS, fingerprint);
    if (!json_is_object(rotation))
        return;
    printf("%-16s %s: %lld of %lld nodes", "ca rotation", cli_text(rotation, "phase"),
           cli_number(rotation, "done"), cli_number(rotation, "nodes"));
    print_waits(rotation);
    if (*cli_text(rotation, "blocked"))
        printf("; %s", cli_text(rotation, "blocked"));
    printf("%s\n", json_is_true(json_object_get(rotation, "forced")) ? "; without those that are away" : "");
}

/* Says who is left behind, and asks. */
static bool may_force(const struct cli *cli, const json_t *shown)
{
    const json_t *rotation = json_object_get(json_object_get(shown, "ca"), "rotation");
    char answer[8] = "";
    json_t *row;
    size_t i;
    json_array_foreach(json_object_get(rotation, "waits_for"), i, row)
    {
        if (json_is_true(json_object_get(row, "away")))
            fprintf(
                stderr,
                "%s is away: its certificate will be refused, and it gets no other one; it has to be removed "
                "and to join again\n",
                cli_text(row, "node"));
    }
    if (cli->options & OPTION_YES || !isatty(STDIN_FILENO))
        return true;
    fprintf(stderr, "go on without nodes that are away? [y/N] ");
    return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

int command_cluster_rotate_ca(struct cli *cli)
{
    bool force = (cli->options & OPTION_FORCE) != 0;
    json_t *shown = force ? cli_ask(cli, "cluster.show", json_object()) : NULL;
    if (force && !shown)
        return EXIT_FAILED;
    bool meant = !force || may_force(cli, shown);
    json_decref(shown);
    if (!meant)
        return cli_fail("nothing was changed");
    return cli_finish(cli, cli_ask(cli, "cluster.rotate_ca", json_pack("{s:b}", "force", force)),
                      force ? "the rotation goes on without nodes that are away"
                            : "the rotation has begun; `fairlead cluster show` says how far it is");
}
