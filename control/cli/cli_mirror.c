/* SPDX-License-Identifier: Apache-2.0 */
/* Mirroring. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "control/cli/cli.h"
#include "control/cli/table.h"

enum { TEXT_MAX = 512, POLL_MS = 200 };

static const char *state_text(const json_t *row, char out[TEXT_MAX])
{
    const json_t *run = json_object_get(row, "run");
    const char *error = cli_text(run, "error");
    snprintf(out, TEXT_MAX, "%s%s%s", *cli_text(row, "state") ? cli_text(row, "state") : "-",
             *error ? ": " : "", error);
    return out;
}

static void print_rule(struct table *table, const json_t *row)
{
    char state[TEXT_MAX];
    bool event = strcmp(cli_text(row, "on_event"), "true") == 0,
         timed = strcmp(cli_text(row, "every"), "0") != 0;
    char when[TEXT_MAX];
    snprintf(when, sizeof(when), "%s%s%s",
             timed   ? cli_text(row, "every")
             : event ? ""
                     : "by hand",
             timed && event ? "+" : "", event ? "event" : "");
    table_row(table, cli_text(row, "name"), cli_text(row, "direction"), cli_text(row, "url"),
              cli_text(row, "repos"), cli_text(row, "tags"), when,
              *cli_text(row, "synced") ? cli_text(row, "synced") : "-", state_text(row, state));
}

int command_mirror_ls(struct cli *cli)
{
    static const char *const titles[] = {"NAME",   "DIRECTION", "URL", "REPOSITORIES", "TAGS", "WHEN",
                                         "SYNCED", "STATE",     NULL};
    return cli_print_list(cli, cli_ask(cli, "mirror.list", json_object()), "mirrors", titles, print_rule);
}

int command_mirror_set(struct cli *cli)
{
    json_t *fields = cli_take_fields(cli, 1, "url=https://registry.example repos=team/*");
    if (!fields)
        return EXIT_USAGE;
    return cli_finish(
        cli, cli_ask(cli, "mirror.set", json_pack("{s:s, s:o}", "name", cli->argument[0], "fields", fields)),
        "set");
}

int command_mirror_rm(struct cli *cli)
{
    if (!cli_is_meant(cli, cli->argument[0]))
        return cli_fail("nothing was deleted");
    json_t *params = json_pack("{s:s}", "name", cli->argument[0]);
    if (cli->options & OPTION_FORCE)
        json_object_set_new(params, "force", json_true());
    return cli_finish(cli, cli_ask(cli, "mirror.delete", params), "removed");
}

static json_t *ask_one(const struct cli *cli)
{
    json_t *answer = cli_ask(cli, "mirror.list", json_pack("{s:s}", "name", cli->argument[0]));
    json_t *row = json_incref(json_array_get(json_object_get(answer, "mirrors"), 0));
    json_decref(answer);
    return row;
}

static void print_run(const json_t *run)
{
    const json_t *n = json_object_get(run, "counts"), *tag;
    size_t i;
    bool dry = json_is_true(json_object_get(run, "dry_run"));
    json_array_foreach(json_object_get(run, "tags"), i, tag)
    {
        const char *error = cli_text(tag, "error");
        printf("%s %s:%s %s%s%s\n", cli_text(tag, "state"), cli_text(tag, "to"), cli_text(tag, "tag"),
               cli_text(tag, "digest"), *error ? " " : "", error);
    }
    if (json_is_true(json_object_get(run, "more")))
        printf("... and more\n");
    printf("%lld of %lld tags in %lld repositories: %lld %s, %lld failed; %lld blobs with %lld bytes copied, "
           "%lld "
           "mounted, %lld there already\n",
           cli_number(n, "done"), cli_number(n, "tags"), cli_number(n, "repos"), cli_number(n, "copied"),
           dry ? "would be copied" : "copied", cli_number(n, "failed"), cli_number(n, "blobs"),
           cli_number(n, "bytes"), cli_number(n, "mounted"), cli_number(n, "here"));
}

static int print_one(struct cli *cli, json_t *row)
{
    const json_t *run = json_object_get(row, "run");
    const char *error = cli_text(run, "error"), *key;
    json_t *value;
    bool failed = *error != '\0';
    if (cli->options & OPTION_JSON) {
        cli_print_json(cli, row);
    } else {
        json_object_foreach(row, key, value)
        {
            if (json_is_string(value))
                printf("%s: %s\n", key, json_string_value(value));
        }
        if (run)
            print_run(run);
        if (failed)
            fprintf(stderr, "fairlead: %s\n", error);
    }
    json_decref(row);
    return failed ? EXIT_FAILED : EXIT_OK;
}

int command_mirror_status(struct cli *cli)
{
    json_t *row = ask_one(cli);
    return row ? print_one(cli, row) : EXIT_FAILED;
}

/* Waits for the end of the run that it has begun; another one's begin is its end, too. */
int command_mirror_run(struct cli *cli)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
    bool dry = cli->options & OPTION_DRY_RUN;
    json_t *begun =
        cli_ask(cli, "mirror.run", json_pack("{s:s, s:b}", "name", cli->argument[0], "dry_run", dry));
    long long number = cli_number(begun, "number");
    if (!begun)
        return EXIT_FAILED;
    json_decref(begun);
    for (;;) {
        json_t *row = ask_one(cli), *run = json_object_get(row, "run");
        if (!row)
            return EXIT_FAILED;
        if (cli_number(run, "number") != number) {
            json_decref(row);
            return cli_fail(
                "the rule was changed meanwhile, or another node leads now; look at `mirror status`");
        }
        if (!json_is_true(json_object_get(run, "running"))) {
            if (!(cli->options & OPTION_JSON)) {
                bool failed = *cli_text(run, "error");
                print_run(run);
                if (failed)
                    fprintf(stderr, "fairlead: %s\n", cli_text(run, "error"));
                json_decref(row);
                return failed ? EXIT_FAILED : EXIT_OK;
            }
            return print_one(cli, row);
        }
        json_decref(row);
        nanosleep(&pause, NULL);
    }
}
