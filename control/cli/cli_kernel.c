/* SPDX-License-Identifier: Apache-2.0 */
#include <unistd.h>

#include "control/cli/cli.h"
#include "control/cli/table.h"

static void print_number(long long value, char out[FIGURE_MAX])
{
    snprintf(out, FIGURE_MAX, "%lld", value);
}

static void print_head(const json_t *answer)
{
    char bytes[FIGURE_MAX];
    const char *why = cli_text(answer, "why");
    printf("kernel half: %s%s", cli_text(answer, "state"), *why ? ": " : "");
    print_clean(stdout, why);
    printf("\ninstance %s, maps of version %lld", cli_text(answer, "instance"), cli_number(answer, "abi"));
    if (*cli_text(answer, "pins"))
        printf(" in %s, %s", cli_text(answer, "pins"),
               figure_bytes((double)cli_number(answer, "maps_bytes"), bytes));
    printf("\n");
}

static void print_attached(const json_t *answer)
{
    static const char *const titles[] = {"PROGRAM", "OBJECT", "HOOK", "WHERE", ">ID", NULL};
    const json_t *list = json_object_get(answer, "attached");
    struct table *table = table_new(titles);
    size_t i;
    json_t *row;
    json_array_foreach(list, i, row)
    {
        char id[FIGURE_MAX];
        print_number(cli_number(row, "id"), id);
        table_row(table, cli_text(row, "program"), cli_text(row, "object"), cli_text(row, "hook"),
                  cli_text(row, "where"), cli_number(row, "id") ? id : "-");
    }
    printf("\n");
    table_print(table, stdout);
}

static void print_idle(const json_t *objects)
{
    const char *separator = "\nnot needed, so not loaded: ";
    size_t i;
    json_t *row;
    json_array_foreach(objects, i, row)
    {
        if (json_is_true(json_object_get(row, "needed")))
            continue;
        printf("%s%s", separator, cli_text(row, "name"));
        separator = ", ";
    }
    if (separator[0] == ',')
        printf("\n");
}

static void print_clock(const json_t *clock)
{
    char period[FIGURE_MAX], age[FIGURE_MAX], gap[FIGURE_MAX];
    if (!json_is_object(clock))
        return;
    printf("\nclock: a tick each %s, %lld so far, the last %s ago; longest gap %s, stood still %lld times, "
           "restarted %lld times, %lld packets not sent, %lld probes put off\n",
           figure_us((double)cli_number(clock, "period_us"), period), cli_number(clock, "ticks"),
           cli_number(clock, "ticks") ? figure_us((double)cli_number(clock, "last_age_us"), age) : "never",
           figure_us((double)cli_number(clock, "max_gap_us"), gap), cli_number(clock, "stale"),
           cli_number(clock, "restarts"), cli_number(clock, "errors"), cli_number(clock, "over_budget"));
}

/* Only where there is something to say. */
static void print_feed(const json_t *feed)
{
    if (json_is_true(json_object_get(feed, "counts")))
        printf("\nverdicts: a manager tells them, last %lld ms ago; what it calls down or does not know is "
               "probed here\n",
               cli_number(feed, "age_ms"));
    else if (json_is_true(json_object_get(feed, "wanted")))
        printf("\nverdicts: no manager tells them, so everything is probed here\n");
    if (cli_number(feed, "told") > 0)
        printf("\nverdicts: told to %lld workers\n", cli_number(feed, "told"));
}

static void print_edge(const json_t *list)
{
    static const char *const titles[] = {"EDGE",  ">BEGUN", ">ESTABLISHED", ">PACKETS", ">BYTES",
                                         ">BACK", ">BYTES", ">REFUSED",     ">DROPPED", NULL};
    static const char *const dropped[] = {"malformed", "expired", "too_big", "no_route", "no_port"};
    struct table *table = table_new(titles);
    size_t i;
    json_t *row;
    json_array_foreach(list, i, row)
    {
        char begun[FIGURE_MAX], established[FIGURE_MAX], packets[FIGURE_MAX], bytes[FIGURE_MAX],
            back[FIGURE_MAX], back_bytes[FIGURE_MAX], refused[FIGURE_MAX], drops[FIGURE_MAX];
        long long sum = 0;
        for (size_t k = 0; k < sizeof(dropped) / sizeof(dropped[0]); k++)
            sum += cli_number(row, dropped[k]);
        print_number(cli_number(row, "flows"), begun);
        print_number(cli_number(row, "established"), established);
        print_number(cli_number(row, "packets"), packets);
        print_number(cli_number(row, "back_packets"), back);
        print_number(cli_number(row, "no_backend"), refused);
        print_number(sum, drops);
        table_row(table, cli_text(row, "service"), begun, established, packets,
                  figure_bytes((double)cli_number(row, "bytes"), bytes), back,
                  figure_bytes((double)cli_number(row, "back_bytes"), back_bytes), refused, drops);
    }
    if (i > 0) {
        printf("\n");
        table_print(table, stdout);
    } else {
        table_free(table);
    }
}

static void print_maps(const json_t *answer)
{
    static const char *const titles[] = {"MAP", ">ENTRIES", ">MEMORY", NULL};
    struct table *table = table_new(titles);
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(answer, "maps"), i, row)
    {
        char entries[FIGURE_MAX], bytes[FIGURE_MAX];
        print_number(cli_number(row, "entries"), entries);
        table_row(table, cli_text(row, "name"), entries,
                  figure_bytes((double)cli_number(row, "bytes"), bytes));
    }
    printf("\n");
    table_print(table, stdout);
}

static void print_lacking(const json_t *answer)
{
    size_t i;
    json_t *row;
    bool unknown = false;
    json_array_foreach(json_object_get(answer, "support"), i, row)
    {
        const json_t *supported = json_object_get(row, "supported");
        if (json_is_false(supported))
            printf("\nthis kernel lacks %s, needed for %s", cli_text(row, "feature"), cli_text(row, "for"));
        unknown |= json_is_null(supported);
    }
    if (unknown)
        printf("\nwhat this kernel can do is not known: to ask it takes root, or CAP_BPF and CAP_NET_ADMIN");
    json_array_foreach(json_object_get(answer, "degraded"), i, row)
    {
        printf("\ndegraded: ");
        print_clean(stdout, json_string_value(row));
    }
    printf("\n");
}

int command_kernel(struct cli *cli)
{
    json_t *answer = cli_ask(cli, "kernel.status", NULL);
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON) {
        cli_print_json(cli, answer);
    } else {
        print_head(answer);
        if (json_array_size(json_object_get(answer, "attached")) > 0) {
            print_attached(answer);
            print_idle(json_object_get(answer, "objects"));
            print_clock(json_object_get(answer, "clock"));
            print_feed(json_object_get(answer, "feed"));
            print_edge(json_object_get(answer, "edge"));
            print_maps(answer);
        }
        print_lacking(answer);
    }
    json_decref(answer);
    return EXIT_OK;
}

int command_kernel_detach(struct cli *cli)
{
    if (!(cli->options & OPTION_YES) && isatty(STDIN_FILENO)) {
        cli_fail("this ends steering, checks, edge and takeover of this node; say --yes if that is meant");
        return EXIT_USAGE;
    }
    json_t *answer = cli_ask(cli, "kernel.detach", NULL);
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON)
        cli_print_json(cli, answer);
    else
        printf("everything was taken out of the kernel\n");
    json_decref(answer);
    return EXIT_OK;
}
