/* SPDX-License-Identifier: Apache-2.0 */
/* A call about something that is not in this node's store. Private to the registry. */
#ifndef FL_REGISTRY_ELSEWHERE_H
#define FL_REGISTRY_ELSEWHERE_H

#include "dataplane/fetch/collect.h"
#include "dataplane/fetch/question.h"
#include "dataplane/fetch/serve.h"
#include "dataplane/registry/api.h"

struct elsewhere {
    struct api *a;
    struct question question; /* of what is not a blob's bytes */
    void (*answered)(struct elsewhere *e, enum question_end end);
    bool asking;  /* question: the stream is held */
    bool serving; /* serve: the same */
    bool known;   /* the blob is linked by another repository */
    /* A manifest (copy.c). */
    bool settled; /* it was asked for: fault says what came of it */
    bool collecting, cancelled;
    uint8_t fault;     /* enum fetch_fault */
    struct digest key; /* of the question, which all rings ask once */
    bool key_said;     /* the source says a digest: */
    struct digest said;
    struct fetch_entry *entry;  /* this call asks it, for all; NULL: it asks for itself */
    struct fetch_reader *watch; /* another call asks it */
    struct collect collect;
    char *memory; /* one of the ring's for manifests */
    char type[MEDIA_TYPE_MAX];
    size_t type_len;
    struct serve serve;
};

/* Takes the call over: from now on its client's going away is looked after. False: the answer was sent. */
bool api_elsewhere(struct api *a);

/* Asks the question, which is filled in but for its owner's part. answered comes once, never from within the
 * call. It ends with api_source_done. */
void api_ask_source(struct elsewhere *e, void (*answered)(struct elsewhere *e, enum question_end end));
void api_source_done(struct elsewhere *e);

/* copy.c: the client is gone. */
void api_copy_abort(struct elsewhere *e);
void api_copy_end(struct elsewhere *e); /* the call ends */

void api_refuse_fault(struct api *a, enum fetch_fault fault);

#endif
