/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "check.h"
#include "control/config.h"

static int parse(struct config *config, const char *text, struct config_report *report)
{
    config_init(config, NULL);
    memset(report, 0, sizeof(*report));
    return config_parse(config, "f.yaml", text, strlen(text), report);
}

static void test_defaults(void **state)
{
    (void)state;
    struct config config;
    struct config_report report;
    static const char *const empty[] = {"", "\n", "# nothing\n"};
    for (size_t i = 0; i < ARRAY_SIZE(empty); i++) {
        assert_int_equal(parse(&config, empty[i], &report), 0);
        assert_string_equal(config.state_dir, "/var/lib/fairlead");
        assert_int_equal(config.listen_count, 2);
        assert_string_equal(config.listen[0].text, "127.0.0.1:5000");
        assert_int_equal(config.listen[0].service, SERVICE_REGISTRY);
        assert_string_equal(config.listen[1].text, "127.0.0.1:5080");
        assert_int_equal(config.listen[1].service, SERVICE_ADMIN);
        assert_int_equal(config_fill_paths(&config, true), 0);
        assert_string_equal(config.control_socket, "/run/fairlead/control.sock");
        config_fini(&config);
    }
}

static void test_everything(void **state)
{
    (void)state;
    static const char text[] = "state: /srv/fairlead\n"
                               "run: /run/x\n"
                               "listen:\n"
                               "  - address: 0.0.0.0:5000\n"
                               "    service: registry\n"
                               "    allow_all: true\n"
                               "  - {address: \"[::1]:5000\", service: registry}\n"
                               "admin: {address: 127.0.0.1:6000}\n"
                               "control: {socket: /run/x/c.sock, group: ops}\n"
                               "dataplane: {user: dp, rings: 3, binary: /opt/dp}\n"
                               "log: {access: none, error: /var/log/x}\n"
                               "settings:\n"
                               "  http.idle_timeout: 90s\n"
                               "  store.sync: false\n";
    struct config config;
    struct config_report report;
    assert_int_equal(parse(&config, text, &report), 0);
    assert_string_equal(config.state_dir, "/srv/fairlead");
    assert_int_equal(config.listen_count, 3);
    assert_string_equal(config.listen[0].text, "0.0.0.0:5000");
    assert_true(config.listen[0].allow_all);
    assert_string_equal(config.listen[1].text, "[::1]:5000");
    assert_int_equal(config.listen[1].addr.ss_family, AF_INET6);
    assert_string_equal(config.listen[2].text, "127.0.0.1:6000");
    assert_int_equal(config.listen[2].service, SERVICE_ADMIN);
    assert_string_equal(config.control_socket, "/run/x/c.sock");
    assert_string_equal(config.control_group, "ops");
    assert_string_equal(config.dataplane_user, "dp");
    assert_int_equal(config.dataplane_rings, 3);
    assert_string_equal(config.log_access, "none");
    assert_int_equal(config.settings.value[SET_HTTP_IDLE_TIMEOUT], 90000);
    assert_true(config.settings.given[SET_STORE_SYNC]);
    assert_false(config.settings.given[SET_LOG_RATE]);
    config_fini(&config);
}

/* A file and the lines that it must give, in order. */
static const struct {
    const char *text;
    const char *lines[4];
} bad[] = {
    {"stat: /x\n", {"f.yaml:1:1: unknown key 'stat' in the file; did you mean 'state'?"}},
    {"zzzzzzz: 1\n",
     {"f.yaml:1:1: unknown key 'zzzzzzz' in the file; the keys are state, run, listen, admin, control"}},
    {"state: /a\nrun: /b\nstate: /c\n",
     {"f.yaml:3:1: 'state' is given twice, first in line 1; remove one of them"}},
    {"state: [a]\n", {"f.yaml:1:8: expected a value here but it is a list; write the path of a folder"}},
    {"state:\n", {"f.yaml:1:7: expected a value here but it is empty; write the path of a folder"}},
    {"state: \"a\\0b\"\n",
     {"f.yaml:1:8: the value has a control character in it; write the path of a folder"}},
    {"- a\n- b\n",
     {"f.yaml:1:1: the file must be a mapping but is a list; write 'key: value' lines under it"}},
    {"{a: b}: c\n", {"f.yaml:1:1: a key must be a word but is a mapping; write 'key: value'"}},
    {"listen: 127.0.0.1:5000\n",
     {"f.yaml:1:9: listen must be a list but is a single value; write '- address:"}},
    {"listen: []\n", {"f.yaml:1:9: listen names no address; write one, or leave it out for 127.0.0.1:5000"}},
    {"listen:\n- address: 127.0.0.1:5000\n",
     {"f.yaml:2:3: the entry has no service; write 'service: registry'"}},
    {"listen:\n- service: registry\n",
     {"f.yaml:2:3: the entry has no address; write 'address: 127.0.0.1:5000'"}},
    {"listen:\n- service: docker\n  address: 127.0.0.1:1\n",
     {"f.yaml:2:12: 'docker' is not a service; write registry"}},
    {"listen:\n- {service: registry, address: localhost:5000}\n",
     {"f.yaml:2:32: 'localhost:5000' is not an address; write an IP address and a port from 1 to 65535"}},
    {"listen:\n- {service: registry, address: \"::1:5000\"}\n",
     {"f.yaml:2:32: '::1:5000' is not an address; write an IP"}},
    {"listen:\n- {service: registry, address: 127.0.0.1:65536}\n",
     {"f.yaml:2:32: '127.0.0.1:65536' is not an address"}},
    {"listen:\n- {service: registry, address: 127.0.0.1:0}\n",
     {"f.yaml:2:32: '127.0.0.1:0' is not an address"}},
    {"listen:\n- {service: registry, address: \"[::ffff:127.0.0.1]:80\"}\n",
     {"f.yaml:2:32: '[::ffff:127.0.0.1]:80' is not an address; write the IPv4 address in its own form"}},
    {"listen:\n- {service: registry, address: \"[::1:80\"}\n", {"f.yaml:2:32: '[::1:80' is not an address"}},
    {"listen:\n- {service: registry, address: 0.0.0.0:5000}\n",
     {"f.yaml:2:32: 0.0.0.0:5000 can be reached from other machines, and everybody there could push, pull "
      "and "
      "delete; write 'allow_all: true' beside it if that is meant, or a loopback address such as "
      "127.0.0.1:5000"}},
    {"listen:\n- {service: registry, address: \"[::]:5000\", allow_all: false}\n",
     {"f.yaml:2:32: [::]:5000 can be reached from other machines"}},
    {"listen:\n- {service: registry, address: 10.0.0.1:5000, allow_all: yes}\n",
     {"f.yaml:2:58: 'yes' is neither true nor false; write one of them",
      "f.yaml:2:32: 10.0.0.1:5000 can be reached from other machines"}},
    {"listen:\n- {service: registry, address: 127.0.0.1:5000}\n- {service: registry, address: "
     "127.0.0.1:5000}\n",
     {"f.yaml:3:32: 127.0.0.1:5000 is listed twice; remove one of them"}},
    {"admin: {address: 127.0.0.1:5000}\n",
     {"f.yaml:1:18: 127.0.0.1:5000 is listed twice; remove one of them"}},
    {"admin: {address: 192.0.2.1:5080}\n",
     {"f.yaml:1:18: 192.0.2.1:5080 can be reached from other machines, and "
      "everybody there could read the node's figures"}},
    {"admin: {}\n", {"f.yaml:1:8: admin has no address; write 'address: 127.0.0.1:5080'"}},
    {"dataplane: {rings: 0}\n",
     {"f.yaml:1:20: '0' is not a number of rings; write auto or a number from 1 to 64"}},
    {"dataplane: {rings: -1}\n", {"f.yaml:1:20: '-1' is not a number of rings"}},
    {"dataplane: {rings: 2x}\n", {"f.yaml:1:20: '2x' is not a number of rings"}},
    {"settings:\n  http.idle_timout: 5s\n",
     {"f.yaml:2:3: unknown setting 'http.idle_timout'; did you mean 'http.idle_timeout'?"}},
    {"settings:\n  qqqqqqqqqqqqqqq: 5s\n",
     {"f.yaml:2:3: unknown setting 'qqqqqqqqqqqqqqq'; `man fairlead.yaml` lists them"}},
    {"settings:\n  http.idle_timeout: 5\n",
     {"f.yaml:2:22: http.idle_timeout: '5' is not a value of this setting; write"}},
    {"settings:\n  http.idle_timeout: 5d\n",
     {"f.yaml:2:22: http.idle_timeout: '5d' is out of range; write a value from 100ms to 1d"}},
    {"settings:\n  http.idle_timeout: {a: b}\n", {"f.yaml:2:22: expected a value here but it is a mapping"}},
    {"settings: 5\n", {"f.yaml:1:11: settings must be a mapping but is a single value"}},
    {"a: b: c\n", {"f.yaml:1:5: the file is not YAML: mapping values are not allowed in this context"}},
    {"state: \"x\n", {"f.yaml:2:1: the file is not YAML: found unexpected end of stream"}},
    {"\tstate: x\n", {"f.yaml:1:1: the file is not YAML: found character that cannot start any token"}},
    {"state: /a\n---\nstate: /b\n", {"f.yaml:3:1: a second document begins here; keep one"}},
    {"services:\n- {name: a, address: \"127.0.0.1:5000\", path: proxy}\n",
     {"f.yaml:1:1: service 'a' has the address 127.0.0.1:5000, which this node itself listens on"}},
    {"services:\n- {name: a, address: \"10.0.0.1:80\", path: proxy, queue: {maxx: 1}}\n",
     {"f.yaml:2:58: unknown key 'maxx' of a service; did you mean 'max'?"}},
    {"dataplane: {groups: docker}\n", {"f.yaml:1:21: dataplane.groups must be a list"}},
    {"sate: a\nlog: {acess: x}\nsettings: {log.rate: 0}\n",
     {"f.yaml:1:1: unknown key 'sate'", "f.yaml:2:7: unknown key 'acess' in log; did you mean 'access'?",
      "f.yaml:3:22: log.rate: '0' is out of range"}},
};

static void test_services(void **state)
{
    (void)state;
    static const char text[] =
        "takeover: [n2, self]\n"
        "services:\n"
        "  - address: 10.0.0.2:80\n"
        "    backends: [{address: 10.0.1.2:80}, {name: a, address: 10.0.1.1:80, weight: 256}]\n"
        "    check: {path: /x, interval: 5ms}\n"
        "    kind: docker\n"
        "    name: web\n"
        "    steer: no\n"
        "    edge: nat\n"
        "  - {name: api, address: \"[fd00::1]:443\", backends: []}\n"
        "peers:\n"
        "  - {name: n1, address: \"fd00::9\", interval: 10ms, multiplier: 5, multihop: true}\n"
        "  - {name: n2, address: 10.0.0.9, node_id: 7}\n";
    struct config config;
    struct config_report report;
    struct config_services copy;
    assert_int_equal(parse(&config, text, &report), 0);
    config_services_copy(&copy, &config.services);
    config_fini(&config);
    assert_int_equal(copy.table.count, 2);
    const struct svc *web = svc_find(&copy.table, "web"), *api = svc_find(&copy.table, "api");
    assert_true(web && api && web->origin == SVC_FROM_FILE && web->edge == SVC_EDGE_NAT && !web->steer);
    /* The kind's defaults, whatever the order, and what is said beside it. */
    assert_int_equal(web->check.kind, SVC_CHECK_HTTP);
    assert_string_equal(web->check.path, "/x");
    assert_int_equal(web->check.interval_ms, 5);
    assert_int_equal(api->check.kind, SVC_CHECK_TCP);
    assert_int_equal(web->backends, 2);
    assert_int_equal(api->backends, 0);
    assert_int_equal(svc_find_backend(&copy.table, web, "a")->weight, 256);
    assert_non_null(svc_find_backend(&copy.table, web, "10.0.1.2:80"));
    assert_int_equal(copy.peer_count, 2);
    assert_true(copy.peer[0].multihop && copy.peer[0].interval_ms == 10 && copy.peer[0].multiplier == 5);
    assert_int_equal(copy.peer[1].node_id, 7);
    assert_int_equal(copy.takeover.count, 2);
    assert_int_equal(copy.takeover.candidate[0], 1);
    assert_int_equal(copy.takeover.candidate[1], KERNEL_SELF);
    assert_false(copy.takeover.none);
    config_services_fini(&copy);
    assert_int_equal(parse(&config, "takeover: false\n", &report), 0);
    assert_true(config.services.takeover.none && config.services.takeover.count == 0);
    config_fini(&config);
}

/* Groups of fields as mappings, with dots, or by their first one alone; lists; Unix sockets. */
static void test_proxied_services(void **state)
{
    (void)state;
    static const char text[] =
        "dataplane: {groups: [docker, kube]}\n"
        "certificates: {hub: {cert: /c, key: /k}, other: {cert: /c, key: /k}, ours: {ca: /a}}\n"
        "services:\n"
        "  - name: hub\n"
        "    address: \"[fd00::2]:5000\"\n"
        "    kind: registry\n"
        "    path: proxy\n"
        "    tls: {mode: terminate, certificates: [hub, other], client_auth: required, client_ca: ours}\n"
        "    backend: {tls: true, ca: ours, http: 2}\n"
        "    queue: {max: 5, timeout: 1s}\n"
        "    retry_budget: 50\n"
        "    backends: [{address: \"10.99.1.1:80\"}, {address: \"[fd00::9]:81\"}]\n"
        "  - name: dock\n"
        "    address: 127.0.0.1:2375\n"
        "    kind: docker\n"
        "    path: proxy\n"
        "    forwarded: rfc7239\n"
        "    queue.max: 9\n"
        "    backends: [{address: unix:/run/docker.sock}]\n";
    struct config config;
    struct config_report report;
    if (parse(&config, text, &report))
        fail_msg("%s", report.lines[0]);
    assert_int_equal(config.dataplane_group_count, 2);
    assert_string_equal(config.dataplane_group[1], "kube");
    const struct svc_table *t = &config.services.table;
    const struct svc *hub = svc_find(t, "hub"), *dock = svc_find(t, "dock");
    assert_int_equal(hub->tls.mode, PLAN_TLS_TERMINATE);
    assert_int_equal(hub->tls.certificate_count, 2);
    assert_string_equal(hub->tls.certificate[1], "other");
    assert_string_equal(hub->tls.client_ca, "ours");
    assert_int_equal(hub->proxy.backend_http, 2);
    assert_int_equal(hub->proxy.queue_max, 5);
    assert_int_equal(hub->proxy.queue_timeout_ms, 1000);
    assert_int_equal(hub->proxy.retry_budget, 50);
    assert_int_equal(hub->backends, 2);
    assert_int_equal(dock->proxy.forwarded, PROXY_FORWARDED_RFC7239);
    assert_int_equal(dock->proxy.queue_max, 9);
    assert_int_equal(dock->proxy.idle_timeout_ms, 0);
    assert_string_equal(svc_find_backend(t, dock, "run.docker.sock")->unix_path, "/run/docker.sock");
    config_fini(&config);
}

static void test_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct config config;
        struct config_report report;
        size_t expected = 0;
        assert_int_not_equal(parse(&config, bad[i].text, &report), 0);
        while (expected < ARRAY_SIZE(bad[i].lines) && bad[i].lines[expected])
            expected++;
        for (size_t line = 0; line < report.count && line < expected; line++) {
            if (strncmp(report.lines[line], bad[i].lines[line], strlen(bad[i].lines[line])) != 0)
                fail_msg("row %zu: got  %s\n want %s", i, report.lines[line], bad[i].lines[line]);
        }
        if (report.count != expected)
            fail_msg("row %zu: %zu lines, not %zu: %s", i, report.count, expected,
                     report.lines[report.count - 1]);
        config_fini(&config);
        config_report_fini(&report);
    }
}

static void test_cluster(void **state)
{
    (void)state;
    struct config config;
    struct config_report report;
    assert_int_equal(parse(&config, "state: /x\n", &report), 0);
    assert_int_equal(config.cluster.listen_count, 0);
    assert_int_equal(config.cluster.advertise.addr_len, 0);
    config_fini(&config);
    config_report_fini(&report);
    assert_int_equal(parse(&config,
                           "cluster: {name: node-a, listen: ['192.0.2.1:5010', '[2001:db8::1]:5010']}\n",
                           &report),
                     0);
    assert_int_equal(config.cluster.listen_count, 2);
    assert_string_equal(config.cluster.name, "node-a");
    assert_string_equal(config.cluster.advertise.text, "192.0.2.1:5010");
    assert_string_equal(config.cluster.data_advertise.text, "192.0.2.1:5011");
    config_fini(&config);
    config_report_fini(&report);
    assert_int_equal(parse(&config,
                           "cluster: {listen: ['0.0.0.0:5010'], advertise: '[2001:db8::1]:65535', "
                           "data_advertise: '192.0.2.1:7'}\n",
                           &report),
                     0);
    assert_string_equal(config.cluster.advertise.text, "[2001:db8::1]:65535");
    assert_string_equal(config.cluster.data_advertise.text, "192.0.2.1:7");
    config_fini(&config);
    config_report_fini(&report);
    static const char *const wrong[][2] = {
        {"cluster: {listen: ['0.0.0.0:5010']}\n", "write 'advertise: "},
        {"cluster: {listen: ['[::]:5010']}\n", "write 'advertise: "},
        {"cluster: {listen: ['192.0.2.1:5010'], advertise: '0.0.0.0:1'}\n", "no address at which others"},
        {"cluster: {advertise: '192.0.2.1:5010'}\n", "listens nowhere"},
        {"cluster: {name: '-a'}\n", "cannot name a node"},
        {"cluster: {listen: '192.0.2.1:5010'}\n", "must be a list"},
        {"cluster: {listen: [here]}\n", "is not an address"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        assert_int_not_equal(parse(&config, wrong[i][0], &report), 0);
        assert_non_null(strstr(report.lines[0], wrong[i][1]));
        config_fini(&config);
        config_report_fini(&report);
    }
}

static void test_errors_are_bounded(void **state)
{
    (void)state;
    char text[64 * 100] = "";
    for (int i = 0; i < 100; i++)
        snprintf(text + strlen(text), 64, "key%d: 1\n", i);
    struct config config;
    struct config_report report;
    assert_int_not_equal(parse(&config, text, &report), 0);
    assert_int_equal(report.count, CONFIG_ERRORS_MAX);
    assert_int_equal(report.more, 100 - CONFIG_ERRORS_MAX);
    config_fini(&config);
    config_report_fini(&report);
}

static void test_files(void **state)
{
    (void)state;
    struct config config;
    struct config_report report = {0};
    config_init(&config, "/x");
    assert_int_not_equal(config_read(&config, "/nonexistent/f.yaml", &report), 0);
    assert_non_null(
        strstr(report.lines[0], "/nonexistent/f.yaml:1:1: cannot read the configuration: No such file"));
    config_report_fini(&report);
    assert_int_not_equal(config_read(&config, "/", &report), 0);
    config_report_fini(&report);
    assert_int_not_equal(config_read(&config, "/dev/zero", &report), 0);
    assert_non_null(strstr(report.lines[0], "more than"));
    config_report_fini(&report);
    config_fini(&config);
}

static void test_socket_path_fits(void **state)
{
    (void)state;
    char dir[200];
    memset(dir, 'd', sizeof(dir) - 1);
    dir[sizeof(dir) - 1] = '\0';
    struct config config;
    config_init(&config, dir);
    assert_int_not_equal(config_fill_paths(&config, false), 0);
    config_fini(&config);
    config_init(&config, "/x");
    assert_int_equal(config_fill_paths(&config, false), 0);
    assert_string_equal(config.control_socket, "/x/run/control.sock");
    config_fini(&config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),         cmocka_unit_test(test_everything),
        cmocka_unit_test(test_services),         cmocka_unit_test(test_proxied_services),
        cmocka_unit_test(test_errors),           cmocka_unit_test(test_errors_are_bounded),
        cmocka_unit_test(test_cluster),          cmocka_unit_test(test_files),
        cmocka_unit_test(test_socket_path_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
