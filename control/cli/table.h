/* SPDX-License-Identifier: Apache-2.0 */
/* Aligned columns, and figures as people read them. */
#ifndef FL_CLI_TABLE_H
#define FL_CLI_TABLE_H

#include <stdio.h>

struct table;

enum { TABLE_COLUMNS_MAX = 10, FIGURE_MAX = 32 };

/* Titles: NULL-terminated; one that begins with '>' is aligned to the right. */
struct table *table_new(const char *const *titles);

/* Takes copies of as many texts as there are columns. What cannot be printed is shown as '?'. */
void table_row(struct table *table, ...);

/* Prints with as much room as the widest of each column needs, and frees. */
void table_print(struct table *table, FILE *out);
void table_free(struct table *table);

/* "1.5 GiB"; "12k" for counts; "1.2 ms" from microseconds; "3d 4h" from seconds. Each returns out. */
const char *figure_bytes(double bytes, char out[FIGURE_MAX]);
const char *figure_count(double count, char out[FIGURE_MAX]);
const char *figure_us(double us, char out[FIGURE_MAX]);
const char *figure_seconds(long long seconds, char out[FIGURE_MAX]);

/* Prints text with what cannot be printed (control characters of a terminal) as '?'. */
void print_clean(FILE *out, const char *text);

#endif
