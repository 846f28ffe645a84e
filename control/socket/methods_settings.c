/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "check.h"
#include "control/daemon.h"
#include "control/settings.h"
#include "control/socket/methods.h"
#include "control/socket/propose.h"
#include "control/socket/server.h"

static json_t *setting_row(const struct daemon *d, int id)
{
    const struct setting_info *info = setting_info(id);
    enum setting_source source;
    char value[SETTING_TEXT_MAX], initial[SETTING_TEXT_MAX], lowest[SETTING_TEXT_MAX],
        highest[SETTING_TEXT_MAX];
    uint64_t number = setting_effective(&d->settings, id, &source);
    setting_format(id, number, value);
    setting_format(id, info->def, initial);
    setting_format(id, info->min, lowest);
    setting_format(id, info->max, highest);
    json_t *row =
        json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:s, s:s, s:s}", "key", info->name, "value", value,
                  "number", (json_int_t)number, "source", setting_source_name(source), "default", initial,
                  "min", lowest, "max", highest, "type", setting_type_name(info->type), "text", info->text);
    CHECK(row);
    return row;
}

/* The id of a key, or -1 after the call was answered. */
static int find_key(struct rpc_call *call, const char *key)
{
    int id = setting_find(key, strlen(key));
    if (id >= 0)
        return id;
    const char *near = setting_suggest(key, strlen(key));
    char hint[128] = "`fairlead get --all` lists the settings";
    if (near)
        snprintf(hint, sizeof(hint), "did you mean '%s'?", near);
    rpc_fail(call, RPC_NOT_FOUND, hint, "there is no setting '%.64s'", key);
    return -1;
}

void method_settings_get(void *context, struct rpc_call *call, json_t *params)
{
    const char *key;
    if (!rpc_params(call, params, "{s:s}", "key", &key))
        return;
    int id = find_key(call, key);
    if (id >= 0)
        rpc_reply(call, setting_row(context, id));
}

void method_settings_list(void *context, struct rpc_call *call, json_t *params)
{
    json_t *rows = json_array();
    if (!rpc_params(call, params, "{}")) {
        json_decref(rows);
        return;
    }
    for (int i = 0; i < SETTINGS_COUNT; i++)
        json_array_append_new(rows, setting_row(context, i));
    rpc_reply(call, json_pack("{s:o}", "settings", rows));
}

/* The entry was applied here before it is answered, so the newest plan holds its value. */
static void on_committed(struct daemon *d, struct rpc_call *call, json_t *result)
{
    const char *key = json_string_value(json_object_get(result, "key"));
    json_t *row = setting_row(d, setting_find(key, strlen(key)));
    json_object_update_missing(result, row);
    json_decref(row);
    json_object_set_new(result, "generation", json_integer((json_int_t)d->generation));
    server_reply_applied(d->server, call, result, d->generation);
}

/* Proposes a set or an unset; the answer has the row as it is then, and what the value was. */
static void change(struct daemon *d, struct rpc_call *call, int id, enum cmd_type type, const char *text)
{
    enum setting_source source;
    char previous[SETTING_TEXT_MAX];
    const char *name = setting_info(id)->name;
    setting_format(id, setting_effective(&d->settings, id, &source), previous);
    propose_texts(d, call, type, name, text, json_pack("{s:s, s:s}", "key", name, "previous", previous),
                  on_committed);
}

void method_settings_set(void *context, struct rpc_call *call, json_t *params)
{
    const char *key, *text;
    char err[SETTING_ERROR_MAX], canonical[SETTING_TEXT_MAX];
    uint64_t value;
    if (!rpc_params(call, params, "{s:s, s:s}", "key", &key, "value", &text))
        return;
    int id = find_key(call, key);
    if (id < 0)
        return;
    if (setting_parse(id, text, strlen(text), &value, err, sizeof(err))) {
        rpc_fail(call, RPC_INVALID_PARAMS, setting_info(id)->text, "%s", err);
        return;
    }
    setting_format(id, value, canonical);
    change(context, call, id, CMD_SETTING_SET, canonical);
}

void method_settings_unset(void *context, struct rpc_call *call, json_t *params)
{
    const char *key;
    if (!rpc_params(call, params, "{s:s}", "key", &key))
        return;
    int id = find_key(call, key);
    if (id >= 0)
        change(context, call, id, CMD_SETTING_UNSET, NULL);
}
