/* SPDX-License-Identifier: Apache-2.0 */
/* Sources. */
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "control/cli/cli.h"
#include "control/cli/table.h"

enum { TEXT_MAX = 3072 };

static const char *dash(const char *text)
{
    return *text ? text : "-";
}

static void print_source(struct table *table, const json_t *row)
{
    char where[TEXT_MAX], state[TEXT_MAX];
    const char *problem = cli_text(row, "problem"), *service = cli_text(row, "service");
    bool tls = strcmp(cli_text(row, "tls"), "true") == 0;
    snprintf(where, sizeof(where), "%s%s",
             *service ? "service "
             : tls    ? "tls "
                      : "",
             *service ? service : cli_text(row, "backends"));
    snprintf(state, sizeof(state), "%s%s%s", cli_text(row, "state"), *problem ? ": " : "", problem);
    table_row(table, cli_text(row, "prefix"), dash(cli_text(row, "upstream")), where,
              dash(cli_text(row, "credentials")), cli_text(row, "origin"), state);
}

int command_source_ls(struct cli *cli)
{
    static const char *const titles[] = {"PREFIX", "UPSTREAM",   "ASKED", "CREDENTIALS",
                                         "FROM",   "STATE HERE", NULL};
    return cli_print_list(cli, cli_ask(cli, "source.list", json_object()), "sources", titles, print_source);
}

int command_source_set(struct cli *cli)
{
    json_t *fields = cli_take_fields(cli, 1, "backends=registry.example tls=true");
    if (!fields)
        return EXIT_USAGE;
    json_t *answer =
        cli_ask(cli, "source.set", json_pack("{s:s, s:o}", "prefix", cli->argument[0], "fields", fields));
    if (*cli_text(answer, "problem"))
        fprintf(stderr, "fairlead: on this node: %s\n", cli_text(answer, "problem"));
    return cli_finish(cli, answer, "set");
}

int command_source_rm(struct cli *cli)
{
    char bytes[FIGURE_MAX];
    if (!cli_is_meant(cli, cli->argument[0]))
        return cli_fail("nothing was deleted");
    json_t *params = json_pack("{s:s}", "prefix", cli->argument[0]);
    if (cli->options & OPTION_FORCE)
        json_object_set_new(params, "force", json_true());
    json_t *answer = cli_ask(cli, "source.delete", params);
    const json_t *cached = json_object_get(answer, "cached");
    if (cached && cli_number(cached, "bytes") && !(cli->options & OPTION_JSON))
        printf("what came from there stays, and is served: %s (tags: %lld)\n",
               figure_bytes(cli_real(cached, "bytes"), bytes), cli_number(cached, "tags"));
    return cli_finish(cli, answer, "removed");
}

int command_source_test(struct cli *cli)
{
    json_t *answer = cli_ask(cli, "source.test", json_pack("{s:s}", "name", cli->argument[0]));
    bool good = json_is_true(json_object_get(answer, "good"));
    if (answer && cli->options & OPTION_JSON)
        cli_print_json(cli, answer);
    else if (answer)
        fprintf(good ? stdout : stderr, "%s%s\n", good ? "" : "fairlead: ", cli_text(answer, "text"));
    json_decref(answer);
    return good ? EXIT_OK : EXIT_FAILED;
}
