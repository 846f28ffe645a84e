/* SPDX-License-Identifier: Apache-2.0 */
/* The command line of an operator: takes it apart and asks the daemon through its control socket. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "control/cli/cli.h"
#include "control/cli/client.h"
#include "control/cli/table.h"

const struct command commands[] = {
    {"status", "", OPTION_WATCH, "node, state, data plane, addresses, traffic and warnings", NULL,
     command_status},
    {"top", "", OPTION_ONCE, "what goes on: rates, latencies, close reasons, each second",
     "On a terminal it refreshes until Ctrl-C; elsewhere, or with --once, it prints one second and ends.",
     command_top},
    {"get", "[KEY]", OPTION_ALL, "a setting, or all of them, with range, default and source",
     "The source says where the value comes from: default, file (the configuration), set (`fairlead set`).",
     command_get},
    {"set", "KEY VALUE", 0, "change a setting now, on the whole cluster, without a reload",
     "The value is kept in the state and wins over the configuration file, until `fairlead unset`.",
     command_set},
    {"unset", "KEY", 0, "take a setting back to the configuration file's value or the default", NULL,
     command_unset},
    {"repo ls", "[AFTER]", OPTION_LIMIT, "repositories with tags, manifests and size", NULL, command_repo_ls},
    {"repo tags", "REPOSITORY [AFTER]", OPTION_LIMIT, "tags of a repository with their digests", NULL,
     command_repo_tags},
    {"repo create", "REPOSITORY", 0, "make an empty repository, where a policy lets a push make none", NULL,
     command_repo_create},
    {"repo rm", "REPOSITORY[:TAG]", OPTION_YES, "delete a repository with all that is in it, or one tag",
     "On a terminal it asks first, unless --yes is given.", command_repo_rm},
    {"blob verify", "[DIGEST]", OPTION_ALL, "read and hash a blob of this node's store, or all of them",
     "What is damaged is moved to store/damaged, served to nobody, and comes again from another replica, or "
     "by a push.\n"
     "The pace is scrub.rate. --all begins a scrub, or follows the one that runs; it goes on without this "
     "command.",
     command_blob_verify},
    {"policy ls", "", 0, "policies of repositories: what each says", NULL, command_policy_ls},
    {"policy show", "PREFIX", 0, "what holds for a repository, or below a prefix, and which policy says it",
     NULL, command_policy_show},
    {"policy set", "PREFIX KEY=VALUE...", 0, "set fields of the policy of a prefix, all of them or none",
     "As in `fairlead policy set team/app 'immutable=v*' quota.bytes=50GiB`. A prefix ends where a component "
     "of a "
     "name does; '*' is the whole registry.\n"
     "Keys: read_only, create (push, existing), immutable (patterns of tags), quota.bytes, quota.tags (of "
     "one "
     "repository), total.bytes,\n"
     "total.tags (of all below the prefix), retention.keep_last, retention.keep_for, retention.tags, "
     "retention.immutable.\n"
     "For each field the longest prefix counts whose policy says something about it; KEY=inherit says "
     "nothing.",
     command_policy_set},
    {"policy rm", "PREFIX", OPTION_YES, "remove the policy of a prefix",
     "On a terminal it asks first, unless --yes is given.", command_policy_rm},
    {"policy retention", "[AFTER]", OPTION_DRY_RUN | OPTION_LIMIT, "tags that retention would remove now",
     "It only looks (--dry-run may be said); the node that leads removes them every "
     "registry.retention_interval. "
     "AFTER: of the repositories behind this one.",
     command_policy_retention},
    {"notify ls", "", 0, "webhooks: what they are told of, how far they are", NULL, command_notify_ls},
    {"notify set", "NAME KEY=VALUE...", 0, "make a webhook, or change fields of one",
     "As in `fairlead notify set ci url=https://ci.example/hook prefix=team actions=push "
     "header.Authorization=@token`.\n"
     "Keys: url, prefix ('*': all), actions (push,delete,mount), media_types (patterns, as in *manifest*), "
     "header.NAME.\n"
     "A header's value @FILE is the first line of the file; without a value the header goes. Values are "
     "never "
     "shown.",
     command_notify_set},
    {"notify rm", "NAME", OPTION_YES, "remove a webhook, and what waits for it",
     "On a terminal it asks first, unless --yes is given.", command_notify_rm},
    {"notify test", "NAME", 0, "send an envelope without events, from this node, and say what is answered",
     NULL, command_notify_test},
    {"mirror ls", "", 0, "rules of mirroring: what is copied where, when, and how it went", NULL,
     command_mirror_ls},
    {"mirror set", "NAME KEY=VALUE...", 0, "make a rule of mirroring, or change fields of one",
     "As in `fairlead mirror set hub url=https://registry.example repos=team/*,tools/app every=1h "
     "prefix=copies`.\n"
     "Keys: direction (pull, push), url, repos, tags (patterns, or ~EXPRESSION), strip, prefix, every, "
     "on_event,\n"
     "referrers, rate, parallel, credentials, ca (files of the node that leads), paused. What was deleted at "
     "the "
     "source stays.",
     command_mirror_set},
    {"mirror rm", "NAME", OPTION_YES, "remove a rule of mirroring; what it copied stays", NULL,
     command_mirror_rm},
    {"mirror run", "NAME", OPTION_DRY_RUN,
     "run a rule now, and wait for the end; --dry-run: say what it would do", NULL, command_mirror_run},
    {"mirror status", "NAME", 0, "a rule, and what its last run did", NULL, command_mirror_status},
    {"gc", "", OPTION_DRY_RUN | OPTION_PROGRESS, "remove what no manifest names any more, now",
     "It is done by itself, every gc.interval. What is found waits for gc.grace: a manifest may still name "
     "it.",
     command_gc},
    {"service ls", "", 0, "services with address, policy, check and the state of their backends", NULL,
     command_service_ls},
    {"service show", "SERVICE", 0, "a service with every field and its backends", NULL, command_service_show},
    {"service create", "SERVICE ADDRESS [KEY=VALUE...]", 0,
     "make a service, as in `service create web 10.0.0.1:80`",
     "Keys: kind, policy, edge, steer, takeover, all_down, cut, check.kind, check.interval, "
     "check.http_interval,\n"
     "check.timeout, check.http_timeout, check.rise, check.fall, check.path, check.host, check.statuses. The "
     "manual\n"
     "fairlead.yaml(5) says what each is.",
     command_service_create},
    {"service set", "SERVICE KEY=VALUE...", 0, "change fields of a service, all of them or none",
     "As in `fairlead service set web policy=maglev check.interval=10ms`. Keys as of service create, and "
     "address.",
     command_service_set},
    {"service rm", "SERVICE", OPTION_YES, "delete a service with its backends",
     "On a terminal it asks first, unless --yes is given.", command_service_rm},
    {"backend ls", "[SERVICE]", 0, "backends with verdict, reason, round trip and connections", NULL,
     command_backend_ls},
    {"backend show", "SERVICE BACKEND", 0, "a backend with its figures and the last changes of its verdict",
     NULL, command_backend_show},
    {"backend add", "SERVICE ADDRESS [KEY=VALUE...]", 0, "add a backend, as in `backend add web 10.0.1.1:80`",
     "Keys: name (else the address), weight (1 to 256), node (the peer that it runs on).",
     command_backend_add},
    {"backend set", "SERVICE BACKEND KEY=VALUE...", 0, "change a backend's address, weight or node", NULL,
     command_backend_set},
    {"backend drain", "SERVICE BACKEND...", 0, "give backends no new connections; what they have goes on",
     NULL, command_backend_drain},
    {"backend undrain", "SERVICE BACKEND...", 0, "give drained backends connections again", NULL,
     command_backend_undrain},
    {"backend rm", "SERVICE BACKEND...", OPTION_YES, "delete backends of a service",
     "On a terminal it asks first, unless --yes is given.", command_backend_rm},
    {"apply", "", OPTION_FILE | OPTION_DRY_RUN | OPTION_PRUNE,
     "make services, backends and settings as a file says, all of them or none",
     "The file (-f FILE, - for standard input) has the sections services and settings of fairlead.yaml(5). "
     "What "
     "it does\n"
     "not name stays, unless --prune is given. --dry-run shows what would change, and changes nothing.",
     command_apply},
    {"node ls", "", 0, "nodes with role, state and the reason for it; * is this one", NULL, command_node_ls},
    {"node promote", "NODE...", OPTION_FORCE, "make workers managers", NULL, command_node_promote},
    {"node demote", "NODE...", OPTION_FORCE, "make managers workers",
     "The last manager stays one. A change that would leave less than a majority of the managers that answer "
     "is "
     "refused\n"
     "unless --force is given.",
     command_node_demote},
    {"node drain", "NODE...", 0, "give nodes nothing new; a leader hands over", NULL, command_node_drain},
    {"node active", "NODE...", 0, "take drained nodes back", NULL, command_node_active},
    {"node set", "NODE", OPTION_NAME | OPTION_ROLE | OPTION_AVAILABILITY | OPTION_REPLICA | OPTION_FORCE,
     "change a node's name, role, availability, or whether it keeps blobs", NULL, command_node_set},
    {"node rm", "NODE", OPTION_FORCE | OPTION_YES, "remove a node from the cluster",
     "A manager is demoted first; one that is dead is removed with --force, before another one takes its "
     "place.\n"
     "On a terminal it asks first, unless --yes is given.",
     command_node_rm},
    {"node join", "ADDRESS", OPTION_TOKEN, "make this host a node of the cluster whose manager listens there",
     "ADDRESS is what the manager has as cluster.listen or cluster.advertise. This host must have neither "
     "repositories "
     "nor services,\nand has to say in its configuration where it listens (cluster.listen).",
     command_node_join},
    {"node join-token", "", OPTION_ROLE | OPTION_REPLICA | OPTION_EXPIRES | OPTION_ROTATE,
     "make a token with which hosts join, and print it",
     "--role is needed. Any number of hosts may use a token, until it expires (--expires 1h; default 24h) or "
     "is "
     "removed.\n"
     "--rotate removes the other tokens of the role. The token is shown once and kept nowhere.",
     command_node_join_token},
    {"node token-ls", "", 0, "tokens: role, until when they are good", NULL, command_node_token_ls},
    {"node token-rm", "ID", 0, "remove a token; the first six characters of its id are enough", NULL,
     command_node_token_rm},
    {"cluster show", "", 0, "the cluster: version, copies, managers, who leads, its CA", NULL,
     command_cluster_show},
    {"cluster rotate-ca", "", OPTION_FORCE | OPTION_YES,
     "exchange the cluster's CA: every node gets a certificate of a new one",
     "It goes on by itself, while everything else does, until every node has its certificate; then the old "
     "CA "
     "is trusted no more.\n"
     "Tokens made before do not let anybody join from when the new CA signs. --force goes on without nodes "
     "that "
     "are away:\nthey have to be removed, and to join again. On a terminal that asks first, unless --yes is "
     "given.",
     command_cluster_rotate_ca},
    {"cluster set", "", OPTION_NAME | OPTION_COPIES | OPTION_COPIES_MIN,
     "change the cluster's name, and how many copies of a blob there are", NULL, command_cluster_set},
    {"cluster force-new", "", OPTION_STATE | OPTION_YES,
     "go on alone, with this node, where the majority of the managers is lost for good",
     "For a fairleadd that does not run. What this node's log does not have is lost, and the other managers "
     "must never "
     "run again with what they have. fairleadd --force-new does the work, with --config where the state is "
     "not in its "
     "usual place.",
     command_cluster_force_new},
    {"backup create", "FILE", OPTION_PASSPHRASE | OPTION_BLOBS,
     "write the state, and with --blobs this node's blobs, into one encrypted file",
     "The daemon writes it while everything goes on; FILE has its name when it is whole. Without "
     "--passphrase-file it asks.\n"
     "Nothing can be read without the passphrase. Certificates and keys of the cluster are not in it.",
     command_backup_create},
    {"backup restore", "FILE", OPTION_PASSPHRASE | OPTION_STATE | OPTION_VERIFY,
     "make the state of a new cluster of one from a backup, or check it (--verify)",
     "For a fairleadd that does not run: --state DIR is empty or not there. fairleadd --restore does the "
     "work.",
     command_backup_restore},
    {"import", "FOLDER [NAME]", OPTION_REGISTRY,
     "take the images of a docker-registry's tree or of an OCI layout on this host's disks (administrators)",
     "Blobs are cloned or linked where the file system can, so that they need no second room; each is hashed "
     "first. "
     "NAME: the\nrepository that a layout becomes, or what stands before the names of a tree. What is there "
     "already is "
     "not done again.",
     command_import},
    {"export", "REPOSITORY[:TAG] FOLDER", OPTION_REGISTRY,
     "write images with all they refer to as an OCI layout",
     "All tags, if none is given, with their signatures and other referrers. What is in the folder already "
     "is not fetched "
     "again.",
     command_export},
    {"certificate ls", "", 0, "certificates: subject, names, until when they are good, who uses them", NULL,
     command_certificate_ls},
    {"certificate reload", "", 0, "read the files of all certificates again, now",
     "Files that change are read again within a second or two on their own; open connections keep what they "
     "have.",
     command_certificate_reload},
    {"events", "", OPTION_FOLLOW | OPTION_LIMIT | OPTION_FILTER, "what was changed, by whom, from where",
     NULL, command_events},
    {"trace", "", OPTION_FILTER, "follow requests through the data plane as they happen", NULL,
     command_trace},
    {"plan", "", 0, "the configuration as the data plane has it", NULL, command_plan},
    {"metrics", "", 0, "the figures as Prometheus text", NULL, command_metrics},
    {"kernel detach", "", OPTION_YES, "take all programs out of the kernel (administrators)",
     "Without a running daemon: fairleadd --detach INSTANCE.", command_kernel_detach},
    {"kernel", "", 0, "the programs in the kernel: where they are, maps, clock, what this kernel can do",
     NULL, command_kernel},
    {"shutdown", "", OPTION_YES, "drain and stop the daemon (administrators)", NULL, command_shutdown},
    {"version", "", 0, "versions of this command and of the daemon", NULL, command_version},
    {"completion", "SHELL", 0, "completion for bash, zsh or fish",
     "bash: eval \"$(fairlead completion bash)\"   zsh: the same   fish: fairlead completion fish | source",
     command_completion},
    {"help", "[COMMAND]", 0, "this list, or more about one command", NULL, command_help},
};
const size_t command_count = ARRAY_SIZE(commands);

const struct option_info option_infos[] = {
    {OPTION_JSON, "json", NULL, "answer in JSON"},
    {OPTION_SOCKET, "socket", "PATH",
     "the daemon's control socket (FAIRLEAD_SOCKET; default " SOCKET_DEFAULT ")"},
    {OPTION_HELP, "help", NULL, "what the command does"},
    {OPTION_WATCH, "watch", NULL, "refresh each second"},
    {OPTION_ALL, "all", NULL, "all of them"},
    {OPTION_FOLLOW, "follow", NULL, "go on with what comes"},
    {OPTION_FILTER, "filter", "TEXT", "only what has this text in it"},
    {OPTION_LIMIT, "limit", "N", "at most so many"},
    {OPTION_YES, "yes", NULL, "do not ask"},
    {OPTION_ONCE, "once", NULL, "one second, then end"},
    {OPTION_FORCE, "force", NULL, "also where it is refused for safety"},
    {OPTION_NAME, "name", "NAME", "another name"},
    {OPTION_ROLE, "role", "ROLE", "manager or worker"},
    {OPTION_AVAILABILITY, "availability", "WORD", "active or drain"},
    {OPTION_REPLICA, "replica", "yes|no", "whether it keeps blobs"},
    {OPTION_EXPIRES, "expires", "TIME", "after which it is good no more, as in 30m, 1h, 7d"},
    {OPTION_TOKEN, "token", "TOKEN", "of `fairlead node join-token`"},
    {OPTION_ROTATE, "rotate", NULL, "remove the others of its role"},
    {OPTION_FILE, "file", "FILE", "the file; also -f"},
    {OPTION_DRY_RUN, "dry-run", NULL, "show what would change, and change nothing"},
    {OPTION_PRUNE, "prune", NULL, "remove what its sections do not name"},
    {OPTION_BLOBS, "blobs", NULL, "with this node's blobs"},
    {OPTION_VERIFY, "verify", NULL, "read and check it, no more"},
    {OPTION_STATE, "state", "DIR", "the state's folder (default /var/lib/fairlead)"},
    {OPTION_REGISTRY, "registry", "URL",
     "of another registry than this node's, as in https://registry.example"},
    {OPTION_PROGRESS, "progress", NULL, "begin nothing: show how far it is"},
    {OPTION_PASSPHRASE, "passphrase-file", "FILE", "its first line is the passphrase"},
    {OPTION_COPIES, "copies", "N", "of each blob; 0: two, if there are two replicas"},
    {OPTION_COPIES_MIN, "copies-min", "N", "enough while a replica is down"},
};
const size_t option_count = ARRAY_SIZE(option_infos);

int cli_fail(const char *text)
{
    fprintf(stderr, "fairlead: %s\n", text);
    return EXIT_FAILED;
}

bool cli_is_meant(const struct cli *cli, const char *what)
{
    char answer[8] = "";
    if (cli->options & OPTION_YES || !isatty(STDIN_FILENO))
        return true;
    fprintf(stderr, "delete %s? [y/N] ", what);
    return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

json_t *cli_ask(const struct cli *cli, const char *method, json_t *params)
{
    char err[CLIENT_ERROR_MAX];
    struct client *client = client_open(cli->socket, err);
    json_t *result = NULL;
    if (client) {
        result = client_call(client, method, params, err);
        client_close(client);
    } else {
        json_decref(params);
    }
    if (!result)
        cli_fail(err);
    return result;
}

json_t *cli_take_fields(const struct cli *cli, size_t from, const char *example)
{
    json_t *fields = json_object();
    for (size_t i = from; i < cli->argument_count; i++) {
        const char *word = cli->argument[i], *equals = strchr(word, '=');
        json_t *value = equals ? json_string(equals + 1) : NULL;
        if (!value || equals == word) {
            fprintf(stderr, "fairlead: '%s' is not KEY=VALUE; write one, as in %s\n", word, example);
            json_decref(value);
            json_decref(fields);
            return NULL;
        }
        json_object_setn_new(fields, word, (size_t)(equals - word), value);
    }
    return fields;
}

void cli_print_json(const struct cli *cli, const json_t *value)
{
    json_dumpf(value, stdout, cli->terminal ? JSON_INDENT(2) : JSON_COMPACT);
    putchar('\n');
    fflush(stdout);
}

void cli_print_notes(const json_t *answer)
{
    static const char *const lists[] = {"warnings", "advice"};
    json_t *line;
    size_t i;
    for (size_t l = 0; l < ARRAY_SIZE(lists); l++)
        json_array_foreach(json_object_get(answer, lists[l]), i, line)
            fprintf(stderr, "fairlead: note: %s\n", json_string_value(line));
}

int cli_finish(const struct cli *cli, json_t *answer, const char *done)
{
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON) {
        cli_print_json(cli, answer);
    } else {
        printf("%s\n", done);
        cli_print_notes(answer);
    }
    json_decref(answer);
    return EXIT_OK;
}

int cli_print_list(const struct cli *cli, json_t *answer, const char *list, const char *const *titles,
                   cli_row print)
{
    json_t *row;
    size_t i;
    if (!answer)
        return EXIT_FAILED;
    if (cli->options & OPTION_JSON) {
        cli_print_json(cli, answer);
    } else {
        struct table *table = table_new(titles);
        json_array_foreach(json_object_get(answer, list), i, row) print(table, row);
        table_print(table, stdout);
    }
    json_decref(answer);
    return EXIT_OK;
}

const char *cli_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

long long cli_number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

double cli_real(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void print_options(unsigned bits)
{
    for (size_t i = 0; i < option_count; i++) {
        const struct option_info *info = &option_infos[i];
        char name[32];
        if (!(bits & info->bit))
            continue;
        snprintf(name, sizeof(name), "--%s%s%s", info->name, info->value ? " " : "",
                 info->value ? info->value : "");
        printf("  %-16s %s\n", name, info->text);
    }
}

static void print_help(const struct command *command)
{
    printf("usage: fairlead %s%s%s [options]\n\n%s\n", command->name, *command->arguments ? " " : "",
           command->arguments, command->summary);
    if (command->details)
        printf("\n%s\n", command->details);
    printf("\n");
    print_options(command->options | OPTIONS_EVERYWHERE);
}

static void print_overview(void)
{
    printf("usage: fairlead COMMAND [arguments] [options]\n\n");
    for (size_t i = 0; i < command_count; i++) {
        char name[64];
        snprintf(name, sizeof(name), "%s %s", commands[i].name, commands[i].arguments);
        printf("  %-30s %s\n", name, commands[i].summary);
    }
    printf("\nOptions of every command:\n");
    print_options(OPTIONS_EVERYWHERE);
    printf("\nExit status: 0 done, 1 failed, 2 wrong usage. `fairlead help COMMAND` tells more; see also "
           "fairlead(1).\n");
}

/* The command that the words begin with; *used says how many of them are its name. */
static const struct command *find_command(const char *const *word, size_t count, size_t *used)
{
    for (size_t i = 0; count && i < command_count; i++) {
        const char *space = strchr(commands[i].name, ' ');
        size_t first = space ? (size_t)(space - commands[i].name) : strlen(commands[i].name);
        if (strlen(word[0]) != first || memcmp(word[0], commands[i].name, first) != 0)
            continue;
        *used = space ? 2 : 1;
        if (!space || (count > 1 && strcmp(word[1], space + 1) == 0))
            return &commands[i];
    }
    return NULL;
}

int command_help(struct cli *cli)
{
    size_t used;
    const struct command *command = find_command(cli->argument, cli->argument_count, &used);
    if (command)
        print_help(command);
    else
        print_overview();
    return EXIT_OK;
}

static int usage_error(const char *what, const char *which, const char *hint)
{
    fprintf(stderr, "fairlead: %s '%s'; %s\n", what, which, hint);
    return EXIT_USAGE;
}

static const struct option_info *find_option(const char *text, size_t len)
{
    for (size_t i = 0; i < option_count; i++)
        if (strlen(option_infos[i].name) == len && memcmp(option_infos[i].name, text, len) == 0)
            return &option_infos[i];
    return NULL;
}

const char *cli_value(const struct cli *cli, enum option option)
{
    return cli->options & option ? cli->value[__builtin_ctz(option)] : NULL;
}

static int take_value(struct cli *cli, const struct option_info *info, const char *value)
{
    char *end;
    cli->value[__builtin_ctz(info->bit)] = value;
    if (info->bit == OPTION_SOCKET)
        cli->socket = value;
    if (info->bit == OPTION_FILTER)
        cli->filter = value;
    if (info->bit != OPTION_LIMIT)
        return EXIT_OK;
    errno = 0;
    cli->limit = strtol(value, &end, 10);
    if (errno || *end || end == value || cli->limit < 1)
        return usage_error("--limit is not a number from 1:", value, "write one, as in --limit 20");
    return EXIT_OK;
}

/* An option at argv[*at], with its value there ("--limit=5") or in the next argument. -f is short for --file.
 */
static int take_option(struct cli *cli, int argc, char **argv, int *at)
{
    const char *text = strcmp(argv[*at], "-f") == 0 ? "file" : argv[*at] + 2, *equals = strchr(text, '=');
    const struct option_info *info = find_option(text, equals ? (size_t)(equals - text) : strlen(text));
    if (!info || (equals && !info->value))
        return usage_error("unknown option", argv[*at], "`fairlead help COMMAND` lists them");
    cli->options |= info->bit;
    if (!info->value)
        return EXIT_OK;
    if (!equals && *at + 1 >= argc)
        return usage_error("there is no value behind", argv[*at],
                           "`fairlead help COMMAND` shows what it takes");
    return take_value(cli, info, equals ? equals + 1 : argv[++*at]);
}

/* Options may stand anywhere; "--" ends them. */
static int take_arguments(struct cli *cli, int argc, char **argv)
{
    bool only_words = false;
    for (int i = 1; i < argc; i++) {
        int code = EXIT_OK;
        if (!only_words && strcmp(argv[i], "--") == 0)
            only_words = true;
        else if (!only_words && (strncmp(argv[i], "--", 2) == 0 || strcmp(argv[i], "-f") == 0))
            code = take_option(cli, argc, argv, &i);
        else if (!only_words && strcmp(argv[i], "-h") == 0)
            cli->options |= OPTION_HELP;
        else if (cli->argument_count == ARGUMENTS_MAX)
            code = usage_error("too many arguments, from", argv[i], "`fairlead help` shows the commands");
        else
            cli->argument[cli->argument_count++] = argv[i];
        if (code)
            return code;
    }
    return EXIT_OK;
}

/* Words of the arguments' description: how many must be there, and may. */
static void count_arguments(const char *text, size_t *least, size_t *most)
{
    *least = *most = 0;
    for (bool inside = false; *text; text++) {
        bool word = *text != ' ';
        if (word && !inside) {
            (*most)++;
            *least += *text != '[';
        }
        inside = word;
        if (strcmp(text, "...") == 0 || strcmp(text, "...]") == 0)
            *most = ARGUMENTS_MAX;
    }
}

static int check_arguments(const struct cli *cli)
{
    const struct command *command = cli->command;
    size_t least, most;
    char usage[128];
    count_arguments(command->arguments, &least, &most);
    snprintf(usage, sizeof(usage), "usage: fairlead %s %s", command->name, command->arguments);
    if (command->run != command_help && (cli->argument_count < least || cli->argument_count > most))
        return usage_error(cli->argument_count < least ? "too few arguments for" : "too many arguments for",
                           command->name, usage);
    unsigned wrong = cli->options & ~(command->options | OPTIONS_EVERYWHERE);
    for (size_t i = 0; i < option_count; i++)
        if (wrong & option_infos[i].bit)
            return usage_error("this command has no option", option_infos[i].name, usage);
    return EXIT_OK;
}

static void drop_words(struct cli *cli, size_t count)
{
    memmove(cli->argument, cli->argument + count, (cli->argument_count - count) * sizeof(cli->argument[0]));
    cli->argument_count -= count;
}

static int run(struct cli *cli)
{
    size_t used;
    if (cli->argument_count == 0) {
        print_overview();
        return cli->options & OPTION_HELP ? EXIT_OK : EXIT_USAGE;
    }
    cli->command = find_command(cli->argument, cli->argument_count, &used);
    if (!cli->command)
        return usage_error("there is no command", cli->argument[0], "`fairlead help` shows what there is");
    drop_words(cli, used);
    if (cli->options & OPTION_HELP) {
        print_help(cli->command);
        return EXIT_OK;
    }
    int code = check_arguments(cli);
    return code ? code : cli->command->run(cli);
}

int main(int argc, char **argv)
{
    const char *path = getenv("FAIRLEAD_SOCKET");
    struct cli cli = {.socket = path && *path ? path : SOCKET_DEFAULT, .terminal = isatty(STDOUT_FILENO)};
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        puts("fairlead " FL_VERSION);
        return EXIT_OK;
    }
    int code = take_arguments(&cli, argc, argv);
    if (!code)
        code = run(&cli);
    if (fflush(stdout) || ferror(stdout))
        return code ? code : cli_fail("the output could not be written");
    return code;
}
