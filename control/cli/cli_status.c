/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <unistd.h>

#include "control/cli/cli.h"
#include "control/cli/client.h"
#include "control/cli/table.h"

#define CLEAR_SCREEN "\033[H\033[J"

/* Colours are for terminals. */
static const char *colour(const struct cli *cli, const char *code)
{
    return cli->terminal ? code : "";
}

static const char *good(const struct cli *cli, bool is_good)
{
    return colour(cli, is_good ? "\033[32m" : "\033[31m");
}

static bool truth(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

static void print_services(const json_t *list)
{
    static const char *const titles[] = {"SERVICE", "ADDRESS", "ACCESS", NULL};
    struct table *table = table_new(titles);
    size_t i;
    json_t *row;
    json_array_foreach(list, i, row)
        table_row(table, cli_text(row, "service"), cli_text(row, "address"),
                  truth(row, "loopback") ? "this machine" : "everybody (allow_all)");
    printf("\n");
    table_print(table, stdout);
}

/* Services and backends that the kernel balances; a long list is cut, what is not up comes first. */
static void print_balancing(const json_t *balancing)
{
    const json_t *services = json_object_get(balancing, "services");
    const json_t *backends = json_object_get(balancing, "backends");
    long long more = cli_number(balancing, "backends_count") - (long long)json_array_size(backends);
    if (json_array_size(services) == 0)
        return;
    printf("\n");
    cli_print_services(services);
    printf("\n");
    cli_print_backends(backends);
    if (more > 0)
        printf("and %lld more backends: fairlead backend ls\n", more);
}

/* When it began to be so; "-": never. */
static const char *since(const json_t *row)
{
    const char *text = cli_text(row, "since");
    return *text ? text : "-";
}

/* Heartbeat sessions with other nodes. */
static void print_peers(const json_t *list)
{
    static const char *const titles[] = {"PEER",       "ADDRESS",       "HEARTBEAT", "SINCE",
                                         ">DETECTION", ">ITS INTERVAL", ">RECEIVED", ">SENT",
                                         ">DROPPED",   ">DOWNS",        NULL};
    struct table *table = table_new(titles);
    size_t i;
    json_t *row;
    json_array_foreach(list, i, row)
    {
        char detection[FIGURE_MAX], interval[FIGURE_MAX], times[FIGURE_MAX + 16], figure[4][FIGURE_MAX];
        static const char *const keys[] = {"received", "sent", "dropped", "downs"};
        for (int k = 0; k < 4; k++)
            snprintf(figure[k], FIGURE_MAX, "%lld", cli_number(row, keys[k]));
        snprintf(times, sizeof(times), "%lld x %s", cli_number(row, "remote_multiplier"),
                 figure_us(cli_real(row, "remote_interval_ms") * 1e3, interval));
        bool heard = cli_number(row, "remote_multiplier") > 0;
        table_row(table, cli_text(row, "name"), cli_text(row, "address"), cli_text(row, "state"), since(row),
                  heard ? figure_us(cli_real(row, "detection_ms") * 1e3, detection) : "-",
                  heard ? times : "-", figure[0], figure[1], figure[2], figure[3]);
    }
    printf("\n");
    table_print(table, stdout);
}

/* Addresses that this node takes over from others, or they from it. */
static void print_addresses(const json_t *list)
{
    static const char *const titles[] = {"ADDRESS",    "DEVICE",     "ANSWERED BY", "SINCE",
                                         ">TAKEOVERS", ">CONFLICTS", NULL};
    struct table *table = table_new(titles);
    size_t i;
    json_t *row;
    json_array_foreach(list, i, row)
    {
        char takeovers[FIGURE_MAX], conflicts[FIGURE_MAX];
        snprintf(takeovers, FIGURE_MAX, "%lld", cli_number(row, "takeovers"));
        snprintf(conflicts, FIGURE_MAX, "%lld", cli_number(row, "conflicts") + cli_number(row, "foreign"));
        table_row(table, cli_text(row, "address"), cli_text(row, "device"), cli_text(row, "owner"),
                  since(row), takeovers, conflicts);
    }
    printf("\n");
    table_print(table, stdout);
}

static void print_figures(const json_t *status)
{
    const json_t *traffic = json_object_get(status, "traffic"), *store = json_object_get(status, "store");
    char connections[FIGURE_MAX], total[FIGURE_MAX], rate[FIGURE_MAX], in[FIGURE_MAX], out[FIGURE_MAX],
        room[FIGURE_MAX];
    printf("\ntraffic     %s connections, %s requests (%s/s), in %s/s, out %s/s\n",
           figure_count(cli_real(traffic, "connections"), connections),
           figure_count(cli_real(traffic, "requests_total"), total),
           figure_count(cli_real(traffic, "requests_per_s"), rate),
           figure_bytes(cli_real(traffic, "received_bytes_per_s"), in),
           figure_bytes(cli_real(traffic, "sent_bytes_per_s"), out));
    printf("store       %s free, in %s\n", figure_bytes(cli_real(store, "free_bytes"), room),
           cli_text(store, "path"));
    if (truth(store, "shared"))
        printf("            shared with %zu other replicas, cleaned by %s: %s\n",
               json_array_size(json_object_get(store, "with")), cli_text(store, "cleaner"),
               cli_text(store, "id"));
}

/* Nothing of one that is well. */
static void print_disk(const struct cli *cli, const char *name, const json_t *disk)
{
    if (strcmp(cli_text(disk, "state"), "ok") != 0)
        printf("%s disk  %s%s%s since %s: %s\n", name, good(cli, false), cli_text(disk, "state"),
               colour(cli, "\033[0m"), cli_text(disk, "since"), cli_text(disk, "text"));
}

static void print_blobs(const json_t *blobs)
{
    const json_t *scrub = json_object_get(blobs, "scrub");
    char bytes[FIGURE_MAX];
    if (truth(scrub, "running"))
        printf("scrub       %.1f %% of the blobs are verified, since %s\n", 100 * cli_real(scrub, "done"),
               cli_text(scrub, "begun"));
    else if (*cli_text(scrub, "ended"))
        printf("scrub       ended %s: %lld blobs, %s are good, %lld damaged, %lld unreadable\n",
               cli_text(scrub, "ended"), cli_number(scrub, "blobs"),
               figure_bytes(cli_real(scrub, "bytes"), bytes), cli_number(scrub, "damaged"),
               cli_number(scrub, "unreadable"));
    else
        printf("scrub       none yet\n");
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(blobs, "damaged"), i, row)
    {
        printf("%-10s  %s: %s\n", cli_text(row, "what"), cli_text(row, "digest"), cli_text(row, "state"));
    }
}

/* Nothing where there never was anything to do. */
static void print_repair(const json_t *repair)
{
    char text[REPAIR_TEXT_MAX];
    if (cli_number(repair, "endangered") || cli_number(repair, "surplus") || cli_number(repair, "copied") ||
        cli_number(repair, "let_go") || cli_number(repair, "failed"))
        printf("repair      %s\n", cli_repair_text(repair, text));
}

static void print_gc(const json_t *gc)
{
    const json_t *looked = json_object_get(gc, "looked"), *forgotten = json_object_get(gc, "forgotten");
    char links[FIGURE_MAX], bytes[FIGURE_MAX];
    if (strcmp(cli_text(gc, "stage"), "none") != 0)
        printf("gc          %s: %s links looked at, since %s\n", cli_text(gc, "stage"),
               figure_count(cli_real(looked, "links"), links), cli_text(gc, "begun"));
    else if (*cli_text(gc, "ended"))
        printf("gc          ended %s%s%s%s: %lld blobs (%s) were removed\n", cli_text(gc, "ended"),
               truth(gc, "dry_run") ? ", dry run" : "", *cli_text(gc, "failed") ? ", early: " : "",
               cli_text(gc, "failed"), cli_number(forgotten, "count"),
               figure_bytes(cli_real(forgotten, "bytes"), bytes));
    else if (*cli_text(gc, "next"))
        printf("gc          none yet; the first one at %s\n", cli_text(gc, "next"));
    else
        printf("gc          none of this node\n");
}

static void print_status(const struct cli *cli, const json_t *status)
{
    const json_t *node = json_object_get(status, "node"), *state = json_object_get(status, "state");
    const json_t *dataplane = json_object_get(status, "dataplane");
    const char *plain = colour(cli, "\033[0m");
    char up[FIGURE_MAX], dataplane_up[FIGURE_MAX];
    bool ready = truth(status, "ready"), running = strcmp(cli_text(dataplane, "state"), "running") == 0;
    size_t i;
    json_t *warning;
    printf("node        %lld of cluster %.8s, fairlead %s, %s%s%s, up %s\n", cli_number(node, "id"),
           cli_text(node, "cluster"), cli_text(status, "version"), good(cli, ready),
           ready ? "ready" : "not ready", plain, figure_seconds(cli_number(status, "uptime_s"), up));
    printf("state       %s, term %lld, applied %lld of %lld", truth(state, "leads") ? "leader" : "follower",
           cli_number(state, "term"), cli_number(state, "applied_index"), cli_number(state, "commit_index"));
    if (cli_number(state, "others"))
        printf(", connected with %lld of %lld nodes", cli_number(state, "connected"),
               cli_number(state, "others"));
    if (json_is_null(json_object_get(state, "leader")))
        printf(", %snobody leads%s", good(cli, false), plain);
    printf("\n");
    printf("data plane  %s%s%s%s, %lld rings, up %s, %lld restarts, plan %lld of %lld\n", good(cli, running),
           cli_text(dataplane, "state"), plain, truth(dataplane, "adopted") ? ", taken over" : "",
           cli_number(dataplane, "rings"), figure_seconds(cli_number(dataplane, "uptime_s"), dataplane_up),
           cli_number(dataplane, "restarts"), cli_number(dataplane, "plan_applied"),
           cli_number(status, "plan_generation"));
    print_services(json_object_get(status, "services"));
    print_balancing(json_object_get(status, "balancing"));
    if (json_array_size(json_object_get(status, "peers")) > 0)
        print_peers(json_object_get(status, "peers"));
    if (json_array_size(json_object_get(status, "addresses")) > 0)
        print_addresses(json_object_get(status, "addresses"));
    print_figures(status);
    print_disk(cli, "store", json_object_get(status, "store"));
    print_disk(cli, "state", json_object_get(state, "disk"));
    print_blobs(json_object_get(status, "blobs"));
    print_repair(json_object_get(status, "repair"));
    print_gc(json_object_get(status, "gc"));
    json_array_foreach(json_object_get(status, "warnings"), i, warning)
        printf("%swarning%s     %s\n", colour(cli, "\033[33m"), plain, json_string_value(warning));
}

/* Draws a screen each second. A daemon that is away is waited for. */
static int watch(struct cli *cli, const char *method,
                 void (*print)(const struct cli *cli, const json_t *answer))
{
    for (;; sleep(1)) {
        char err[CLIENT_ERROR_MAX];
        struct client *client = client_open(cli->socket, err);
        json_t *answer = client ? client_call(client, method, NULL, err) : NULL;
        if (client)
            client_close(client);
        if (cli->options & OPTION_JSON && answer) {
            cli_print_json(cli, answer);
        } else {
            fputs(colour(cli, CLEAR_SCREEN), stdout);
            if (answer)
                print(cli, answer);
            else
                printf("%s\n", err);
        }
        json_decref(answer);
        if (fflush(stdout))
            return EXIT_FAILED;
    }
}

static int once(struct cli *cli, const char *method,
                void (*print)(const struct cli *cli, const json_t *answer))
{
    json_t *answer = cli_ask(cli, method, NULL);
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON)
        cli_print_json(cli, answer);
    else
        print(cli, answer);
    json_decref(answer);
    return EXIT_OK;
}

int command_status(struct cli *cli)
{
    return cli->options & OPTION_WATCH ? watch(cli, "status", print_status)
                                       : once(cli, "status", print_status);
}

static void print_classes(const json_t *list)
{
    static const char *const titles[] = {"REQUESTS", ">PER SECOND", ">P50", ">P90", ">P99", NULL};
    struct table *table = table_new(titles);
    size_t i;
    json_t *row;
    json_array_foreach(list, i, row)
    {
        char rate[FIGURE_MAX], p50[FIGURE_MAX], p90[FIGURE_MAX], p99[FIGURE_MAX];
        bool any = cli_real(row, "requests_per_s") > 0;
        table_row(table, cli_text(row, "class"), figure_count(cli_real(row, "requests_per_s"), rate),
                  any ? figure_us(cli_real(row, "p50_us"), p50) : "-",
                  any ? figure_us(cli_real(row, "p90_us"), p90) : "-",
                  any ? figure_us(cli_real(row, "p99_us"), p99) : "-");
    }
    table_print(table, stdout);
}

/* Those that are not zero. */
static void print_rates(const char *title, const char *unit, json_t *object)
{
    const char *const titles[] = {title, unit, NULL};
    struct table *table = table_new(titles);
    const char *key;
    json_t *value;
    bool any = false;
    json_object_foreach(object, key, value)
    {
        char figure[FIGURE_MAX];
        if (json_number_value(value) <= 0)
            continue;
        any = true;
        table_row(table, key,
                  strstr(key, "bytes") ? figure_bytes(json_number_value(value), figure)
                                       : figure_count(json_number_value(value), figure));
    }
    if (any) {
        printf("\n");
        table_print(table, stdout);
    } else {
        table_free(table);
    }
}

static void print_top(const struct cli *cli, const json_t *top)
{
    (void)cli;
    print_classes(json_object_get(top, "classes"));
    print_rates("COUNTER", ">PER SECOND", json_object_get(top, "per_second"));
    print_rates("GAUGE", ">NOW", json_object_get(top, "now"));
    print_rates("CLOSED BECAUSE", ">PER SECOND", json_object_get(top, "closed_per_second"));
}

int command_top(struct cli *cli)
{
    bool live = cli->terminal && !(cli->options & OPTION_ONCE);
    return live ? watch(cli, "top", print_top) : once(cli, "top", print_top);
}

static void print_version(const struct cli *cli, const json_t *answer)
{
    (void)cli;
    printf("fairlead %s, fairleadd %s\n", FL_VERSION, cli_text(answer, "version"));
}

int command_version(struct cli *cli)
{
    return once(cli, "version", print_version);
}

static void print_plan(const struct cli *cli, const json_t *plan)
{
    static const char *const titles[] = {"SETTING", "VALUE", NULL};
    struct table *table = table_new(titles);
    const char *key;
    json_t *value;
    size_t i;
    (void)cli;
    printf("generation %lld, the data plane has %lld\n", cli_number(plan, "generation"),
           cli_number(plan, "applied"));
    json_array_foreach(json_object_get(plan, "listeners"), i, value)
        printf("%s serves %s on %lld sockets\n", cli_text(value, "address"), cli_text(value, "service"),
               cli_number(value, "count"));
    json_array_foreach(json_object_get(plan, "services"), i, value)
        printf("service %s, kind %s, is proxied to %lld backends\n", cli_text(value, "name"),
               cli_text(value, "kind"), cli_number(value, "backends"));
    json_object_foreach(json_object_get(plan, "settings"), key, value)
        table_row(table, key, json_string_value(value));
    printf("\n");
    table_print(table, stdout);
}

int command_plan(struct cli *cli)
{
    return once(cli, "plan.show", print_plan);
}

static void print_metrics(const struct cli *cli, const json_t *answer)
{
    (void)cli;
    fputs(cli_text(answer, "text"), stdout);
}

int command_metrics(struct cli *cli)
{
    return once(cli, "metrics", print_metrics);
}

static void print_shutdown(const struct cli *cli, const json_t *answer)
{
    (void)cli;
    (void)answer;
    printf("fairleadd drains and stops\n");
}

int command_shutdown(struct cli *cli)
{
    if (!(cli->options & OPTION_YES) && isatty(STDIN_FILENO)) {
        cli_fail("this stops the node; say --yes if that is meant");
        return EXIT_USAGE;
    }
    return once(cli, "shutdown", print_shutdown);
}
