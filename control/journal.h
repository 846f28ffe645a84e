/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The error log and the access log of a daemon.
 *
 * Lines of the error log are JSON objects (time, level, component, message), plain text on a terminal. Lines
 * of one kind (level and component) are limited to log.rate a second; what is over it is counted and summed
 * up in one line. Access lines come from the data plane as they are.
 */
#ifndef FL_CONTROL_JOURNAL_H
#define FL_CONTROL_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum journal_level { JOURNAL_INFO, JOURNAL_WARN, JOURNAL_ERROR };

enum { JOURNAL_MESSAGE_MAX = 1024, TIME_TEXT_MAX = 32 };

struct journal;

/* access: a path, "stdout" or "none"; error: a path or "stderr". 0, or -errno with the path in *failed. */
int journal_open(const char *access, const char *error, struct journal **out, const char **failed);

/* Writes what is waiting, for a bounded time. */
void journal_close(struct journal *journal);

void journal_reopen(struct journal *journal);

/* Lines a second of one kind. */
void journal_set_rate(struct journal *journal, uint64_t lines_per_s);

__attribute__((format(printf, 4, 5))) void journal_write(struct journal *journal, enum journal_level level,
                                                         const char *component, const char *format, ...);

#define journal_info(journal, component, ...)  journal_write(journal, JOURNAL_INFO, component, __VA_ARGS__)
#define journal_warn(journal, component, ...)  journal_write(journal, JOURNAL_WARN, component, __VA_ARGS__)
#define journal_error(journal, component, ...) journal_write(journal, JOURNAL_ERROR, component, __VA_ARGS__)

/* A line from the data plane, without its end; control characters in it are replaced. */
void journal_access_line(struct journal *journal, const char *line, size_t len);
void journal_error_line(struct journal *journal, const char *line, size_t len);

/* Once a second: tells of what was dropped or held back. */
void journal_tick(struct journal *journal);

/* Lines and bytes that were lost since the start, for the metrics. */
uint64_t journal_dropped(const struct journal *journal);

/* RFC 3339, UTC, with milliseconds. Returns out. */
const char *journal_time_text(uint64_t time_ms, char out[TIME_TEXT_MAX]);
uint64_t journal_now_ms(void);

#endif
