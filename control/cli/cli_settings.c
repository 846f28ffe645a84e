/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cli/cli.h"
#include "control/cli/table.h"

static int print_all(struct cli *cli)
{
    static const char *const titles[] = {"KEY", ">VALUE", "SOURCE", ">DEFAULT", ">MIN", ">MAX", NULL};
    json_t *answer = cli_ask(cli, "settings.list", NULL);
    size_t i;
    json_t *row;
    if (!answer)
        return EXIT_FAILED;
    const json_t *rows = json_object_get(answer, "settings");
    if (cli->options & OPTION_JSON) {
        cli_print_json(cli, rows);
    } else {
        struct table *table = table_new(titles);
        json_array_foreach(rows, i, row)
            table_row(table, cli_text(row, "key"), cli_text(row, "value"), cli_text(row, "source"),
                      cli_text(row, "default"), cli_text(row, "min"), cli_text(row, "max"));
        table_print(table, stdout);
    }
    json_decref(answer);
    return EXIT_OK;
}

int command_get(struct cli *cli)
{
    if (cli->options & OPTION_ALL)
        return print_all(cli);
    if (cli->argument_count == 0) {
        cli_fail("say which setting, or --all; usage: fairlead get KEY");
        return EXIT_USAGE;
    }
    json_t *row = cli_ask(cli, "settings.get", json_pack("{s:s}", "key", cli->argument[0]));
    if (!row)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON)
        cli_print_json(cli, row);
    else if (cli->terminal)
        printf("%s = %s  (%s)\n%s\n%s from %s to %s, default %s\n", cli_text(row, "key"),
               cli_text(row, "value"), cli_text(row, "source"), cli_text(row, "text"), cli_text(row, "type"),
               cli_text(row, "min"), cli_text(row, "max"), cli_text(row, "default"));
    else
        printf("%s\n", cli_text(row, "value"));
    json_decref(row);
    return EXIT_OK;
}

static int print_change(struct cli *cli, json_t *row)
{
    if (!row)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON)
        cli_print_json(cli, row);
    else
        printf("%s: %s -> %s (%s)%s\n", cli_text(row, "key"), cli_text(row, "previous"),
               cli_text(row, "value"), cli_text(row, "source"),
               json_is_true(json_object_get(row, "applied"))
                   ? ""
                   : "; committed, the data plane does not go by it yet");
    json_decref(row);
    return EXIT_OK;
}

int command_set(struct cli *cli)
{
    json_t *params = json_pack("{s:s, s:s}", "key", cli->argument[0], "value", cli->argument[1]);
    if (!params)
        return cli_fail("the value is not UTF-8; write it in plain text");
    return print_change(cli, cli_ask(cli, "settings.set", params));
}

int command_unset(struct cli *cli)
{
    return print_change(cli, cli_ask(cli, "settings.unset", json_pack("{s:s}", "key", cli->argument[0])));
}
