/* SPDX-License-Identifier: Apache-2.0 */
/* A file of services, backends and settings, applied as one transaction; and the differences it makes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/cli/cli.h"
#include "control/cli/table.h"

enum { FILE_BYTES_MAX = 1 << 20, TEXT_MAX = 128 };

/* The whole of a file ("-": standard input), NULL after an error was printed. */
static char *read_file(const char *path, size_t *len)
{
    char *text = malloc(FILE_BYTES_MAX + 1);
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    CHECK(text);
    if (!file) {
        fprintf(stderr, "fairlead: cannot read %s: %s\n", path, strerror(errno));
        free(text);
        return NULL;
    }
    *len = fread(text, 1, FILE_BYTES_MAX + 1, file);
    bool broken = ferror(file) != 0;
    if (file != stdin)
        fclose(file);
    if (!broken && *len <= FILE_BYTES_MAX)
        return text;
    fprintf(stderr, "fairlead: %s %s\n", path, broken ? "cannot be read" : "has more than 1 MiB; split it");
    free(text);
    return NULL;
}

static void print_field(const json_t *field)
{
    const json_t *old = json_object_get(field, "old"), *new = json_object_get(field, "new");
    printf("    %s: ", cli_text(field, "key"));
    print_clean(stdout, json_is_string(old) ? json_string_value(old) : "(none)");
    printf(" -> ");
    print_clean(stdout, json_is_string(new) ? json_string_value(new) : "(none)");
    printf("\n");
}

/* "+ backend web/a": what is added with its address, what is changed with each field. */
static void print_change(const json_t *row)
{
    const char *action = cli_text(row, "action"), *service = cli_text(row, "service");
    bool change = strcmp(action, "change") == 0, add = strcmp(action, "add") == 0;
    size_t i;
    json_t *field;
    printf("%s %s %s%s", change ? "~" : add ? "+" : "-", cli_text(row, "kind"), service, *service ? "/" : "");
    print_clean(stdout, cli_text(row, "name"));
    json_array_foreach(json_object_get(row, "fields"), i, field)
    {
        const char *key = cli_text(field, "key");
        if (!add || (strcmp(key, "address") != 0 && strcmp(key, "value") != 0))
            continue;
        printf(" ");
        print_clean(stdout, cli_text(field, "new"));
    }
    printf("\n");
    json_array_foreach(json_object_get(row, "fields"), i, field) if (change) print_field(field);
}

static void print_changes(const struct cli *cli, const json_t *answer)
{
    const json_t *list = json_object_get(answer, "changes");
    bool dry = cli->options & OPTION_DRY_RUN;
    size_t i, count = json_array_size(list);
    json_t *row;
    json_array_foreach(list, i, row) print_change(row);
    if (count == 0)
        printf("nothing to do: everything is so already\n");
    else
        printf("%zu change%s %s\n", count, count == 1 ? "" : "s", dry ? "would be made" : "made");
}

int command_apply(struct cli *cli)
{
    const char *path = cli_value(cli, OPTION_FILE);
    size_t len;
    if (!path) {
        cli_fail("say which file: -f FILE, or -f - for standard input");
        return EXIT_USAGE;
    }
    char *text = read_file(path, &len);
    if (!text)
        return EXIT_FAILED;
    json_t *params =
        json_pack("{s:s%, s:s, s:b, s:b}", "text", text, len, "name", path, "dry_run",
                  (cli->options & OPTION_DRY_RUN) != 0, "prune", (cli->options & OPTION_PRUNE) != 0);
    free(text);
    if (!params)
        return cli_fail("the file is not UTF-8");
    json_t *answer = cli_ask(cli, "apply", params);
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON)
        cli_print_json(cli, answer);
    else
        print_changes(cli, answer);
    json_decref(answer);
    return EXIT_OK;
}
