/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "control/cli/cli.h"
#include "control/cli/table.h"

/* "a, b", cut to what fits. */
static const char *join(const json_t *list, char *out, size_t cap)
{
    size_t i, len = 0;
    json_t *item;
    out[0] = '\0';
    json_array_foreach(list, i, item)
    {
        int n = snprintf(out + len, cap - len, "%s%s", i ? ", " : "", json_string_value(item));
        if (n < 0 || (size_t)n >= cap - len)
            break;
        len += (size_t)n;
    }
    return out[0] ? out : "-";
}

static const char *or_dash(const json_t *row, const char *key)
{
    const char *text = cli_text(row, key);
    return *text ? text : "-";
}

static void print_certificate(struct table *table, const json_t *row)
{
    char used[256];
    const char *subject = or_dash(row, "subject");
    if (json_is_true(json_object_get(row, "ca")) && subject[0] == '-')
        subject = "(a CA)";
    table_row(table, cli_text(row, "name"), subject, or_dash(row, "names"), or_dash(row, "not_after"),
              join(json_object_get(row, "used_by"), used, sizeof(used)), or_dash(row, "problem"));
}

static int show(struct cli *cli, const char *method)
{
    static const char *const titles[] = {"NAME", "SUBJECT", "NAMES", "NOT AFTER", "USED BY", "PROBLEM", NULL};
    return cli_print_list(cli, cli_ask(cli, method, json_object()), "certificates", titles,
                          print_certificate);
}

int command_certificate_ls(struct cli *cli)
{
    return show(cli, "certificate.list");
}

int command_certificate_reload(struct cli *cli)
{
    return show(cli, "certificate.reload");
}
