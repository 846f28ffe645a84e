/* SPDX-License-Identifier: Apache-2.0 */
#include "control/config_yaml.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

char *cfg_text_copy(const char *text)
{
    char *copy = strdup(text);
    CHECK(copy);
    return copy;
}

void cfg_text_set(char **field, const char *text)
{
    free(*field);
    *field = cfg_text_copy(text);
}

void cfg_report(struct config_report *report, const char *name, size_t line, size_t column,
                const char *format, ...)
{
    if (report->count == CONFIG_ERRORS_MAX) {
        report->more++;
        return;
    }
    char text[CONFIG_ERROR_BYTES];
    int used = snprintf(text, sizeof(text), "%s:%zu:%zu: ", name, line, column);
    CHECK(used > 0);
    if ((size_t)used < sizeof(text)) {
        va_list args;
        va_start(args, format);
        vsnprintf(text + used, sizeof(text) - (size_t)used, format, args);
        va_end(args);
    }
    /* What is quoted from the file may have anything in it, and an error is one line. */
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    report->lines[report->count++] = cfg_text_copy(text);
}

const char *cfg_kind_name(const yaml_node_t *node)
{
    if (node->type == YAML_SCALAR_NODE)
        return node->data.scalar.length ? "a single value" : "empty";
    return node->type == YAML_SEQUENCE_NODE ? "a list" : "a mapping";
}

const char *cfg_scalar(const yaml_node_t *node)
{
    return (const char *)node->data.scalar.value;
}

const char *cfg_text(struct cfg_reader *r, const yaml_node_t *node, const char *example)
{
    if (node->type != YAML_SCALAR_NODE || node->data.scalar.length == 0) {
        cfg_error(r, node, "expected a value here but it is %s; write %s", cfg_kind_name(node), example);
        return NULL;
    }
    const char *text = cfg_scalar(node);
    for (size_t i = 0; i < node->data.scalar.length; i++) {
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f) {
            cfg_error(r, node, "the value has a control character in it; write %s", example);
            return NULL;
        }
    }
    return text;
}

const char *cfg_list_text(struct cfg_reader *r, const yaml_node_t *node, const char *example, char *out,
                          size_t cap)
{
    size_t used = 0;
    if (node->type != YAML_SEQUENCE_NODE)
        return cfg_text(r, node, example);
    out[0] = '\0';
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const char *text = cfg_text(r, yaml_document_get_node(&r->doc, *i), example);
        if (!text)
            return NULL;
        if (used < cap)
            used += (size_t)snprintf(out + used, cap - used, "%s%s", used ? "," : "", text);
    }
    if (used < cap)
        return out;
    cfg_error(r, node, "the list is too long");
    return NULL;
}

bool cfg_bool(struct cfg_reader *r, const yaml_node_t *node, bool *out)
{
    const char *text = cfg_text(r, node, "true or false");
    if (!text)
        return false;
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
        cfg_error(r, node, "'%.40s' is neither true nor false; write one of them", text);
        return false;
    }
    *out = text[0] == 't';
    return true;
}

void cfg_path(struct cfg_reader *r, const yaml_node_t *node, char **field, const char *example)
{
    const char *text = cfg_text(r, node, example);
    if (text)
        cfg_text_set(field, text);
}

static void report_unknown_key(struct cfg_reader *r, const yaml_node_t *node, const char *where,
                               const struct cfg_key_row *keys, size_t count)
{
    const char *names[32];
    char list[256] = "";
    CHECK(count <= ARRAY_SIZE(names));
    for (size_t i = 0; i < count; i++) {
        names[i] = keys[i].name;
        size_t used = strlen(list);
        snprintf(list + used, sizeof(list) - used, "%s%s", i ? ", " : "", keys[i].name);
    }
    const char *near = text_nearest(cfg_scalar(node), node->data.scalar.length, names, count);
    if (near)
        cfg_error(r, node, "unknown key '%.40s' in %s; did you mean '%s'?", cfg_scalar(node), where, near);
    else
        cfg_error(r, node, "unknown key '%.40s' in %s; the keys are %s", cfg_scalar(node), where, list);
}

/* Whether an earlier pair of the mapping has the same key. */
static bool key_is_repeated(struct cfg_reader *r, const yaml_node_t *mapping, const yaml_node_pair_t *pair)
{
    const yaml_node_t *key = yaml_document_get_node(&r->doc, pair->key);
    for (const yaml_node_pair_t *p = mapping->data.mapping.pairs.start; p < pair; p++) {
        const yaml_node_t *other = yaml_document_get_node(&r->doc, p->key);
        if (other->type == YAML_SCALAR_NODE && strcmp(cfg_scalar(other), cfg_scalar(key)) == 0) {
            cfg_error(r, key, "'%.40s' is given twice, first in line %zu; remove one of them",
                      cfg_scalar(key), other->start_mark.line + 1);
            return true;
        }
    }
    return false;
}

const yaml_node_t *cfg_key(struct cfg_reader *r, const yaml_node_t *mapping, const yaml_node_pair_t *pair)
{
    const yaml_node_t *key = yaml_document_get_node(&r->doc, pair->key);
    if (key->type != YAML_SCALAR_NODE) {
        cfg_error(r, key, "a key must be a word but is %s; write 'key: value'", cfg_kind_name(key));
        return NULL;
    }
    return key_is_repeated(r, mapping, pair) ? NULL : key;
}

bool cfg_mapping(struct cfg_reader *r, const yaml_node_t *node, const char *where,
                 const struct cfg_key_row *keys, size_t count, void *target)
{
    if (node->type != YAML_MAPPING_NODE) {
        cfg_error(r, node, "%s must be a mapping but is %s; write 'key: value' lines under it", where,
                  cfg_kind_name(node));
        return false;
    }
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = cfg_key(r, node, p);
        if (!key)
            continue;
        size_t i = 0;
        while (i < count && strcmp(keys[i].name, cfg_scalar(key)) != 0)
            i++;
        if (i == count)
            report_unknown_key(r, key, where, keys, count);
        else
            keys[i].read(r, yaml_document_get_node(&r->doc, p->value), target);
    }
    return true;
}
