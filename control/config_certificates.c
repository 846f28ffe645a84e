/* SPDX-License-Identifier: Apache-2.0 */
/* The section `certificates`, and `tls` of a listening address. */
#include "control/config_certificates.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "control/config_yaml.h"

static bool name_valid(const char *name)
{
    size_t len = strlen(name);
    return len > 0 && len < CERTS_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == len;
}

static struct config_certificate *find(const struct config_certificates *c, const char *name)
{
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->list[i].name, name) == 0)
            return &c->list[i];
    return NULL;
}

static void certificate_fini(struct config_certificate *c)
{
    free(c->cert);
    free(c->key);
    free(c->ca);
    free(c->ocsp);
}

void config_certificates_fini(struct config_certificates *c)
{
    for (size_t i = 0; i < c->count; i++)
        certificate_fini(&c->list[i]);
    free(c->list);
    memset(c, 0, sizeof(*c));
}

/* ------------------------------------------------------------------ the section */

static void read_cert(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    cfg_path(r, node, &((struct config_certificate *)target)->cert,
             "the path of a certificate, as in /etc/fairlead/tls/example.pem");
}

static void read_key(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    cfg_path(r, node, &((struct config_certificate *)target)->key,
             "the path of its key, as in /etc/fairlead/tls/example.key");
}

static void read_ca(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    cfg_path(r, node, &((struct config_certificate *)target)->ca,
             "the path of a CA's certificate, as in /etc/fairlead/tls/ca.pem");
}

static void read_ocsp(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    cfg_path(r, node, &((struct config_certificate *)target)->ocsp,
             "the path of an OCSP response, as in /etc/fairlead/tls/example.ocsp");
}

static void read_certificate(struct cfg_reader *r, const yaml_node_t *key, const yaml_node_t *value)
{
    static const struct cfg_key_row keys[] = {
        {"cert", read_cert}, {"key", read_key}, {"ca", read_ca}, {"ocsp", read_ocsp}};
    struct config_certificates *all = &r->config->certificates;
    struct config_certificate c = {0};
    const char *name = cfg_scalar(key);
    if (!name_valid(name)) {
        cfg_error(r, key,
                  "'%.70s' cannot name a certificate; write at most %d letters, digits, '.', '_' and '-'",
                  name, CERTS_NAME_MAX - 1);
        return;
    }
    memcpy(c.name, name, strlen(name) + 1);
    if (!cfg_mapping(r, value, "a certificate", keys, ARRAY_SIZE(keys), &c))
        return;
    if (!c.cert != !c.key)
        cfg_error(r, value, "certificate '%s' has a %s but no %s; write both", name, c.cert ? "cert" : "key",
                  c.cert ? "key" : "cert");
    else if (!c.cert && !c.ca)
        cfg_error(r, value, "certificate '%s' is empty; write cert and key, or ca", name);
    else if (c.ocsp && !c.cert)
        cfg_error(r, value, "certificate '%s' has an OCSP response for no cert; write cert and key", name);
    else if (all->count == CERTS_MAX)
        cfg_error(r, value, "there are more than %d certificates; remove some", CERTS_MAX);
    else {
        all->list = realloc(all->list, (all->count + 1) * sizeof(*all->list));
        CHECK(all->list);
        all->list[all->count++] = c;
        return;
    }
    certificate_fini(&c);
}

void cfg_certificates(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)target;
    if (node->type == YAML_SCALAR_NODE && node->data.scalar.length == 0)
        return;
    if (node->type != YAML_MAPPING_NODE) {
        cfg_error(r, node,
                  "certificates must be a mapping but is %s; write 'example:' under it, and 'cert:' and "
                  "'key:' under that",
                  cfg_kind_name(node));
        return;
    }
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = cfg_key(r, node, p);
        if (key)
            read_certificate(r, key, yaml_document_get_node(&r->doc, p->value));
    }
}

/* ------------------------------------------------------------------ tls of an address */

/* A name that has to be in the section, which may stand further down. */
struct cfg_certificate_use {
    struct cfg_certificate_use *next;
    const yaml_node_t *node;
    bool ca; /* else it has to have a cert */
};

static void note_use(struct cfg_reader *r, const yaml_node_t *node, bool ca)
{
    struct cfg_certificate_use *use = malloc(sizeof(*use));
    CHECK(use);
    *use = (struct cfg_certificate_use){r->uses, node, ca};
    r->uses = use;
}

static bool take_name(struct cfg_reader *r, const yaml_node_t *node, bool ca, char out[PLAN_NAME_MAX])
{
    const char *text = cfg_text(r, node, "the name of a certificate");
    if (!text)
        return false;
    if (!name_valid(text)) {
        cfg_error(r, node, "'%.70s' is not the name of a certificate", text);
        return false;
    }
    memcpy(out, text, strlen(text) + 1);
    note_use(r, node, ca);
    return true;
}

static void read_names(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    struct plan_tls *tls = target;
    if (node->type != YAML_SEQUENCE_NODE) {
        cfg_error(r, node, "certificates must be a list but is %s; write '- example' under it",
                  cfg_kind_name(node));
        return;
    }
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top; i++) {
        const yaml_node_t *item = yaml_document_get_node(&r->doc, *i);
        if (tls->certificate_count == PLAN_CERTIFICATES_MAX) {
            cfg_error(r, item, "an address may have %d certificates; remove some", PLAN_CERTIFICATES_MAX);
            return;
        }
        if (take_name(r, item, false, tls->certificate[tls->certificate_count]))
            tls->certificate_count++;
    }
}

static void read_client_ca(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    (void)take_name(r, node, true, ((struct plan_tls *)target)->client_ca);
}

static void read_client_auth(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    static const char *const words[] = {
        [PLAN_AUTH_NONE] = "none", [PLAN_AUTH_OPTIONAL] = "optional", [PLAN_AUTH_REQUIRED] = "required"};
    struct plan_tls *tls = target;
    const char *text = cfg_text(r, node, "none, optional or required");
    for (uint8_t i = 0; text && i < ARRAY_SIZE(words); i++)
        if (strcmp(text, words[i]) == 0) {
            tls->client_auth = i;
            return;
        }
    if (text)
        cfg_error(r, node, "'%.40s' is not a way to ask for certificates; write none, optional or required",
                  text);
}

static void read_http2(struct cfg_reader *r, const yaml_node_t *node, void *target)
{
    bool on = true;
    cfg_bool(r, node, &on);
    ((struct plan_tls *)target)->http2 = on;
}

void cfg_tls(struct cfg_reader *r, const yaml_node_t *node, struct plan_tls *tls)
{
    static const struct cfg_key_row keys[] = {{"certificates", read_names},
                                              {"client_ca", read_client_ca},
                                              {"client_auth", read_client_auth},
                                              {"http2", read_http2}};
    tls->http2 = 1;
    if (!cfg_mapping(r, node, "tls", keys, ARRAY_SIZE(keys), tls))
        return;
    tls->mode = PLAN_TLS_TERMINATE;
    if (tls->certificate_count == 0)
        cfg_error(r, node, "tls names no certificate; write 'certificates: [example]'");
    if (tls->client_auth != PLAN_AUTH_NONE && !tls->client_ca[0])
        cfg_error(r, node,
                  "client_auth asks for certificates that nobody can check; write 'client_ca: NAME'");
    if (tls->client_auth == PLAN_AUTH_NONE && tls->client_ca[0])
        cfg_error(r, node,
                  "client_ca says who is trusted but nobody is asked; write 'client_auth: required'");
}

void cfg_certificates_finish(struct cfg_reader *r)
{
    while (r->uses) {
        struct cfg_certificate_use *use = r->uses;
        const struct config_certificate *c = find(&r->config->certificates, cfg_scalar(use->node));
        if (!c)
            cfg_error(r, use->node, "there is no certificate '%.70s'; add it under certificates",
                      cfg_scalar(use->node));
        else if (use->ca ? !c->ca : !c->cert)
            cfg_error(r, use->node, "certificate '%s' has no %s; add it under certificates", c->name,
                      use->ca ? "ca" : "cert and key");
        r->uses = use->next;
        free(use);
    }
}
