/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "check.h"
#include "control/bpf_pins.h"
#include "control/config_yaml.h"

static void read_instance(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_kernel *kernel = target;
    const char *text = cfg_text(r, node, "a short name, as in default");
    if (!text)
        return;
    if (bpf_pins_instance_valid(text))
        cfg_text_set(&kernel->instance, text);
    else
        cfg_error(r, node, "'%.40s' cannot name an instance; write at most %d of a-z, 0-9 and -", text,
                  BPF_PINS_INSTANCE_MAX - 1);
}

static void read_cgroup(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_kernel *kernel = target;
    cfg_path(r, node, &kernel->cgroup, "the path of a cgroup, as in /sys/fs/cgroup/system.slice");
    if (kernel->cgroup && kernel->cgroup[0] != '/')
        cfg_error(r, node, "the path of a cgroup begins with /, as in /sys/fs/cgroup/system.slice");
}

/* Adds a list of patterns to `pattern`, which has room for CONFIG_EXCLUDES_MAX. */
static void read_patterns(struct cfg_reader *r, const yaml_node_t *node, const char *key, char **pattern,
                          size_t *count)
{
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node, "%s must be a list but is %s; write '- eth7' under it", key, cfg_kind_name(node));
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(&r->doc, *i);
        const char *text = cfg_text(r, item, "the name of a device, as in eth7 or veth*");
        if (!text)
            continue;
        if (*count == CONFIG_EXCLUDES_MAX) {
            cfg_error(r, item, "there are more than %d patterns; remove some", CONFIG_EXCLUDES_MAX);
            return;
        }
        pattern[(*count)++] = cfg_text_copy(text);
    }
}

static void read_excludes(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_kernel *kernel = target;
    read_patterns(r, node, "exclude", kernel->exclude, &kernel->exclude_count);
}

static void read_xdp(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct config_kernel *kernel = target;
    read_patterns(r, node, "xdp", kernel->xdp, &kernel->xdp_count);
}

void cfg_kernel(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    static const struct cfg_key_row keys[] = {
        {"instance", read_instance}, {"cgroup", read_cgroup}, {"exclude", read_excludes}, {"xdp", read_xdp}};
    (void)target;
    r->config->kernel.given = true;
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return;
    cfg_mapping(r, node, "kernel", keys, ARRAY_SIZE(keys), &r->config->kernel);
}

void config_kernel_fini(struct config_kernel *kernel)
{
    free(kernel->instance);
    free(kernel->cgroup);
    for (size_t i = 0; i < kernel->exclude_count; i++)
        free(kernel->exclude[i]);
    for (size_t i = 0; i < kernel->xdp_count; i++)
        free(kernel->xdp[i]);
}
