/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/config.h"
#include "control/daemon.h"
#include "control/force_main.h"
#include "control/kernel.h"
#include "control/manual.h"
#include "control/restore_main.h"

enum { EXIT_USAGE = 2 };

struct options {
    const char *detach; /* an instance */
    const char *config, *state;
    bool check, greet;
    char **argv;
    const char *restore, *passphrase_file;
    bool verify;
    bool force_new, yes;
};

static const char usage[] =
    "usage: fairleadd [--config FILE] [--state DIR] [--check] [--greet]\n"
    "       fairleadd --detach INSTANCE\n"
    "       fairleadd --restore FILE [--verify] [--passphrase-file FILE] [--state DIR]\n"
    "       fairleadd --force-new [--yes] [--config FILE] [--state DIR]\n"
    "\n"
    "The daemon of one Fairlead node: keeps its state and runs its data plane. "
    "Without a file it serves a registry\n"
    "on 127.0.0.1:5000 and its figures on 127.0.0.1:5080.\n"
    "\n"
    "  --config FILE   read this configuration (see fairlead.yaml(5))\n"
    "  --state DIR     keep the state here, whatever the file says\n"
    "  --check         check the configuration and exit\n"
    "  --greet         once it serves, say where things are and what to try\n"
    "  --detach NAME   take this instance's programs out of the kernel and exit\n"
    "  --restore FILE  make a state of this backup, in a folder that is empty or not there, and exit\n"
    "  --verify        read the backup and check it, no more\n"
    "  --force-new     make this node the only voting manager of a cluster that lost its majority, and exit\n"
    "  --yes           of --force-new: do not ask\n"
    "  --passphrase-file FILE  of the backup; else it is the first line of standard input\n"
    "  --version       print the version and exit\n"
    "  --help          print this and exit\n"
    "\n"
    "SIGTERM, SIGINT: drain and stop (twice: at once). SIGHUP: read the "
    "configuration and open the logs again.\n"
    "SIGUSR2: stop, and leave the data plane serving for the next fairleadd.\n";

static int usage_error(const char *text)
{
    fprintf(stderr, "fairleadd: %s; `fairleadd --help` shows the options\n", text);
    return EXIT_USAGE;
}

/* Prints what was wrong. Returns whether the configuration is good. */
static bool read_config(const struct options *options, struct config *config)
{
    struct config_report report = {0};
    bool good = true;
    config_init(config, options->state);
    if (options->config)
        good = config_read(config, options->config, &report) == 0;
    for (size_t i = 0; i < report.count; i++)
        fprintf(stderr, "%s\n", report.lines[i]);
    if (report.more)
        fprintf(stderr, "fairleadd: and %zu more errors\n", report.more);
    config_report_fini(&report);
    if (!good)
        return false;
    if (options->state && config_set_state(config, options->state)) {
        fprintf(stderr, "fairleadd: --state is empty; give it the path of a folder\n");
        return false;
    }
    if (config_fill_paths(config, geteuid() == 0)) {
        fprintf(stderr, "fairleadd: the path of the control socket is too long: %s; set control.socket\n",
                config->control_socket);
        return false;
    }
    return true;
}

static int detach(const char *instance)
{
    char err[KERNEL_WHY_MAX];
    if (!bpf_pins_instance_valid(instance))
        return usage_error(
            "this cannot be the name of an instance; the configuration says it, or it is default");
    if (kernel_detach_instance(instance, err) == 0)
        return 0;
    fprintf(stderr, "fairleadd: %s\n", err);
    return 1;
}

/* What is right, and of no use. */
static void note_unused(const struct config *config)
{
    const struct svc_table *t = &config->services.table;
    char text[SVC_TEXT_MAX];
    for (size_t i = 0; i < t->count; i++)
        if (svc_fields_unused(&t->service[i], text))
            fprintf(stderr, "note: %s\n", text);
}

static int run(const struct options *options)
{
    static struct daemon daemon;
    struct config config;
    if (options->check && !options->config)
        return usage_error("--check needs --config FILE");
    if (!read_config(options, &config)) {
        config_fini(&config);
        return EXIT_USAGE;
    }
    if (options->restore) {
        int code = restore_main(&config, options->restore, options->passphrase_file, options->verify);
        config_fini(&config);
        return code;
    }
    if (options->force_new) {
        int code = force_main(&config, options->yes);
        config_fini(&config);
        return code;
    }
    if (options->check) {
        note_unused(&config);
        printf("%s: configuration OK\n", options->config);
        config_fini(&config);
        return 0;
    }
    int code = daemon_run(&daemon, &config, options->config, options->greet);
    if (!daemon.restart || code)
        return code;
    execv("/proc/self/exe", options->argv);
    fprintf(stderr, "fairleadd: cannot begin anew: %s; start it again\n", strerror(errno));
    return 1;
}

enum {
    OPT_CONFIG = 'c',
    OPT_STATE = 's',
    OPT_HELP = 'h',
    OPT_VERSION = 'V',
    OPT_CHECK = 256,
    OPT_GREET,
    OPT_DETACH,
    OPT_RESTORE,
    OPT_VERIFY,
    OPT_PASSPHRASE,
    OPT_FORCE_NEW,
    OPT_YES,
    OPT_MAN
};

/* Options that say something about what is to be done. */
static bool take_value(struct options *options, int c)
{
    switch (c) {
    case OPT_CONFIG:
        options->config = optarg;
        return true;
    case OPT_STATE:
        options->state = optarg;
        return true;
    case OPT_CHECK:
        options->check = true;
        return true;
    case OPT_GREET:
        options->greet = true;
        return true;
    case OPT_FORCE_NEW:
        options->force_new = true;
        return true;
    case OPT_YES:
        options->yes = true;
        return true;
    case OPT_DETACH:
        options->detach = optarg;
        return true;
    case OPT_RESTORE:
        options->restore = optarg;
        return true;
    case OPT_VERIFY:
        options->verify = true;
        return true;
    case OPT_PASSPHRASE:
        options->passphrase_file = optarg;
        return true;
    default:
        return false;
    }
}

int main(int argc, char **argv)
{
    static const struct option long_options[] = {
        {"config", required_argument, NULL, OPT_CONFIG},
        {"state", required_argument, NULL, OPT_STATE},
        {"check", no_argument, NULL, OPT_CHECK},
        {"greet", no_argument, NULL, OPT_GREET},
        {"detach", required_argument, NULL, OPT_DETACH},
        {"restore", required_argument, NULL, OPT_RESTORE},
        {"verify", no_argument, NULL, OPT_VERIFY},
        {"passphrase-file", required_argument, NULL, OPT_PASSPHRASE},
        {"force-new", no_argument, NULL, OPT_FORCE_NEW},
        {"yes", no_argument, NULL, OPT_YES},
        {"help", no_argument, NULL, OPT_HELP},
        {"version", no_argument, NULL, OPT_VERSION},
        {"print-settings-man", no_argument, NULL, OPT_MAN},
        {NULL, 0, NULL, 0},
    };
    struct options options = {.argv = argv};
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":c:s:hV", long_options, NULL)) != -1;) {
        if (take_value(&options, c))
            continue;
        switch (c) {
        case OPT_HELP:
            fputs(usage, stdout);
            return 0;
        case OPT_VERSION:
            puts("fairleadd " FL_VERSION);
            return 0;
        case OPT_MAN:
            manual_print_settings(stdout);
            return 0;
        case ':':
            return usage_error("an option lacks its value");
        default:
            return usage_error("unknown option");
        }
    }
    if (optind < argc)
        return usage_error("it takes no arguments");
    return options.detach ? detach(options.detach) : run(&options);
}
