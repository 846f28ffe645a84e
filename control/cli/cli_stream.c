/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cli/cli.h"
#include "control/cli/client.h"
#include "control/cli/table.h"

enum { EVENTS_SHOWN = 50 };

/* What an event was about, in one cell. */
static void print_event(const struct cli *cli, const json_t *event)
{
    static const char *const keys[] = {"repo",    "digest", "key",   "value", "service",
                                       "backend", "admin",  "name",  "role",  "availability",
                                       "mesh",    "store",  "token", "text"};
    size_t i;
    json_t *tag;
    if (cli->options & OPTION_JSON) {
        json_dumpf(event, stdout, JSON_COMPACT);
        printf("\n");
        fflush(stdout);
        return;
    }
    if (cli_number(event, "lost"))
        printf("(%lld events were lost: this end was too slow)\n", cli_number(event, "lost"));
    printf("%s  %-16s ", cli_text(event, "time"), cli_text(event, "kind"));
    print_clean(stdout, cli_text(event, "actor"));
    printf(" from ");
    print_clean(stdout, *cli_text(event, "source") ? cli_text(event, "source") : "here");
    if (*cli_text(event, "node")) {
        printf(" on ");
        print_clean(stdout, cli_text(event, "node"));
    }
    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (*cli_text(event, keys[i])) {
            putchar(' ');
            print_clean(stdout, cli_text(event, keys[i]));
        }
    }
    json_array_foreach(json_object_get(event, "tags"), i, tag)
    {
        putchar(' ');
        print_clean(stdout, json_string_value(tag));
    }
    json_array_foreach(json_object_get(event, "backends"), i, tag)
    {
        putchar(' ');
        print_clean(stdout, json_string_value(tag));
    }
    printf(" (%s)\n", cli_text(event, "result"));
    fflush(stdout);
}

static void print_events(const struct cli *cli, const json_t *answer)
{
    size_t i;
    json_t *event;
    json_array_foreach(json_object_get(answer, "events"), i, event) print_event(cli, event);
}

static void print_trace(const struct cli *cli, const json_t *record)
{
    (void)cli;
    json_dumpf(record, stdout, JSON_COMPACT);
    printf("\n");
    fflush(stdout);
}

/* Prints what the call answers and then what follows, until one of the ends is gone. */
static int follow(struct cli *cli, const char *method, json_t *params,
                  void (*print)(const struct cli *cli, const json_t *record))
{
    char err[CLIENT_ERROR_MAX];
    struct client *client = client_open(cli->socket, err);
    if (!client) {
        json_decref(params);
        return cli_fail(err);
    }
    json_t *record = client_call(client, method, params, err);
    if (record)
        print_events(cli, record);
    while (record) {
        json_decref(record);
        record = client_next(client, err);
        if (record)
            print(cli, record);
    }
    client_close(client);
    return cli_fail(err);
}

int command_events(struct cli *cli)
{
    json_int_t limit = cli->limit ? cli->limit : EVENTS_SHOWN;
    if (cli->options & OPTION_FOLLOW)
        return follow(cli, "events.follow",
                      json_pack("{s:s, s:I}", "filter", cli->filter ? cli->filter : "", "limit", limit),
                      print_event);
    if (cli->filter) {
        cli_fail("--filter goes with --follow; or filter the output with grep");
        return EXIT_USAGE;
    }
    json_t *answer = cli_ask(cli, "events.list", json_pack("{s:I}", "limit", limit));
    if (!answer)
        return EXIT_FAILED;
    print_events(cli, answer);
    json_decref(answer);
    return EXIT_OK;
}

int command_trace(struct cli *cli)
{
    return follow(cli, "trace", json_pack("{s:s}", "filter", cli->filter ? cli->filter : ""), print_trace);
}
