/* SPDX-License-Identifier: Apache-2.0 */
/* Settings: texts in the private file. What a value means is the daemon's affair. */
#include "state_internal.h"

size_t state_setting_key(uint8_t *out, const char *key, size_t len)
{
    static const char prefix[] = "setting:";
    size_t prefix_len = sizeof(prefix) - 1;
    CHECK(len <= STATE_SETTING_KEY_MAX);
    memcpy(out, prefix, prefix_len);
    memcpy(out + prefix_len, key, len);
    return prefix_len + len;
}

static struct state_key setting_key(const struct state_cmd *cmd)
{
    struct state_key key;
    key.len = state_setting_key(key.data, cmd->key.data, cmd->key.len);
    return key;
}

int state_setting_set(struct kv *kv, struct state_event *out)
{
    struct state_key key = setting_key(&out->cmd);
    struct state_text value = out->cmd.value;
    struct kv_bytes old;
    int rc = kv_get(kv, PRIVATE_DATA, state_key_bytes(&key), &old);
    if (rc && rc != -ENOENT)
        return rc;
    if (rc == 0 && old.len == value.len && (value.len == 0 || memcmp(old.data, value.data, value.len) == 0))
        return 0;
    out->changed = true;
    return state_row_put(kv, PRIVATE_DATA, &key, value.data, value.len);
}

int state_setting_unset(struct kv *kv, struct state_event *out)
{
    struct state_key key = setting_key(&out->cmd);
    int rc = kv_del(kv, PRIVATE_DATA, state_key_bytes(&key));
    if (rc == -ENOENT)
        return 0;
    out->changed = rc == 0;
    return rc;
}
