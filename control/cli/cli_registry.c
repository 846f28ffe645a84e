/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "control/cli/cli.h"
#include "control/cli/table.h"

enum { PAGE = 1000, NAME_MAX_BYTES = 512 };

/* Called for each row of a paged list. */
typedef void (*row_fn)(struct table *table, const json_t *row);

/*
 * Asks page after page and prints them as one table, or as JSON rows one a line. `name` is the key of a row
 * by which the next page is asked for; params is taken. totals, which may be NULL, gets what goes with the
 * list.
 */
static int print_pages(struct cli *cli, const char *method, json_t *params, const char *list,
                       const char *name, struct table *table, row_fn print, json_t **totals)
{
    long left = cli->limit ? cli->limit : -1;
    bool more = true;
    while (more && left != 0) {
        json_object_set_new(params, "limit", json_integer(left > 0 && left < PAGE ? left : PAGE));
        json_t *answer = cli_ask(cli, method, json_incref(params)), *row;
        size_t i;
        if (!answer) {
            json_decref(params);
            return EXIT_FAILED;
        }
        json_array_foreach(json_object_get(answer, list), i, row)
        {
            if (cli->options & OPTION_JSON)
                cli_print_json(cli, row);
            else
                print(table, row);
            json_object_set(params, "after", json_object_get(row, name));
            left -= left > 0;
        }
        more = json_is_true(json_object_get(answer, "more"));
        if (totals)
            *totals = json_incref(json_object_get(answer, "totals"));
        totals = NULL; /* once: they are of all pages */
        json_decref(answer);
    }
    json_decref(params);
    return EXIT_OK;
}

static void print_repo(struct table *table, const json_t *row)
{
    char tags[FIGURE_MAX], manifests[FIGURE_MAX], blobs[FIGURE_MAX], bytes[FIGURE_MAX];
    table_row(table, cli_text(row, "name"), figure_count(cli_real(row, "tags"), tags),
              figure_count(cli_real(row, "manifests"), manifests),
              figure_count(cli_real(row, "blobs"), blobs), figure_bytes(cli_real(row, "bytes"), bytes),
              cli_text(row, "updated"));
}

/* Each blob once, however many repositories have it. */
static void print_totals(const json_t *totals)
{
    char blobs[FIGURE_MAX], bytes[FIGURE_MAX], unlinked[FIGURE_MAX];
    if (!json_is_object(totals))
        return;
    printf("%s blobs of %s in all, each counted once", figure_count(cli_real(totals, "blobs"), blobs),
           figure_bytes(cli_real(totals, "bytes"), bytes));
    if (cli_real(totals, "unlinked_blobs") > 0)
        printf("; %s of it in no repository any more",
               figure_bytes(cli_real(totals, "unlinked_bytes"), unlinked));
    printf("\n");
}

int command_repo_ls(struct cli *cli)
{
    static const char *const titles[] = {"REPOSITORY", ">TAGS",   ">MANIFESTS", ">BLOBS",
                                         ">SIZE",      "UPDATED", NULL};
    struct table *table = table_new(titles);
    json_t *params = json_pack("{s:s}", "after", cli->argument_count ? cli->argument[0] : "");
    json_t *totals = NULL;
    int code = print_pages(cli, "repo.list", params, "repos", "name", table, print_repo, &totals);
    if (code == EXIT_OK && !(cli->options & OPTION_JSON)) {
        table_print(table, stdout);
        print_totals(totals);
    } else {
        table_free(table);
    }
    if (code == EXIT_OK && (cli->options & OPTION_JSON) && json_is_object(totals)) {
        json_t *line = json_pack("{s:O}", "totals", totals);
        cli_print_json(cli, line);
        json_decref(line);
    }
    json_decref(totals);
    return code;
}

static void print_tag(struct table *table, const json_t *row)
{
    table_row(table, cli_text(row, "tag"), cli_text(row, "digest"), cli_text(row, "updated"));
}

int command_repo_tags(struct cli *cli)
{
    static const char *const titles[] = {"TAG", "DIGEST", "UPDATED", NULL};
    struct table *table = table_new(titles);
    json_t *params = json_pack("{s:s, s:s}", "repo", cli->argument[0], "after",
                               cli->argument_count > 1 ? cli->argument[1] : "");
    int code = print_pages(cli, "repo.tags", params, "tags", "tag", table, print_tag, NULL);
    if (code == EXIT_OK && !(cli->options & OPTION_JSON))
        table_print(table, stdout);
    else
        table_free(table);
    return code;
}

int command_repo_create(struct cli *cli)
{
    json_t *answer = cli_ask(cli, "repo.create", json_pack("{s:s}", "repo", cli->argument[0]));
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON)
        cli_print_json(cli, answer);
    else
        printf("made %s\n", cli->argument[0]);
    json_decref(answer);
    return EXIT_OK;
}

int command_repo_rm(struct cli *cli)
{
    char repo[NAME_MAX_BYTES];
    const char *name = cli->argument[0];
    if (strlen(name) >= sizeof(repo))
        return cli_fail("the name is too long; `fairlead repo ls` lists the repositories");
    if (!cli_is_meant(cli, name))
        return cli_fail("nothing was deleted");
    memcpy(repo, name, strlen(name) + 1);
    char *colon = strrchr(repo, ':');
    if (colon)
        *colon = '\0';
    json_t *params =
        colon ? json_pack("{s:s, s:s}", "repo", repo, "tag", colon + 1) : json_pack("{s:s}", "repo", repo);
    json_t *answer = cli_ask(cli, colon ? "tag.delete" : "repo.delete", params);
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON)
        cli_print_json(cli, answer);
    else
        printf("deleted %s\n", name);
    json_decref(answer);
    return EXIT_OK;
}
