/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes and the cluster. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "control/cli/cli.h"
#include "control/cli/table.h"

enum { PAGE = 1000, TEXT_MAX = 128 };

/* --- shown --- */

static const char *const node_titles[] = {
    "ID", "NAME", "ROLE", "REPLICA", "AVAILABILITY", "STATE", "LEADER", "MESH", ">LAG", "REASON", NULL};

static const char *or_dash(const char *text)
{
    return *text ? text : "-";
}

static void print_node(struct table *table, const json_t *row)
{
    char id[FIGURE_MAX], lag[FIGURE_MAX] = "-", name[TEXT_MAX];
    snprintf(id, sizeof(id), "%lld", cli_number(row, "id"));
    snprintf(name, sizeof(name), "%s%s", cli_text(row, "name"),
             json_is_true(json_object_get(row, "self")) ? " *" : "");
    if (json_is_integer(json_object_get(row, "lag")))
        snprintf(lag, sizeof(lag), "%lld", cli_number(row, "lag"));
    table_row(table, id, name, cli_text(row, "role"),
              json_is_true(json_object_get(row, "replica")) ? "yes" : "no", cli_text(row, "availability"),
              cli_text(row, "state"), json_is_true(json_object_get(row, "leader")) ? "leader" : "-",
              or_dash(cli_text(row, "mesh")), lag, or_dash(cli_text(row, "reason")));
}

int command_node_ls(struct cli *cli)
{
    struct table *table = table_new(node_titles);
    long long after = 0;
    bool more = true;
    while (more) {
        json_t *row,
            *answer = cli_ask(cli, "node.list", json_pack("{s:I, s:i}", "after", after, "limit", PAGE));
        size_t i;
        if (!answer) {
            table_free(table);
            return EXIT_FAILED;
        }
        more = json_is_true(json_object_get(answer, "more"));
        if (cli->options & OPTION_JSON)
            cli_print_json(cli, answer);
        json_array_foreach(json_object_get(answer, "nodes"), i, row)
        {
            print_node(table, row);
            after = cli_number(row, "id");
        }
        if (!more && !(cli->options & OPTION_JSON)) {
            table_print(table, stdout);
            table = NULL;
            cli_print_notes(answer);
        }
        json_decref(answer);
    }
    if (table)
        table_free(table);
    return EXIT_OK;
}

int command_cluster_show(struct cli *cli)
{
    json_t *answer = cli_ask(cli, "cluster.show", json_object()), *value;
    const char *key;
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON) {
        cli_print_json(cli, answer);
    } else {
        json_object_foreach(json_object_get(answer, "cluster"), key, value)
        {
            if (json_is_string(value))
                printf("%-16s %s\n", key, json_string_value(value));
            else if (json_is_integer(value))
                printf("%-16s %lld\n", key, (long long)json_integer_value(value));
        }
        char text[REPAIR_TEXT_MAX];
        printf("%-16s %s\n", "repair", cli_repair_text(json_object_get(answer, "repair"), text));
        cli_print_ca(answer);
        printf("%-16s %s\n", "leader", or_dash(cli_text(answer, "leader")));
        printf("%-16s %s\n", "this node", or_dash(cli_text(answer, "self")));
        cli_print_notes(answer);
    }
    json_decref(answer);
    return EXIT_OK;
}

/* --- changed --- */

/* "yes" or "no" of an option into the object. False: the usage was wrong. */
static bool take_yes_no(const struct cli *cli, enum option option, json_t *params, const char *key)
{
    const char *text = cli_value(cli, option);
    if (!text)
        return true;
    if (strcmp(text, "yes") != 0 && strcmp(text, "no") != 0) {
        fprintf(stderr, "fairlead: '%s' is neither yes nor no\n", text);
        return false;
    }
    json_object_set_new(params, key, json_boolean(*text == 'y'));
    return true;
}

/* node.set with what params has, for each node that is named. */
static int set_each(struct cli *cli, json_t *params, const char *done)
{
    int code = EXIT_OK;
    if (cli->options & OPTION_FORCE)
        json_object_set_new(params, "force", json_true());
    for (size_t i = 0; i < cli->argument_count && code == EXIT_OK; i++) {
        char text[TEXT_MAX];
        json_t *one = json_copy(params);
        json_object_set_new(one, "node", json_string(cli->argument[i]));
        snprintf(text, sizeof(text), "%.80s: %s", cli->argument[i], done);
        code = cli_finish(cli, cli_ask(cli, "node.set", one), text);
    }
    json_decref(params);
    return code;
}

int command_node_promote(struct cli *cli)
{
    return set_each(cli, json_pack("{s:s}", "role", "manager"), "is a manager");
}

int command_node_demote(struct cli *cli)
{
    return set_each(cli, json_pack("{s:s}", "role", "worker"), "is a worker");
}

int command_node_drain(struct cli *cli)
{
    return set_each(cli, json_pack("{s:s}", "availability", "drain"), "drained: it is given nothing new");
}

int command_node_active(struct cli *cli)
{
    return set_each(cli, json_pack("{s:s}", "availability", "active"), "active");
}

int command_node_set(struct cli *cli)
{
    json_t *params =
        json_pack("{s:s*, s:s*, s:s*}", "name", cli_value(cli, OPTION_NAME), "role",
                  cli_value(cli, OPTION_ROLE), "availability", cli_value(cli, OPTION_AVAILABILITY));
    if (!params)
        return cli_fail("a value is not UTF-8; write it in plain text");
    if (!take_yes_no(cli, OPTION_REPLICA, params, "replica")) {
        json_decref(params);
        return EXIT_USAGE;
    }
    return set_each(cli, params, "changed");
}

int command_node_rm(struct cli *cli)
{
    const char *name = cli->argument[0];
    char done[TEXT_MAX];
    json_t *params = json_pack("{s:s, s:b}", "node", name, "force", (cli->options & OPTION_FORCE) != 0);
    if (!params)
        return cli_fail("the name is not UTF-8; write it in plain text");
    if (!cli_is_meant(cli, name)) {
        json_decref(params);
        return cli_fail("nothing was deleted");
    }
    snprintf(done, sizeof(done), "removed %.80s", name);
    return cli_finish(cli, cli_ask(cli, "node.delete", params), done);
}

/* --- joining --- */

/* Asks again as long as the cluster says that it is a matter of time, and says what it waits for. */
static json_t *ask_until_decided(struct cli *cli, json_t *params)
{
    enum { TRIES = 120, EVERY_US = 500000 };
    char said[512] = "";
    json_t *answer = NULL;
    for (int i = 0; i < TRIES; i++) {
        answer = cli_ask(cli, "node.join", json_incref(params));
        const char *waits = json_string_value(json_object_get(answer, "waits"));
        if (!waits)
            break;
        if (strcmp(said, waits) != 0)
            fprintf(stderr, "waiting: %s\n", waits);
        snprintf(said, sizeof(said), "%s", waits);
        json_decref(answer);
        answer = NULL;
        if (i + 1 == TRIES)
            cli_fail("it took too long; nothing was changed on this host; ask again");
        else
            usleep(EVERY_US);
    }
    json_decref(params);
    return answer;
}

int command_node_join(struct cli *cli)
{
    const char *token = cli_value(cli, OPTION_TOKEN);
    if (!token) {
        cli_fail("give the token of the cluster: --token FLJ1-...; `fairlead node join-token` on a manager "
                 "makes one");
        return EXIT_USAGE;
    }
    json_t *params = json_pack("{s:s, s:s}", "address", cli->argument[0], "token", token);
    if (!params)
        return cli_fail("a value is not UTF-8; write it in plain text");
    json_t *answer = ask_until_decided(cli, params);
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON)
        cli_print_json(cli, answer);
    else
        printf("this host is node %" JSON_INTEGER_FORMAT
               " of the cluster now; it begins anew with the cluster's state\n",
               json_integer_value(json_object_get(answer, "id")));
    json_decref(answer);
    return EXIT_OK;
}

/* --- tokens --- */

int command_node_join_token(struct cli *cli)
{
    const char *role = cli_value(cli, OPTION_ROLE);
    if (!role) {
        cli_fail("say what the hosts that join are to be: --role manager or --role worker");
        return EXIT_USAGE;
    }
    json_t *params = json_pack("{s:s, s:s*, s:b}", "role", role, "expires", cli_value(cli, OPTION_EXPIRES),
                               "rotate", (cli->options & OPTION_ROTATE) != 0);
    if (!params)
        return cli_fail("a value is not UTF-8; write it in plain text");
    if (!take_yes_no(cli, OPTION_REPLICA, params, "replica")) {
        json_decref(params);
        return EXIT_USAGE;
    }
    json_t *answer = cli_ask(cli, "token.create", params);
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON) {
        cli_print_json(cli, answer);
    } else if (cli->terminal) {
        printf("On the host that is to join as %s, before %s:\n\n    %s\n\n", cli_text(answer, "role"),
               cli_text(answer, "expires"), cli_text(answer, "command"));
    } else {
        printf("%s\n", cli_text(answer, "token"));
    }
    json_decref(answer);
    return EXIT_OK;
}

int command_node_token_ls(struct cli *cli)
{
    static const char *const titles[] = {"ID", "ROLE", "REPLICA", "CREATED", "EXPIRES", "STATE", NULL};
    json_t *row, *answer = cli_ask(cli, "token.list", json_object());
    size_t i;
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON) {
        cli_print_json(cli, answer);
    } else {
        struct table *table = table_new(titles);
        json_array_foreach(json_object_get(answer, "tokens"), i, row)
        {
            char id[13];
            snprintf(id, sizeof(id), "%s", cli_text(row, "id"));
            table_row(table, id, cli_text(row, "role"),
                      json_is_true(json_object_get(row, "replica")) ? "yes" : "no", cli_text(row, "created"),
                      cli_text(row, "expires"),
                      json_is_true(json_object_get(row, "expired")) ? "expired" : "good");
        }
        table_print(table, stdout);
    }
    json_decref(answer);
    return EXIT_OK;
}

int command_node_token_rm(struct cli *cli)
{
    json_t *params = json_pack("{s:s}", "id", cli->argument[0]);
    if (!params)
        return cli_fail("the id is not UTF-8; write it in plain text");
    return cli_finish(cli, cli_ask(cli, "token.delete", params), "removed");
}

int command_cluster_set(struct cli *cli)
{
    static const struct {
        enum option option;
        const char *key;
    } numbers[] = {{OPTION_COPIES, "copies"}, {OPTION_COPIES_MIN, "copies_min"}};
    json_t *params = json_pack("{s:s*}", "name", cli_value(cli, OPTION_NAME));
    if (!params)
        return cli_fail("the name is not UTF-8; write it in plain text");
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        const char *text = cli_value(cli, numbers[i].option);
        char *end = NULL;
        long number = text ? strtol(text, &end, 10) : 0;
        if (text && (*end || end == text || number < 0)) {
            fprintf(stderr, "fairlead: '%s' is not a number\n", text);
            json_decref(params);
            return EXIT_USAGE;
        }
        if (text)
            json_object_set_new(params, numbers[i].key, json_integer(number));
    }
    return cli_finish(cli, cli_ask(cli, "cluster.set", params), "changed");
}
