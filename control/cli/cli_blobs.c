/* SPDX-License-Identifier: Apache-2.0 */
/* The blobs of this node's store. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "control/cli/cli.h"
#include "control/cli/table.h"

enum { POLL_MS = 500 };

static void show_progress(const struct cli *cli, const json_t *scrub)
{
    char bytes[FIGURE_MAX];
    if (!cli->terminal || cli->options & OPTION_JSON)
        return;
    printf("\r%5.1f %%  %lld blobs, %s are good, %lld damaged, %lld unreadable ",
           100 * cli_real(scrub, "done"), cli_number(scrub, "blobs"),
           figure_bytes(cli_real(scrub, "bytes"), bytes), cli_number(scrub, "damaged"),
           cli_number(scrub, "unreadable"));
    fflush(stdout);
}

static int show_result(const struct cli *cli, const json_t *scrub)
{
    char bytes[FIGURE_MAX];
    if (cli->options & OPTION_JSON)
        cli_print_json(cli, scrub);
    else
        printf("%s%lld blobs, %s are good, %lld damaged, %lld unreadable\n", cli->terminal ? "\r\033[K" : "",
               cli_number(scrub, "blobs"), figure_bytes(cli_real(scrub, "bytes"), bytes),
               cli_number(scrub, "damaged"), cli_number(scrub, "unreadable"));
    return cli_number(scrub, "damaged") || cli_number(scrub, "unreadable") ? EXIT_FAILED : EXIT_OK;
}

/* Until the scrub ends that runs now. */
static int follow(struct cli *cli)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
    for (;;) {
        json_t *status = cli_ask(cli, "status", json_object());
        if (!status)
            return EXIT_FAILED;
        const json_t *scrub = json_object_get(json_object_get(status, "blobs"), "scrub");
        bool running = json_is_true(json_object_get(scrub, "running"));
        int code = EXIT_OK;
        if (running)
            show_progress(cli, scrub);
        else
            code = show_result(cli, scrub);
        json_decref(status);
        if (!running)
            return code;
        nanosleep(&pause, NULL);
    }
}

const char *cli_repair_text(const json_t *repair, char out[REPAIR_TEXT_MAX])
{
    char bytes[FIGURE_MAX], left[REPAIR_TEXT_MAX / 2] = "no blob is on too few replicas";
    const char *failure = cli_text(repair, "failure");
    if (cli_number(repair, "endangered"))
        snprintf(left, sizeof(left), "%lld blobs, %s are on too few replicas (%lld on none)",
                 cli_number(repair, "endangered"), figure_bytes(cli_real(repair, "endangered_bytes"), bytes),
                 cli_number(repair, "lost"));
    snprintf(out, REPAIR_TEXT_MAX,
             "%.16s: %s; this node has copied %lld, %s, let %lld go, and failed %lld times%s%.40s",
             cli_text(repair, "state"), left, cli_number(repair, "copied"),
             figure_bytes(cli_real(repair, "copied_bytes"), bytes), cli_number(repair, "let_go"),
             cli_number(repair, "failed"), *failure ? ": " : "", failure);
    return out;
}

int command_store_accept(struct cli *cli)
{
    if (!(cli->options & OPTION_YES) && isatty(STDIN_FILENO)) {
        cli_fail(
            "what the node's store had is then looked for on other replicas; say --yes if that is meant");
        return EXIT_USAGE;
    }
    json_t *store = cli_ask(cli, "store.accept", json_object());
    if (!store)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON)
        cli_print_json(cli, store);
    else
        printf("%s is this node's store; what it lacks comes from other replicas\n", cli_text(store, "path"));
    json_decref(store);
    return EXIT_OK;
}

int command_blob_verify(struct cli *cli)
{
    bool all = cli->options & OPTION_ALL;
    if (all == (cli->argument_count > 0))
        return cli_fail("give a DIGEST, or --all");
    json_t *result =
        cli_ask(cli, "blob.verify",
                all ? json_pack("{s:b}", "all", 1) : json_pack("{s:s}", "digest", cli->argument[0]));
    if (!result)
        return EXIT_FAILED;
    bool good = all || strcmp(cli_text(result, "result"), "ok") == 0;
    if (!all && cli->options & OPTION_JSON)
        cli_print_json(cli, result);
    else if (!all)
        printf("%s: %s\n", cli_text(result, "digest"), cli_text(result, "result"));
    json_decref(result);
    return all ? follow(cli) : good ? EXIT_OK : EXIT_FAILED;
}
