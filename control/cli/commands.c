/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of `fairlead`: help, completion and the command line go by this table. */
#include "check.h"
#include "control/cli/cli.h"

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
    {"store accept", "", OPTION_YES, "take what is at the store's path now for this node's store",
     "For a disk that was replaced. What it lacks comes from other replicas.", command_store_accept},
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
    {"policy rm", "PREFIX", OPTION_YES | OPTION_FORCE, "remove the policy of a prefix",
     "On a terminal it asks first, unless --yes is given. --force removes one that another node's "
     "configuration "
     "file has set, too; a node that has it still sets it again when it starts.",
     command_policy_rm},
    {"policy retention", "[AFTER]", OPTION_DRY_RUN | OPTION_LIMIT, "tags that retention would remove now",
     "It only looks (--dry-run may be said); the node that leads removes them every "
     "registry.retention_interval. "
     "AFTER: of the repositories behind this one.",
     command_policy_retention},
    {"notify ls", "", 0, "webhooks: what they are told of, how far they are", NULL, command_notify_ls},
    {"notify set", "NAME KEY=VALUE...", 0, "make a webhook, or change fields of one",
     "As in `fairlead notify set ci url=https://ci.example/hook prefix=team actions=push "
     "header.Authorization=@token`.\n"
     "Keys: url, prefix ('*': all), actions (push,delete,mount,pull; without pull if nothing is said), "
     "ignore (of "
     "pulls: head,blob), media_types (patterns, as in *manifest*), header.NAME.\n"
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
    {"mirror rm", "NAME", OPTION_YES | OPTION_FORCE, "remove a rule of mirroring; what it copied stays",
     "On a terminal it asks first, unless --yes is given. --force removes one that another node's "
     "configuration "
     "file has set, too; a node that has it still sets it again when it starts.",
     command_mirror_rm},
    {"mirror run", "NAME", OPTION_DRY_RUN,
     "run a rule now, and wait for the end; --dry-run: say what it would do", NULL, command_mirror_run},
    {"mirror status", "NAME", 0, "a rule, and what its last run did", NULL, command_mirror_status},
    {"source ls", "", 0,
     "registries that repositories are pulled through from, and what is wrong with them on this node", NULL,
     command_source_ls},
    {"source set", "PREFIX KEY=VALUE...", 0,
     "put a registry behind a prefix of repositories, or change fields of one",
     "As in `fairlead source set hub/ backends=registry.example tls=true upstream=library/ "
     "credentials=robot`.\n"
     "Keys: upstream, backends (HOST[:PORT],...) with tls, ca and server_name; or service (one with path: "
     "proxy); push,\n"
     "credentials (a name; each node's configuration says whose password that is), token_server, "
     "redirect_hosts.",
     command_source_set},
    {"source rm", "PREFIX", OPTION_YES | OPTION_FORCE,
     "remove a source; what came from there stays and is served",
     "On a terminal it asks first, unless --yes is given. --force removes one that another node's "
     "configuration "
     "file has set, too; a node that has it still sets it again when it starts.",
     command_source_rm},
    {"source test", "PREFIX|REPOSITORY[:TAG]", 0,
     "ask the registry behind a prefix, from this node, and say what it answers",
     "Of a repository of ours it is asked for the manifest's head; nothing is fetched. It fails if the "
     "registry does not let "
     "this node in, or does not have it.",
     command_source_test},
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
