/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration's reader: a file is good or has at least one error line that begins with its name; every
 * error fits a line; what is accepted is in range, and no address but loopback is accepted without its
 * `allow_all`.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/config.h"

static void check_accepted(const struct config *config)
{
    CHECK(config->listen_count >= 2 && config->listen_count <= CONFIG_LISTEN_MAX);
    CHECK(config->dataplane_rings <= RINGS_MAX);
    for (size_t i = 0; i < config->listen_count; i++) {
        const struct config_address *a = &config->listen[i];
        struct config_address again;
        const char *hint;
        CHECK(a->allow_all || config_address_is_loopback(a));
        CHECK(config_address_parse(a->text, &again, &hint) == 0 && strcmp(again.text, a->text) == 0);
        for (size_t j = 0; j < i; j++)
            CHECK(strcmp(config->listen[j].text, a->text) != 0);
    }
    for (int i = 0; i < SETTINGS_COUNT; i++) {
        const struct setting_info *info = setting_info(i);
        uint64_t value = config->settings.value[i];
        CHECK(!config->settings.given[i] || (value >= info->min && value <= info->max));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config config;
    struct config_report report = {0};
    config_init(&config, NULL);
    int err = config_parse(&config, "f", (const char *)data, size, &report);
    CHECK((err == 0) == (report.count == 0));
    for (size_t i = 0; i < report.count; i++) {
        CHECK(strncmp(report.lines[i], "f:", 2) == 0);
        CHECK(!strchr(report.lines[i], '\n') && strlen(report.lines[i]) < CONFIG_ERROR_BYTES);
    }
    if (!err)
        check_accepted(&config);
    config_report_fini(&report);
    config_fini(&config);
    return 0;
}
