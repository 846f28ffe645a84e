/* SPDX-License-Identifier: Apache-2.0 */
/* Policies of repositories. */
#include <string.h>

#include "check.h"
#include "control/cli/cli.h"
#include "control/cli/table.h"

enum { TEXT_MAX = 1024 };

/* "immutable=v*, quota.bytes=1GiB": what the policy says. */
static size_t add_fields(const json_t *object, const char *group, char out[TEXT_MAX], size_t used)
{
    static const char *const not_fields[] = {"prefix", "used", "origin", "revision", "created", "updated"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        bool field = true;
        for (size_t i = 0; i < ARRAY_SIZE(not_fields) && !*group; i++)
            field &= strcmp(key, not_fields[i]) != 0;
        if (!field || used >= TEXT_MAX)
            continue;
        if (json_is_object(value))
            used = add_fields(value, key, out, used);
        else
            used += (size_t)snprintf(out + used, TEXT_MAX - used, "%s%s%s%s=%s", used ? "  " : "", group,
                                     *group ? "." : "", key, json_string_value(value));
    }
    return used;
}

static const char *used_text(const json_t *row, char out[2 * FIGURE_MAX + 8])
{
    const json_t *used = json_object_get(row, "used");
    char bytes[FIGURE_MAX], tags[FIGURE_MAX];
    snprintf(out, 2 * FIGURE_MAX + 8, "-");
    if (used)
        snprintf(out, 2 * FIGURE_MAX + 8, "%s, %s tags", figure_bytes(cli_real(used, "bytes"), bytes),
                 figure_count(cli_real(used, "tags"), tags));
    return out;
}

static void print_policy(struct table *table, const json_t *row)
{
    char says[TEXT_MAX] = "", used[2 * FIGURE_MAX + 8];
    add_fields(row, "", says, 0);
    table_row(table, cli_text(row, "prefix"), *says ? says : "-", used_text(row, used),
              cli_text(row, "origin"));
}

int command_policy_ls(struct cli *cli)
{
    static const char *const titles[] = {"PREFIX", "SAYS", "USED", "FROM", NULL};
    return cli_print_list(cli, cli_ask(cli, "policy.list", json_object()), "policies", titles, print_policy);
}

static void print_field(struct table *table, const json_t *row)
{
    table_row(table, cli_text(row, "key"), cli_text(row, "value"), cli_text(row, "policy"));
}

int command_policy_show(struct cli *cli)
{
    static const char *const titles[] = {"FIELD", "VALUE", "POLICY OF", NULL};
    json_t *params = json_pack("{s:s}", "prefix", cli->argument[0]);
    return cli_print_list(cli, cli_ask(cli, "policy.show", params), "fields", titles, print_field);
}

int command_policy_set(struct cli *cli)
{
    json_t *fields = cli_take_fields(cli, 1, "immutable=v*");
    if (!fields)
        return EXIT_USAGE;
    json_t *params = json_pack("{s:s, s:o}", "prefix", cli->argument[0], "fields", fields);
    return cli_finish(cli, cli_ask(cli, "policy.set", params), "set");
}

int command_policy_rm(struct cli *cli)
{
    if (!cli_is_meant(cli, cli->argument[0]))
        return cli_fail("nothing was deleted");
    json_t *params = json_pack("{s:s}", "prefix", cli->argument[0]);
    if (cli->options & OPTION_FORCE)
        json_object_set_new(params, "force", json_true());
    return cli_finish(cli, cli_ask(cli, "policy.delete", params), "removed");
}

int command_policy_retention(struct cli *cli)
{
    static const char *const titles[] = {"REPOSITORY", "TAG", "DIGEST", "PUSHED", NULL};
    json_t *params = json_pack("{s:s}", "after", cli->argument_count ? cli->argument[0] : ""), *row;
    size_t i;
    if (cli->limit)
        json_object_set_new(params, "limit", json_integer(cli->limit));
    json_t *answer = cli_ask(cli, "policy.retention", params);
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON) {
        cli_print_json(cli, answer);
        json_decref(answer);
        return EXIT_OK;
    }
    struct table *table = table_new(titles);
    json_array_foreach(json_object_get(answer, "tags"), i, row)
        table_row(table, cli_text(row, "repo"), cli_text(row, "tag"), cli_text(row, "digest"),
                  cli_text(row, "updated"));
    table_print(table, stdout);
    if (json_is_true(json_object_get(answer, "more")))
        fprintf(stderr, "fairlead: there are more\n");
    json_decref(answer);
    return EXIT_OK;
}
