/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "check.h"
#include "control/cli/cli.h"
#include "control/cli/table.h"

enum { PAGE = 1000, TEXT_MAX = 96 };

/* "2 up, 1 down" */
static const char *states_text(const json_t *row, char out[TEXT_MAX])
{
    const char *state;
    json_t *count, *states = json_object_get(row, "states");
    size_t used = 0;
    snprintf(out, TEXT_MAX, "-");
    json_object_foreach(states, state, count)
    {
        if (used < TEXT_MAX)
            used += (size_t)snprintf(out + used, TEXT_MAX - used, "%s%lld %.16s", used ? ", " : "",
                                     (long long)json_integer_value(count), state);
    }
    return out;
}

static void print_service(struct table *table, const json_t *row)
{
    const json_t *check = json_object_get(row, "check");
    char states[TEXT_MAX], active[FIGURE_MAX];
    table_row(table, cli_text(row, "name"), cli_text(row, "address"), cli_text(row, "kind"),
              cli_text(row, "policy"), cli_text(row, "edge"), cli_text(check, "kind"),
              states_text(row, states), figure_count(cli_real(row, "active"), active),
              cli_text(row, "origin"));
}

static const char *state_of(const json_t *row)
{
    return cli_text(row, "state");
}

static void print_backend(struct table *table, const json_t *row)
{
    char rtt[FIGURE_MAX], active[FIGURE_MAX], weight[FIGURE_MAX];
    bool probed = cli_number(row, "rtt_us") > 0;
    table_row(table, cli_text(row, "service"), cli_text(row, "name"), cli_text(row, "address"),
              figure_count(cli_real(row, "weight"), weight), state_of(row), cli_text(row, "reason"),
              *cli_text(row, "since") ? cli_text(row, "since") : "-",
              probed ? figure_us(cli_real(row, "rtt_us"), rtt) : "-",
              figure_count(cli_real(row, "active"), active));
}

static const char *const service_titles[] = {"SERVICE", "ADDRESS",  "KIND",    "POLICY", "EDGE",
                                             "CHECK",   "BACKENDS", ">ACTIVE", "ORIGIN", NULL};
static const char *const backend_titles[] = {"SERVICE", "BACKEND", "ADDRESS", ">WEIGHT", "STATE",
                                             "REASON",  "SINCE",   ">RTT",    ">ACTIVE", NULL};

void cli_print_services(const json_t *rows)
{
    struct table *table = table_new(service_titles);
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row) print_service(table, row);
    table_print(table, stdout);
}

void cli_print_backends(const json_t *rows)
{
    struct table *table = table_new(backend_titles);
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row) print_backend(table, row);
    table_print(table, stdout);
}

typedef void (*row_fn)(struct table *table, const json_t *row);

/* Page after page; params is taken. place: the keys of a row that say where the next page begins. */
static int print_pages(struct cli *cli, const char *method, json_t *params, const char *list,
                       struct table *table, row_fn print)
{
    bool more = true;
    int code = EXIT_OK;
    json_object_set_new(params, "limit", json_integer(PAGE));
    while (more && code == EXIT_OK) {
        json_t *answer = cli_ask(cli, method, json_deep_copy(params)), *row;
        size_t i;
        json_array_foreach(json_object_get(answer, list), i, row)
        {
            if (cli->options & OPTION_JSON)
                cli_print_json(cli, row);
            else
                print(table, row);
            json_object_set(params, "after", json_object_get(row, "name"));
            if (json_object_get(row, "service"))
                json_object_set(params, "after_service", json_object_get(row, "service"));
        }
        more = json_is_true(json_object_get(answer, "more"));
        code = answer ? EXIT_OK : EXIT_FAILED;
        json_decref(answer);
    }
    json_decref(params);
    if (code == EXIT_OK && !(cli->options & OPTION_JSON))
        table_print(table, stdout);
    else
        table_free(table);
    return code;
}

int command_service_ls(struct cli *cli)
{
    return print_pages(cli, "service.list", json_object(), "services", table_new(service_titles),
                       print_service);
}

int command_backend_ls(struct cli *cli)
{
    json_t *params = json_object();
    if (cli->argument_count)
        json_object_set_new(params, "service", json_string(cli->argument[0]));
    return print_pages(cli, "backend.list", params, "backends", table_new(backend_titles), print_backend);
}

/* Fields of an object, a line each; those in objects with their path. */
static void print_fields(const json_t *object, const char *prefix)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        char name[TEXT_MAX];
        snprintf(name, sizeof(name), "%s%.60s", prefix, key);
        if (json_is_object(value)) {
            char inner[TEXT_MAX];
            snprintf(inner, sizeof(inner), "%.60s.", key);
            print_fields(value, inner);
        } else if (json_is_string(value)) {
            printf("%-22s ", name);
            print_clean(stdout, json_string_value(value));
            putchar('\n');
        } else if (json_is_boolean(value)) {
            printf("%-22s %s\n", name, json_is_true(value) ? "true" : "false");
        } else if (json_is_integer(value)) {
            printf("%-22s %lld\n", name, (long long)json_integer_value(value));
        }
    }
}

int command_service_show(struct cli *cli)
{
    json_t *answer = cli_ask(cli, "service.show", json_pack("{s:s}", "name", cli->argument[0]));
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON) {
        cli_print_json(cli, answer);
    } else {
        print_fields(answer, "");
        printf("\n");
        cli_print_backends(json_object_get(answer, "backends"));
    }
    json_decref(answer);
    return EXIT_OK;
}

static int set_service(struct cli *cli, size_t from, bool create)
{
    const char *name = cli->argument[0];
    char done[TEXT_MAX * 2];
    json_t *fields = cli_take_fields(cli, from, "policy=maglev");
    if (!fields)
        return EXIT_USAGE;
    if (create)
        json_object_set_new(fields, "address", json_string(cli->argument[1]));
    json_t *params = json_pack("{s:s, s:o, s:b}", "name", name, "set", fields, "create", create);
    if (!params)
        return cli_fail("the name is not UTF-8; write it in plain text");
    snprintf(done, sizeof(done), "%s %.80s", create ? "created" : "changed", name);
    return cli_finish(cli, cli_ask(cli, "service.set", params), done);
}

int command_service_create(struct cli *cli)
{
    return set_service(cli, 2, true);
}

int command_service_set(struct cli *cli)
{
    return set_service(cli, 1, false);
}

int command_service_rm(struct cli *cli)
{
    char done[TEXT_MAX];
    const char *name = cli->argument[0];
    if (!cli_is_meant(cli, name))
        return cli_fail("nothing was deleted");
    snprintf(done, sizeof(done), "deleted %.80s", name);
    return cli_finish(cli, cli_ask(cli, "service.delete", json_pack("{s:s}", "name", name)), done);
}

int command_backend_show(struct cli *cli)
{
    static const char *const titles[] = {"TIME", "BEFORE", "STATE", "REASON", NULL};
    json_t *params = json_pack("{s:s, s:s}", "service", cli->argument[0], "name", cli->argument[1]), *row;
    json_t *answer = cli_ask(cli, "backend.show", params);
    size_t i;
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON) {
        cli_print_json(cli, answer);
    } else {
        struct table *table = table_new(titles);
        json_array_foreach(json_object_get(answer, "history"), i, row)
            table_row(table, cli_text(row, "time"), cli_text(row, "before"), cli_text(row, "state"),
                      cli_text(row, "reason"));
        print_fields(answer, "");
        printf("\n");
        table_print(table, stdout);
    }
    json_decref(answer);
    return EXIT_OK;
}

static int set_backend(struct cli *cli, bool create)
{
    char done[TEXT_MAX * 2];
    json_t *fields = cli_take_fields(cli, 2, "policy=maglev");
    if (!fields)
        return EXIT_USAGE;
    json_object_set_new(fields, create ? "address" : "name", json_string(cli->argument[1]));
    json_t *params =
        json_pack("{s:s, s:[o], s:b}", "service", cli->argument[0], "backends", fields, "create", create);
    if (!params)
        return cli_fail("the name is not UTF-8; write it in plain text");
    snprintf(done, sizeof(done), "%s %.80s", create ? "added" : "changed", cli->argument[1]);
    return cli_finish(cli, cli_ask(cli, "backend.set", params), done);
}

int command_backend_add(struct cli *cli)
{
    return set_backend(cli, true);
}

int command_backend_set(struct cli *cli)
{
    return set_backend(cli, false);
}

static json_t *take_names(const struct cli *cli)
{
    json_t *names = json_array();
    for (size_t i = 1; i < cli->argument_count; i++)
        json_array_append_new(names, json_string(cli->argument[i]));
    return names;
}

static int administer(struct cli *cli, const char *admin, const char *done)
{
    json_t *params =
        json_pack("{s:s, s:o, s:s}", "service", cli->argument[0], "names", take_names(cli), "admin", admin);
    return cli_finish(cli, cli_ask(cli, "backend.admin", params), done);
}

int command_backend_drain(struct cli *cli)
{
    return administer(cli, "drain", "draining: it takes no new connections");
}

int command_backend_undrain(struct cli *cli)
{
    return administer(cli, "active", "active");
}

int command_backend_rm(struct cli *cli)
{
    if (!cli_is_meant(cli, cli->argument[1]))
        return cli_fail("nothing was deleted");
    json_t *params = json_pack("{s:s, s:o}", "service", cli->argument[0], "names", take_names(cli));
    return cli_finish(cli, cli_ask(cli, "backend.delete", params), "deleted");
}
