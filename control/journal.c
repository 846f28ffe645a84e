/* SPDX-License-Identifier: Apache-2.0 */
#include "control/journal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "control/sink.h"
#include "shared.h"

enum { KINDS_MAX = 48, RATE_DEFAULT = 100, LINE_MAX_BYTES = 8 * JOURNAL_MESSAGE_MAX };

/* The lines of one level and component in the running second. */
struct kind {
    const char *component;
    enum journal_level level;
    uint64_t lines, held_back;
};

struct journal {
    struct sink *error, *access; /* access may be NULL: none */
    bool plain;                  /* the error log is a terminal */
    uint64_t rate;
    uint64_t dropped;
    struct kind kinds[KINDS_MAX];
    size_t kinds_count;
};

static const char *level_name(enum journal_level level)
{
    static const char *const names[] = {"info", "warning", "error"};
    return names[level];
}

uint64_t journal_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

const char *journal_time_text(uint64_t time_ms, char out[TIME_TEXT_MAX])
{
    time_t seconds = (time_t)(time_ms / 1000);
    struct tm parts;
    if (!gmtime_r(&seconds, &parts))
        memset(&parts, 0, sizeof(parts));
    size_t used = strftime(out, TIME_TEXT_MAX, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(out + used, TIME_TEXT_MAX - used, ".%03uZ", (unsigned)(time_ms % 1000));
    return out;
}

int journal_open(const char *access, const char *error, struct journal **out, const char **failed)
{
    struct journal *journal = calloc(1, sizeof(*journal));
    CHECK(journal);
    journal->rate = RATE_DEFAULT;
    bool terminal = strcmp(error, "stderr") == 0;
    journal->plain = terminal && isatty(STDERR_FILENO);
    *failed = error;
    int err = terminal ? sink_open_fd(STDERR_FILENO, &journal->error) : sink_open(error, &journal->error);
    if (err)
        goto err_journal;
    *failed = access;
    if (strcmp(access, "stdout") == 0)
        err = sink_open_fd(STDOUT_FILENO, &journal->access);
    else if (strcmp(access, "none") != 0)
        err = sink_open(access, &journal->access);
    if (err)
        goto err_error;
    *out = journal;
    return 0;
err_error:
    sink_close(journal->error);
err_journal:
    free(journal);
    return err;
}

void journal_close(struct journal *journal)
{
    journal_tick(journal);
    sink_close(journal->error);
    if (journal->access)
        sink_close(journal->access);
    free(journal);
}

void journal_reopen(struct journal *journal)
{
    sink_reopen(journal->error);
    if (journal->access)
        sink_reopen(journal->access);
}

void journal_set_rate(struct journal *journal, uint64_t lines_per_s)
{
    journal->rate = lines_per_s;
}

uint64_t journal_dropped(const struct journal *journal)
{
    return journal->dropped;
}

/* Appends text as the inside of a JSON string; a byte that is not ASCII becomes its number. */
static size_t json_escape(char *out, size_t cap, const char *text)
{
    size_t used = 0;
    for (; *text && used + 7 < cap; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            used += (size_t)snprintf(out + used, cap - used, "\\%c", c);
        else if (c < ' ' || c >= 0x7f)
            used += (size_t)snprintf(out + used, cap - used, "\\u%04x", c);
        else
            out[used++] = (char)c;
    }
    out[used] = '\0';
    return used;
}

static void emit(struct journal *journal, enum journal_level level, const char *component,
                 const char *message)
{
    char line[LINE_MAX_BYTES], escaped[LINE_MAX_BYTES - 256], stamp[TIME_TEXT_MAX];
    journal_time_text(journal_now_ms(), stamp);
    json_escape(escaped, sizeof(escaped), message);
    int len;
    if (journal->plain)
        len = snprintf(line, sizeof(line), "%s %s %s: %s\n", stamp, level_name(level), component, message);
    else
        len = snprintf(line, sizeof(line),
                       "{\"time\":\"%s\",\"level\":\"%s\",\"component\":\"%s\",\"message\":\"%s\"}\n", stamp,
                       level_name(level), component, escaped);
    CHECK(len > 0 && (size_t)len < sizeof(line));
    if (!sink_write(journal->error, line, (size_t)len))
        journal->dropped++;
}

/* Kinds beyond the table share its last row. */
static struct kind *kind_get(struct journal *journal, enum journal_level level, const char *component)
{
    for (size_t i = 0; i < journal->kinds_count; i++) {
        struct kind *kind = &journal->kinds[i];
        if (kind->level == level && strcmp(kind->component, component) == 0)
            return kind;
    }
    if (journal->kinds_count == KINDS_MAX)
        return &journal->kinds[KINDS_MAX - 1];
    struct kind *kind = &journal->kinds[journal->kinds_count++];
    *kind = (struct kind){.component = component, .level = level};
    return kind;
}

static bool kind_admit(struct journal *journal, enum journal_level level, const char *component)
{
    struct kind *kind = kind_get(journal, level, component);
    if (kind->lines < journal->rate) {
        kind->lines++;
        return true;
    }
    kind->held_back++;
    journal->dropped++;
    return false;
}

void journal_write(struct journal *journal, enum journal_level level, const char *component,
                   const char *format, ...)
{
    if (!kind_admit(journal, level, component))
        return;
    char message[JOURNAL_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    emit(journal, level, component, message);
}

static void write_line(struct journal *journal, struct sink *sink, const char *line, size_t len)
{
    char clean[LOG_RECORD_MAX + 1];
    CHECK(len <= LOG_RECORD_MAX);
    for (size_t i = 0; i < len; i++)
        clean[i] = (unsigned char)line[i] < ' ' ? ' ' : line[i];
    clean[len] = '\n';
    if (!sink_write(sink, clean, len + 1))
        journal->dropped++;
}

void journal_access_line(struct journal *journal, const char *line, size_t len)
{
    if (journal->access)
        write_line(journal, journal->access, line, len);
}

void journal_error_line(struct journal *journal, const char *line, size_t len)
{
    if (kind_admit(journal, JOURNAL_ERROR, "dataplane-line"))
        write_line(journal, journal->error, line, len);
}

void journal_tick(struct journal *journal)
{
    for (size_t i = 0; i < journal->kinds_count; i++) {
        struct kind *kind = &journal->kinds[i];
        uint64_t held_back = kind->held_back;
        kind->lines = 0;
        kind->held_back = 0;
        if (held_back) {
            char message[JOURNAL_MESSAGE_MAX];
            snprintf(message, sizeof(message),
                     "%llu more lines of this kind in a second were held back (log.rate)",
                     (unsigned long long)held_back);
            emit(journal, kind->level, kind->component, message);
        }
    }
    uint64_t lost =
        sink_take_dropped(journal->error) + (journal->access ? sink_take_dropped(journal->access) : 0);
    if (lost)
        journal_error(journal, "log",
                      "%llu bytes of logs could not be written and are lost; look at the disk of the logs",
                      (unsigned long long)lost);
}
