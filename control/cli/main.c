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
