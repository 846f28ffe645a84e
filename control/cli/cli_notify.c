/* SPDX-License-Identifier: Apache-2.0 */
/* Webhooks. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cli/cli.h"
#include "control/cli/table.h"

enum { TEXT_MAX = 512, VALUE_MAX = 4096, CA_MAX = 64 << 10 };

static const char header_prefix[] = "header.";

static const char *list_text(const json_t *list, char out[TEXT_MAX])
{
    size_t used = 0, i;
    json_t *item;
    snprintf(out, TEXT_MAX, "-");
    json_array_foreach(list, i, item)
    {
        if (used < TEXT_MAX)
            used +=
                (size_t)snprintf(out + used, TEXT_MAX - used, "%s%s", i ? "," : "", json_string_value(item));
    }
    return out;
}

/* Of this node: "12 wait, 3 lost"; "-": it wants none. */
static const char *pulls_text(const json_t *pulls, char out[TEXT_MAX])
{
    char waiting[FIGURE_MAX], lost[FIGURE_MAX];
    double gone = cli_real(pulls, "dropped") + cli_real(pulls, "lost") + cli_real(pulls, "untold");
    if (!pulls)
        return "-";
    snprintf(out, TEXT_MAX, "%s wait, %s lost%s%.200s", figure_count(cli_real(pulls, "waiting"), waiting),
             figure_count(gone, lost), *cli_text(pulls, "error") ? ": " : "", cli_text(pulls, "error"));
    return out;
}

static void print_endpoint(struct table *table, const json_t *row)
{
    char actions[TEXT_MAX], headers[TEXT_MAX], dropped[FIGURE_MAX], state[TEXT_MAX], pulls[TEXT_MAX];
    const char *types = cli_text(row, "media_types");
    snprintf(state, sizeof(state), "%s%s%s", *cli_text(row, "state") ? cli_text(row, "state") : "-",
             *cli_text(row, "error") ? ": " : "", cli_text(row, "error"));
    table_row(table, cli_text(row, "name"), cli_text(row, "url"), cli_text(row, "prefix"),
              list_text(json_object_get(row, "actions"), actions), *types ? types : "-",
              list_text(json_object_get(row, "headers"), headers), cli_text(row, "ca"),
              figure_count(cli_real(row, "dropped"), dropped), state,
              pulls_text(json_object_get(row, "pulls"), pulls));
}

int command_notify_ls(struct cli *cli)
{
    static const char *const titles[] = {"NAME", "URL",      "PREFIX", "ACTIONS",    "TYPES", "HEADERS",
                                         "CA",   ">DROPPED", "STATE",  "PULLS HERE", NULL};
    json_t *answer = cli_ask(cli, "notify.list", json_object());
    int code = cli_print_list(cli, json_incref(answer), "endpoints", titles, print_endpoint);
    if (answer && !(cli->options & OPTION_JSON))
        printf("%lld notices wait, %lld were dropped\n", cli_number(answer, "waiting"),
               cli_number(answer, "dropped"));
    json_decref(answer);
    return code;
}

/* A header's value as it is meant; NULL after an error was printed. */
static json_t *header_value(const char *text)
{
    char line[VALUE_MAX] = "";
    if (!*text)
        return json_null();
    if (*text != '@')
        return json_string(text);
    FILE *file = fopen(text + 1, "re");
    bool read = file && fgets(line, sizeof(line), file);
    int error = errno;
    if (file)
        fclose(file);
    if (!read) {
        fprintf(stderr, "fairlead: %s: %s\n", text + 1, file ? "the file is empty" : strerror(error));
        return NULL;
    }
    line[strcspn(line, "\r\n")] = '\0';
    json_t *value = json_string(line);
    explicit_bzero(line, sizeof(line));
    return value;
}

/* The text of a file, or nothing; NULL after an error was printed. */
static json_t *ca_value(const char *text)
{
    char *pem;
    if (!*text)
        return json_string("");
    if (*text != '@') {
        fprintf(stderr, "fairlead: ca: give a file of PEM certificates, as in ca=@ca.pem\n");
        return NULL;
    }
    FILE *file = fopen(text + 1, "re");
    if (!file) {
        fprintf(stderr, "fairlead: %s: %s\n", text + 1, strerror(errno));
        return NULL;
    }
    pem = calloc(1, CA_MAX);
    CHECK(pem);
    size_t len = fread(pem, 1, CA_MAX - 1, file);
    json_t *value = ferror(file) ? NULL : json_stringn(pem, len);
    if (!value)
        fprintf(stderr, "fairlead: %s: it is no text\n", text + 1);
    fclose(file);
    free(pem);
    return value;
}

int command_notify_set(struct cli *cli)
{
    json_t *fields = cli_take_fields(cli, 1, "url=https://ci.example/hook"), *value;
    json_t *params = json_pack("{s:s}", "name", cli->argument[0]), *headers = json_object();
    const char *key;
    bool wrong = !fields;
    json_object_foreach(fields, key, value)
    {
        bool header = strncmp(key, header_prefix, sizeof(header_prefix) - 1) == 0;
        json_t *item = header                   ? header_value(json_string_value(value))
                       : strcmp(key, "ca") == 0 ? ca_value(json_string_value(value))
                                                : json_incref(value);
        wrong |= !item;
        if (item)
            json_object_set_new(header ? headers : params, header ? key + sizeof(header_prefix) - 1 : key,
                                item);
    }
    json_decref(fields);
    json_object_set_new(params, "headers", headers);
    if (wrong) {
        json_decref(params);
        return EXIT_USAGE;
    }
    return cli_finish(cli, cli_ask(cli, "notify.set", params), "set");
}

int command_notify_rm(struct cli *cli)
{
    if (!cli_is_meant(cli, cli->argument[0]))
        return cli_fail("nothing was deleted");
    return cli_finish(cli, cli_ask(cli, "notify.delete", json_pack("{s:s}", "name", cli->argument[0])),
                      "removed");
}

int command_notify_test(struct cli *cli)
{
    json_t *answer = cli_ask(cli, "notify.test", json_pack("{s:s}", "name", cli->argument[0]));
    char text[TEXT_MAX];
    snprintf(text, sizeof(text), "answered %lld", cli_number(answer, "status"));
    return cli_finish(cli, answer, text);
}
