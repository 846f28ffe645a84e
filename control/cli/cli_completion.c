/* SPDX-License-Identifier: Apache-2.0 */
/* Completion scripts, made from the table of commands: words and options, and settings asked from the daemon.
 */
#include <string.h>

#include "check.h"
#include "control/cli/cli.h"

/* First words of the commands, each once. */
static void print_first_words(void)
{
    for (size_t i = 0; i < command_count; i++) {
        size_t len = strcspn(commands[i].name, " ");
        bool seen = false;
        for (size_t j = 0; j < i; j++)
            seen |= strncmp(commands[j].name, commands[i].name, len) == 0 &&
                    strcspn(commands[j].name, " ") == len;
        if (!seen)
            printf("%.*s ", (int)len, commands[i].name);
    }
}

static size_t first_word(const struct command *command)
{
    return strcspn(command->name, " ");
}

static bool same_first_word(const struct command *a, const struct command *b)
{
    return first_word(a) == first_word(b) && memcmp(a->name, b->name, first_word(a)) == 0;
}

/* A case for each first word that has second ones, with all of them. */
static void print_second_words(void)
{
    for (size_t i = 0; i < command_count; i++) {
        bool seen = !strchr(commands[i].name, ' ');
        for (size_t j = 0; j < i; j++)
            seen |= strchr(commands[j].name, ' ') && same_first_word(&commands[j], &commands[i]);
        if (seen)
            continue;
        printf("    \"2 %.*s\") choice='", (int)first_word(&commands[i]), commands[i].name);
        for (size_t j = i; j < command_count; j++)
            if (strchr(commands[j].name, ' ') && same_first_word(&commands[j], &commands[i]))
                printf("%s ", strchr(commands[j].name, ' ') + 1);
        printf("' ;;\n");
    }
}

static void print_option_words(unsigned bits)
{
    for (size_t i = 0; i < option_count; i++)
        if (bits & option_infos[i].bit)
            printf("--%s ", option_infos[i].name);
}

static void print_bash(void)
{
    printf("_fairlead() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} choice=\n"
           "    case \"$COMP_CWORD $command\" in\n"
           "    \"1 \"*) choice='");
    print_first_words();
    printf("' ;;\n");
    print_second_words();
    printf("    \"2 get\"|\"2 set\"|\"2 unset\")\n"
           "        choice=$(fairlead get --all 2>/dev/null | awk 'NR > 1 {print $1}') ;;\n"
           "    \"3 service\"|\"3 backend\")\n"
           "        choice=$(fairlead service ls 2>/dev/null | awk 'NR > 1 {print $1}') ;;\n"
           "    \"2 completion\") choice='bash zsh fish' ;;\n"
           "    \"3 node\") choice=$(fairlead node ls 2>/dev/null | awk 'NR > 1 {print $2}') ;;\n"
           "    esac\n"
           "    case \"$command ${COMP_WORDS[2]}\" in\n"
           "    \"service create\"|\"service set\") [[ $COMP_CWORD -ge 4 ]] && compopt -o nospace &&\n"
           "        choice=$(fairlead service show \"$(fairlead service ls 2>/dev/null | awk 'NR == 2 {print "
           "$1}')\" "
           "2>/dev/null |\n"
           "            awk '$1 == \"kind\" {on = 1} NF == 0 {exit} on {print $1 \"=\"}') ;;\n"
           "    \"backend add\"|\"backend set\") [[ $COMP_CWORD -ge 5 ]] && compopt -o nospace &&\n"
           "        choice='address= weight= node= name=' ;;\n"
           "    \"backend \"*) [[ $COMP_CWORD -ge 4 ]] &&\n"
           "        choice=$(fairlead backend ls \"${COMP_WORDS[3]}\" 2>/dev/null | awk 'NR > 1 {print $2}') "
           ";;\n"
           "    esac\n"
           "    [[ $word == -* ]] && case \"$command ${COMP_WORDS[2]}\" in\n");
    for (size_t i = 0; i < command_count; i++) {
        printf("    \"%s\"*) choice='", commands[i].name);
        print_option_words(commands[i].options | OPTIONS_EVERYWHERE);
        printf("' ;;\n");
    }
    printf("    esac\n"
           "    mapfile -t COMPREPLY < <(compgen -W \"$choice\" -- \"$word\")\n"
           "}\n"
           "complete -F _fairlead fairlead\n");
}

static void print_fish(void)
{
    printf("complete -c fairlead -f\n");
    for (size_t i = 0; i < command_count; i++) {
        const char *space = strchr(commands[i].name, ' ');
        if (space)
            printf("complete -c fairlead -n '__fish_seen_subcommand_from %.*s' -a '%s' -d \"%s\"\n",
                   (int)(space - commands[i].name), commands[i].name, space + 1, commands[i].summary);
        else
            printf("complete -c fairlead -n __fish_use_subcommand -a '%s' -d \"%s\"\n", commands[i].name,
                   commands[i].summary);
    }
    printf("complete -c fairlead -n __fish_use_subcommand -a repo -d 'repositories'\n"
           "complete -c fairlead -n __fish_use_subcommand -a service -d 'services'\n"
           "complete -c fairlead -n __fish_use_subcommand -a backend -d 'backends'\n"
           "complete -c fairlead -n __fish_use_subcommand -a node -d 'nodes'\n"
           "complete -c fairlead -n __fish_use_subcommand -a cluster -d 'the cluster'\n"
           "complete -c fairlead -n __fish_use_subcommand -a backup -d 'backups'\n"
           "complete -c fairlead -n '__fish_seen_subcommand_from get set unset' "
           "-a \"(fairlead get --all 2>/dev/null | awk 'NR > 1 {print \\$1}')\"\n"
           "complete -c fairlead -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n");
    for (size_t i = 0; i < option_count; i++)
        printf("complete -c fairlead -l %s%s -d \"%s\"\n", option_infos[i].name,
               option_infos[i].value ? " -r" : "", option_infos[i].text);
}

int command_completion(struct cli *cli)
{
    const char *shell = cli->argument[0];
    if (strcmp(shell, "bash") == 0) {
        print_bash();
    } else if (strcmp(shell, "zsh") == 0) {
        printf("autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n");
        print_bash();
    } else if (strcmp(shell, "fish") == 0) {
        print_fish();
    } else {
        cli_fail("unknown shell; write bash, zsh or fish");
        return EXIT_USAGE;
    }
    return EXIT_OK;
}
