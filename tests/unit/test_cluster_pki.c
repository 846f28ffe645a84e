/* SPDX-License-Identifier: Apache-2.0 */
/* Files of STATE/pki are changed beside the loop; what is in memory follows the disk, and never leads it. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/cluster_internal.h"
#include "control/journal.h"
#include "temp_dir.h"

struct rig {
    struct temp_dir dir;
    uv_loop_t loop;
    struct cluster cluster;
    struct pki_files made;
    char log[256];
};

static struct rig *rig;
static sem_t go_on;
static int done_rc;
static unsigned done_calls, ended_calls;

static int setup(void **state)
{
    char err[PKI_ERR_MAX];
    const char *failed;
    struct pki_subject subject = {.name = {.cluster_id = {1}, .node_id = 1}};
    (void)state;
    rig = calloc(1, sizeof(*rig));
    assert_non_null(rig);
    temp_dir_make(&rig->dir);
    assert_int_equal(uv_loop_init(&rig->loop), 0);
    struct cluster *c = &rig->cluster;
    c->config.loop = &rig->loop;
    c->config.dir = rig->dir.path;
    c->dir_fd = rig->dir.fd;
    snprintf(rig->log, sizeof(rig->log), "%s/log", rig->dir.path);
    assert_int_equal(journal_open("none", rig->log, &c->config.journal, &failed), 0);
    assert_int_equal(pki_files_first(&subject, &rig->made, err), 0);
    assert_int_equal(pki_files_make(c->dir_fd, PKI_FOLDER, &rig->made), 0);
    assert_int_equal(pki_files_read(c->dir_fd, PKI_FOLDER, &c->pki, err), 0);
    assert_int_equal(sem_init(&go_on, 0, 0), 0);
    done_rc = 1;
    done_calls = ended_calls = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sem_post(&go_on); /* the end of the process waits for its threads */
    assert_int_equal(uv_loop_close(&rig->loop), 0);
    journal_close(rig->cluster.config.journal);
    pki_files_fini(&rig->cluster.pki);
    pki_files_fini(&rig->made);
    temp_dir_remove(&rig->dir);
    free(rig);
    return 0;
}

static void on_done(struct cluster *c, int rc)
{
    assert_false(pki_busy(c));
    done_rc = rc;
    done_calls++;
}

static void on_ended(struct cluster *c)
{
    assert_false(pki_busy(c));
    ended_calls++;
}

static void put(const char *file, struct pki_text *place, const char *text)
{
    struct pki_text copy = pki_copy(text, strlen(text));
    pki_put(&rig->cluster, file, place, &copy);
    assert_null(copy.data);
}

/* What the file has; "" if it is not there. */
static const char *on_disk(const char *file)
{
    static char text[256];
    char path[512];
    snprintf(path, sizeof(path), "%s/" PKI_FOLDER "/%s", rig->dir.path, file);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static void test_put_and_dropped(void **state)
{
    struct cluster *c = &rig->cluster;
    (void)state;
    put(PKI_FILE_NEXT_KEY, &c->pki.next_key, "a key");
    put(PKI_FILE_NEXT_CA, &c->pki.next_ca, "a certificate");
    pki_begin(c, "it cannot be stored", NULL, on_done);
    assert_true(pki_busy(c));
    assert_null(c->pki.next_key.data); /* not before it is durable */
    uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_int_equal(done_calls, 1);
    assert_int_equal(done_rc, 0);
    assert_string_equal(c->pki.next_key.data, "a key");
    assert_string_equal(on_disk(PKI_FILE_NEXT_KEY), "a key");
    assert_string_equal(on_disk(PKI_FILE_NEXT_CA), "a certificate");
    pki_drop(c, PKI_FILE_NEXT_KEY, &c->pki.next_key);
    pki_drop(c, PKI_FILE_NEXT_CA, &c->pki.next_ca);
    pki_begin(c, "it cannot be removed", NULL, NULL);
    uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_null(c->pki.next_key.data);
    assert_null(c->pki.next_ca.data);
    assert_string_equal(on_disk(PKI_FILE_NEXT_KEY), "");
    assert_string_equal(on_disk(PKI_FILE_NEXT_CA), "");
}

static void on_hang(uv_work_t *work)
{
    (void)work;
    while (sem_wait(&go_on))
        continue;
}

static void on_hung(uv_work_t *work, int status)
{
    (void)work;
    (void)status;
}

static void on_tick(uv_timer_t *timer)
{
    unsigned *ticks = timer->data;
    if (++*ticks == 3)
        uv_close((uv_handle_t *)timer, NULL);
}

/* The only thread waits for a disk: the loop turns, and nothing of this node has changed. */
static void test_the_loop_does_not_wait(void **state)
{
    struct cluster *c = &rig->cluster;
    uv_work_t hang;
    uv_timer_t timer;
    unsigned ticks = 0;
    (void)state;
    assert_int_equal(uv_queue_work(&rig->loop, &hang, on_hang, on_hung), 0);
    put(PKI_FILE_CERT, &c->pki.cert, "another certificate");
    pki_begin(c, "it cannot be stored", NULL, on_done);
    uv_timer_init(&rig->loop, &timer);
    timer.data = &ticks;
    uv_timer_start(&timer, on_tick, 1, 1);
    while (ticks < 3)
        uv_run(&rig->loop, UV_RUN_ONCE);
    assert_int_equal(done_calls, 0);
    assert_string_equal(c->pki.cert.data, rig->made.cert.data);
    sem_post(&go_on);
    uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_int_equal(done_calls, 1);
    assert_string_equal(c->pki.cert.data, "another certificate");
    assert_string_equal(on_disk(PKI_FILE_CERT), "another certificate");
}

static unsigned lines_with(const char *word)
{
    char line[2048];
    unsigned count = 0;
    FILE *f = fopen(rig->log, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f))
        count += strstr(line, word) != NULL;
    fclose(f);
    return count;
}

/* A disk that takes nothing: this node goes on with what it has, says so once, and can try again. */
static void test_what_fails_changes_nothing(void **state)
{
    struct cluster *c = &rig->cluster;
    char folder[512], aside[512];
    const char *failed;
    (void)state;
    snprintf(folder, sizeof(folder), "%s/" PKI_FOLDER, rig->dir.path);
    snprintf(aside, sizeof(aside), "%s/aside", rig->dir.path);
    assert_int_equal(rename(folder, aside), 0);
    for (unsigned i = 1; i <= 3; i++) {
        put(PKI_FILE_CERT, &c->pki.cert, "another certificate");
        pki_begin(c, "a certificate cannot be stored", NULL, on_done);
        uv_run(&rig->loop, UV_RUN_DEFAULT);
        assert_int_equal(done_calls, i);
        assert_int_equal(done_rc, -ENOENT);
        assert_string_equal(c->pki.cert.data, rig->made.cert.data);
    }
    assert_int_equal(rename(aside, folder), 0);
    put(PKI_FILE_CERT, &c->pki.cert, "another certificate");
    pki_begin(c, "a certificate cannot be stored", NULL, on_done);
    uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_int_equal(done_rc, 0);
    assert_string_equal(c->pki.cert.data, "another certificate");
    journal_close(c->config.journal);
    assert_int_equal(lines_with("a certificate cannot be stored"), 1);
    assert_int_equal(lines_with(strerror(ENOENT)), 1);
    assert_int_equal(journal_open("none", rig->log, &c->config.journal, &failed), 0);
}

/* The second of two files cannot be written: neither counts. */
static void test_half_of_a_change_is_none(void **state)
{
    struct cluster *c = &rig->cluster;
    char path[512];
    (void)state;
    snprintf(path, sizeof(path), "%s/" PKI_FOLDER "/" PKI_FILE_NEXT_CA, rig->dir.path);
    assert_int_equal(mkdir(path, 0700), 0);
    put(PKI_FILE_NEXT_KEY, &c->pki.next_key, "a key");
    put(PKI_FILE_NEXT_CA, &c->pki.next_ca, "a certificate");
    pki_begin(c, "it cannot be stored", NULL, on_done);
    uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_int_equal(done_rc, -EISDIR);
    assert_null(c->pki.next_key.data);
    assert_null(c->pki.next_ca.data);
    assert_int_equal(rmdir(path), 0);
}

/* The end comes when nothing is under way; nobody is told of what was. */
static void test_the_end_waits(void **state)
{
    struct cluster *c = &rig->cluster;
    (void)state;
    put(PKI_FILE_CERT, &c->pki.cert, "another certificate");
    pki_begin(c, "it cannot be stored", NULL, on_done);
    c->closing = true;
    pki_end(c, on_ended);
    assert_int_equal(ended_calls, 0);
    uv_run(&rig->loop, UV_RUN_DEFAULT);
    assert_int_equal(ended_calls, 1);
    assert_int_equal(done_calls, 0);
    assert_string_equal(c->pki.cert.data, rig->made.cert.data);
    assert_string_equal(on_disk(PKI_FILE_CERT), "another certificate");
    pki_end(c, on_ended);
    assert_int_equal(ended_calls, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_put_and_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_loop_does_not_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_fails_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_of_a_change_is_none, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_end_waits, setup, teardown),
    };
    setenv("UV_THREADPOOL_SIZE", "1", 1); /* read when the first work is queued */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
