/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <time.h>

#include "control/cli/cli.h"
#include "control/cli/table.h"

enum { POLL_MS = 100 };

static double real_at(const json_t *status, const char *key, const char *field)
{
    return json_number_value(json_object_get(json_object_get(status, key), field));
}

static void print_sum(const json_t *status, const char *key, const char *text)
{
    char count[FIGURE_MAX], bytes[FIGURE_MAX];
    if (real_at(status, key, "count") > 0)
        printf("  %10s  %10s  %s\n", figure_count(real_at(status, key, "count"), count),
               figure_bytes(real_at(status, key, "bytes"), bytes), text);
}

static void print_status(const json_t *s)
{
    char manifests[FIGURE_MAX], links[FIGURE_MAX], repos[FIGURE_MAX];
    bool dry = json_is_true(json_object_get(s, "dry_run"));
    printf("looked at %s repositories, %s manifests, %s links\n",
           figure_count(real_at(s, "looked", "repositories"), repos),
           figure_count(real_at(s, "looked", "manifests"), manifests),
           figure_count(real_at(s, "looked", "links"), links));
    if (dry) {
        print_sum(s, "garbage", "that no manifest names, in their repositories");
        print_sum(s, "unlinked_now", "blobs that no repository has any more");
        return;
    }
    print_sum(s, "going", "found now; they go when gc.grace is over, if nothing names them until then");
    print_sum(s, "waiting", "found before, and still waiting for gc.grace");
    print_sum(s, "dropped", "removed from their repositories");
    print_sum(s, "forgotten", "blobs that are removed, with their files");
    print_sum(s, "strays", "files that no row named, on this node, since its start");
    print_sum(s, "spares", "copies that this node need not have, since its start");
}

static void print_progress(const struct cli *cli, const json_t *s)
{
    char links[FIGURE_MAX], blobs[FIGURE_MAX];
    if (!cli->terminal || (cli->options & OPTION_JSON))
        return;
    fprintf(stderr, "\r\033[K%s: %s links, %s blobs  %.40s", cli_text(s, "stage"),
            figure_count(real_at(s, "looked", "links"), links),
            figure_count(real_at(s, "looked", "blobs"), blobs), cli_text(s, "repo"));
}

/* Waits for the end of the run. NULL after an error was printed. */
static json_t *follow(struct cli *cli)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
    for (;;) {
        json_t *status = cli_ask(cli, "gc.status", json_object());
        if (!status || strcmp(cli_text(status, "stage"), "none") == 0) {
            if (cli->terminal && !(cli->options & OPTION_JSON))
                fprintf(stderr, "\r\033[K");
            return status;
        }
        print_progress(cli, status);
        json_decref(status);
        nanosleep(&pause, NULL);
    }
}

int command_gc(struct cli *cli)
{
    json_t *begun = NULL, *status = NULL;
    if (cli->options & OPTION_PROGRESS) {
        status = cli_ask(cli, "gc.status", json_object());
    } else {
        begun = cli_ask(cli, "gc.run", json_pack("{s:b}", "dry_run", (cli->options & OPTION_DRY_RUN) != 0));
        if (begun)
            status = follow(cli);
    }
    json_decref(begun);
    if (!status)
        return EXIT_FAILED;
    bool failed = json_is_string(json_object_get(status, "failed"));
    if (cli->options & OPTION_JSON)
        cli_print_json(cli, status);
    else
        print_status(status);
    if (failed)
        cli_fail(cli_text(status, "failed"));
    json_decref(status);
    return failed ? EXIT_FAILED : EXIT_OK;
}
