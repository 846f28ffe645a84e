/* SPDX-License-Identifier: Apache-2.0 */
/* Policies set and removed, repositories made without a push, and tags that retention removes. */
#include "state_policy.h"

#include <stdlib.h>

static bool has_totals(const struct names_policy *p)
{
    return policy_says(p, POLICY_TOTAL_BYTES) || policy_says(p, POLICY_TOTAL_TAGS);
}

static int use_drop(struct kv *kv, const char *prefix)
{
    struct state_key key = state_key_policy('U', prefix, strlen(prefix));
    int rc = kv_del(kv, NAMES_POLICIES, state_key_bytes(&key));
    return rc == -ENOENT ? 0 : rc;
}

/* The sum of what is there is made when a policy gets its first total, and kept from then on. */
static int use_begin(struct kv *kv, const char *prefix)
{
    struct names_policy_use use;
    struct state_key key = state_key_policy('U', prefix, strlen(prefix));
    int rc = state_use_count(kv, prefix, &use);
    return rc ? rc : state_row_put(kv, NAMES_POLICIES, &key, &use, sizeof(use));
}

/* 0, -ENOENT if there is no policy of the prefix, -errno. */
static int policy_drop(struct kv *kv, const char *prefix)
{
    struct state_key key = state_key_policy('P', prefix, strlen(prefix));
    int rc = kv_del(kv, NAMES_POLICIES, state_key_bytes(&key));
    return rc ? rc : use_drop(kv, prefix);
}

static void prefix_take(struct state_text text, char out[REPO_NAME_MAX + 1])
{
    CHECK(text.len <= REPO_NAME_MAX);
    if (text.len)
        memcpy(out, text.data, text.len);
    out[text.len] = '\0';
}

static void prefix_next(struct wire_reader *r, char out[REPO_NAME_MAX + 1])
{
    struct state_text text;
    text.data = (const char *)wire_get_bytes(r, &text.len);
    prefix_take(text, out);
}

static int policy_row(struct kv *kv, const char *prefix, struct names_policy *row)
{
    struct state_key key = state_key_policy('P', prefix, strlen(prefix));
    return state_row_get(kv, NAMES_POLICIES, &key, row, sizeof(*row));
}

/* What the configuration file says, only the file changes. 0, -EPERM (refused), -errno. */
static int declared_check(struct kv *kv, const char *prefix, struct state_event *out)
{
    struct names_policy row;
    int rc = out->cmd.origin == POLICY_FROM_FILE ? -ENOENT : policy_row(kv, prefix, &row);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    if (row.origin != POLICY_FROM_FILE)
        return 0;
    state_refuse_format(out, CMD_DECLARED, "the policy of '%s' is set in the configuration file",
                        policy_prefix_text(prefix));
    return -EPERM;
}

static int declared_check_all(struct kv *kv, struct state_event *out)
{
    struct wire_reader gone = out->cmd.prefixes, set = out->cmd.policies;
    char prefix[REPO_NAME_MAX + 1];
    struct policy p;
    int rc = 0;
    for (uint32_t i = 0; i < out->cmd.prefixes_count && rc == 0; i++) {
        prefix_next(&gone, prefix);
        rc = declared_check(kv, prefix, out);
    }
    for (uint32_t i = 0; i < out->cmd.policies_count && rc == 0; i++) {
        policy_get(&set, &p);
        rc = declared_check(kv, p.prefix, out);
    }
    return rc;
}

/* Whether the policies are what the command takes them to be. 0, -EPERM (refused), -errno. */
static int revisions_check(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct wire_reader r = cmd->policies;
    struct policy p;
    struct names_policy row;
    for (uint32_t i = 0; i < cmd->policies_count && cmd->revision != CMD_REVISION_ANY; i++) {
        policy_get(&r, &p);
        int rc = policy_row(kv, p.prefix, &row);
        if (rc && rc != -ENOENT)
            return rc;
        if ((rc == -ENOENT && cmd->revision == 0) || (rc == 0 && row.revision == cmd->revision))
            continue;
        state_refuse_format(out, CMD_CONFLICT, "the policy of '%s' was changed meanwhile; look and try again",
                            policy_prefix_text(p.prefix));
        return -EPERM;
    }
    return 0;
}

static int policy_write(struct kv *kv, struct state_event *out, struct policy *p)
{
    struct state_key key = state_key_policy('P', p->prefix, strlen(p->prefix));
    struct policy old;
    policy_init(&old);
    memcpy(old.prefix, p->prefix, sizeof(old.prefix));
    int rc = policy_row(kv, p->prefix, &old.rules);
    if (rc && rc != -ENOENT)
        return rc;
    p->rules.origin = out->cmd.origin;
    if (rc == 0 && policy_same(&old, p) && old.rules.origin == p->rules.origin)
        return 0;
    bool counted = rc == 0 && has_totals(&old.rules);
    p->rules.created_ms = rc == 0 ? old.rules.created_ms : out->cmd.head.time_ms;
    p->rules.updated_ms = out->cmd.head.time_ms;
    p->rules.revision = out->index;
    out->changed = true;
    rc = state_row_put(kv, NAMES_POLICIES, &key, &p->rules, sizeof(p->rules));
    if (rc == 0 && has_totals(&p->rules) && !counted)
        rc = use_begin(kv, p->prefix);
    if (rc == 0 && counted && !has_totals(&p->rules))
        rc = use_drop(kv, p->prefix);
    return rc;
}

/* One that is not there, or (where the file speaks) is not the file's, stays as it is. */
static int policy_go(struct kv *kv, const char *prefix, struct state_event *out)
{
    struct names_policy row;
    int rc = policy_row(kv, prefix, &row);
    if (rc == 0 && out->cmd.origin == POLICY_FROM_FILE && row.origin != POLICY_FROM_FILE)
        return 0;
    if (rc == 0)
        rc = policy_drop(kv, prefix);
    out->changed |= rc == 0;
    return rc == -ENOENT ? 0 : rc;
}

int state_policy_set(struct kv *kv, struct state_event *out)
{
    const struct state_cmd *cmd = &out->cmd;
    struct wire_reader gone = cmd->prefixes, set = cmd->policies;
    char prefix[REPO_NAME_MAX + 1];
    struct policy p;
    int rc = revisions_check(kv, out);
    if (rc == 0)
        rc = declared_check_all(kv, out);
    if (rc)
        return rc == -EPERM ? 0 : rc;
    for (uint32_t i = 0; i < cmd->prefixes_count && rc == 0; i++) {
        prefix_next(&gone, prefix);
        rc = policy_go(kv, prefix, out);
    }
    for (uint32_t i = 0; i < cmd->policies_count && rc == 0; i++) {
        policy_get(&set, &p);
        rc = policy_write(kv, out, &p);
    }
    return rc;
}

int state_policy_rm(struct kv *kv, struct state_event *out)
{
    char prefix[REPO_NAME_MAX + 1];
    prefix_take(out->cmd.repo, prefix);
    int rc = declared_check(kv, prefix, out);
    if (rc)
        return rc == -EPERM ? 0 : rc;
    rc = policy_drop(kv, prefix);
    if (rc == -ENOENT)
        return state_refuse_format(out, CMD_POLICY_UNKNOWN, "there is no policy of '%s'",
                                   policy_prefix_text(prefix));
    out->changed = rc == 0;
    return rc;
}

int state_repo_create(struct kv *kv, struct state_event *out)
{
    struct state_key key = state_key_repo(out->cmd.repo);
    struct policy_rules rules;
    struct names_repo repo;
    int rc = state_rules_change(kv, out, &rules);
    if (rc)
        return rc == -EPERM ? 0 : rc;
    rc = state_row_exists(kv, NAMES_REPOS, &key);
    if (rc != -ENOENT)
        return rc;
    rc = state_repo_open(kv, &out->cmd, &repo);
    return rc ? rc : state_repo_save(kv, &repo, out);
}

/* The next tag of the command, and what it was when it was chosen. */
static struct state_text expired_next(struct wire_reader *r, struct digest *d, uint64_t *time_ms)
{
    struct state_text tag;
    tag.data = (const char *)wire_get_bytes(r, &tag.len);
    cmd_get_digest(r, d);
    *time_ms = wire_get_u64(r);
    return tag;
}

int state_tags_expire(struct kv *kv, struct state_event *out)
{
    struct state_cmd *cmd = &out->cmd;
    struct wire_reader r = cmd->expired;
    struct policy_rules rules;
    struct names_repo repo;
    uint32_t gone = 0;
    int rc = state_rules_change(kv, out, &rules);
    if (rc == 0)
        rc = state_repo_need(kv, cmd, &repo, out);
    if (rc)
        return rc == -EPERM || rc == -ENOENT ? 0 : rc;
    if (rules.p.keep_last != cmd->keep_last || rules.p.keep_for_s != cmd->keep_for_s)
        return state_refuse_text(out, CMD_CONFLICT, "another retention holds than these tags were chosen by");
    for (uint32_t i = 0; i < cmd->expired_count; i++) {
        struct digest d;
        uint64_t time_ms;
        struct state_text tag = expired_next(&r, &d, &time_ms);
        if (!policy_retains(&rules.p, tag.data, tag.len))
            continue;
        rc = state_tag_drop(kv, cmd->repo, tag, &d, time_ms, &repo);
        if (rc < 0)
            return rc;
        /* The event names those that are gone. */
        if (rc)
            cmd->tags[gone++] = tag;
    }
    cmd->tags_count = gone;
    return gone ? state_repo_save(kv, &repo, out) : 0;
}

int state_policy_rules(struct kv *kv, const char *repo, struct policy_rules *out)
{
    return state_rules_get(kv, (struct state_text){repo, strlen(repo)}, out);
}

int state_policies_read(struct kv *kv, struct policy_table *out, struct names_policy_use **use)
{
    struct state_key at = {.data = "P", .len = 1};
    struct kv_bytes key, value;
    struct policy p;
    int rc;
    *out = (struct policy_table){.count = 0};
    if (use)
        *use = NULL;
    for (bool after = false;
         (rc = kv_seek(kv, NAMES_POLICIES, state_key_bytes(&at), after, &key, &value)) == 0; after = true) {
        const char *text = key.data;
        if (text[0] != 'P')
            break;
        if (key.len > POLICY_KEY_MAX || value.len < sizeof(p.rules))
            return -EUCLEAN;
        policy_init(&p);
        memcpy(p.prefix, text + 1, key.len - 1);
        memcpy(&p.rules, value.data, sizeof(p.rules));
        memcpy(at.data, key.data, key.len);
        at.len = key.len;
        policy_table_add(out, &p);
        if (!use)
            continue;
        *use = reallocarray(*use, out->count, sizeof(**use));
        CHECK(*use);
        struct state_key mine = state_key_policy('U', p.prefix, strlen(p.prefix));
        memset(&(*use)[out->count - 1], 0, sizeof(**use));
        (void)state_row_get(kv, NAMES_POLICIES, &mine, &(*use)[out->count - 1], sizeof(**use));
    }
    return rc == -ENOENT ? 0 : rc;
}

struct policy_cmd {
    const char *actor, *source;
    uint64_t revision;
    const char *const *gone;
    size_t gone_count;
    const struct policy *set;
    size_t set_count;
    enum policy_origin origin;
};

static void *cmd_make(const struct policy_cmd *c, size_t *len)
{
    size_t cap = 1024 + (c->gone_count + c->set_count) * 1024;
    struct wire_writer w = {.buf = malloc(cap), .cap = cap};
    struct cmd_head head = {.type = CMD_POLICY_SET,
                            .actor = c->actor,
                            .actor_len = strlen(c->actor),
                            .source = c->source,
                            .source_len = strlen(c->source),
                            .request_id = ""};
    CHECK(w.buf);
    cmd_put_head(&w, &head);
    wire_put_u64(&w, c->revision);
    wire_put_u32(&w, (uint32_t)c->gone_count);
    for (size_t i = 0; i < c->gone_count; i++)
        wire_put_bytes(&w, c->gone[i], strlen(c->gone[i]));
    wire_put_u32(&w, (uint32_t)c->set_count);
    for (size_t i = 0; i < c->set_count; i++)
        policy_put(&w, &c->set[i]);
    if (c->origin == POLICY_FROM_FILE)
        wire_put_u8(&w, POLICY_FROM_FILE);
    CHECK(!w.failed);
    *len = w.len;
    return w.buf;
}

void *policy_cmd_set(const char *actor, const char *source, uint64_t revision, const char *const *gone,
                     size_t gone_count, const struct policy *set, size_t set_count, size_t *len)
{
    return cmd_make(
        &(struct policy_cmd){actor, source, revision, gone, gone_count, set, set_count, POLICY_FROM_API},
        len);
}

void *policy_cmd_withdraw(const char *actor, const char *source, const char *prefix, size_t *len)
{
    return cmd_make(
        &(struct policy_cmd){actor, source, CMD_REVISION_ANY, &prefix, 1, NULL, 0, POLICY_FROM_FILE}, len);
}

void *policy_cmd_declare(const char *const *gone, size_t gone_count, const struct policy *set,
                         size_t set_count, size_t *len)
{
    return cmd_make(&(struct policy_cmd){"system", "configuration", CMD_REVISION_ANY, gone, gone_count, set,
                                         set_count, POLICY_FROM_FILE},
                    len);
}
