/* SPDX-License-Identifier: Apache-2.0 */
#include "control/cli/table.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

struct row {
    struct row *next;
    char *cell[TABLE_COLUMNS_MAX];
};

struct table {
    size_t columns;
    size_t width[TABLE_COLUMNS_MAX];
    bool right[TABLE_COLUMNS_MAX];
    struct row *first, **last;
};

static char *clean_copy(const char *text)
{
    char *copy = strdup(text);
    CHECK(copy);
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?';
    return copy;
}

void print_clean(FILE *out, const char *text)
{
    char *copy = clean_copy(text);
    fputs(copy, out);
    free(copy);
}

/* Characters of UTF-8 text: bytes that do not go on a character. */
static size_t text_width(const char *text)
{
    size_t width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static void add_row(struct table *table, struct row *row)
{
    for (size_t i = 0; i < table->columns; i++) {
        size_t width = text_width(row->cell[i]);
        if (width > table->width[i])
            table->width[i] = width;
    }
    *table->last = row;
    table->last = &row->next;
}

struct table *table_new(const char *const *titles)
{
    struct table *table = calloc(1, sizeof(*table));
    struct row *row = calloc(1, sizeof(*row));
    CHECK(table && row);
    table->last = &table->first;
    while (titles[table->columns]) {
        const char *title = titles[table->columns];
        CHECK(table->columns < TABLE_COLUMNS_MAX);
        table->right[table->columns] = title[0] == '>';
        row->cell[table->columns] = clean_copy(title + (title[0] == '>'));
        table->columns++;
    }
    add_row(table, row);
    return table;
}

void table_row(struct table *table, ...)
{
    struct row *row = calloc(1, sizeof(*row));
    va_list args;
    CHECK(row);
    va_start(args, table);
    for (size_t i = 0; i < table->columns; i++)
        row->cell[i] = clean_copy(va_arg(args, const char *));
    va_end(args);
    add_row(table, row);
}

static void print_row(const struct table *table, const struct row *row, FILE *out)
{
    for (size_t i = 0; i < table->columns; i++) {
        size_t pad = table->width[i] - text_width(row->cell[i]);
        bool last = i + 1 == table->columns;
        if (table->right[i])
            fprintf(out, "%*s%s%s", (int)pad, "", row->cell[i], last ? "" : "  ");
        else
            fprintf(out, "%s%*s", row->cell[i], last ? 0 : (int)pad + 2, "");
    }
    fputc('\n', out);
}

void table_print(struct table *table, FILE *out)
{
    for (const struct row *row = table->first; row; row = row->next)
        print_row(table, row, out);
    table_free(table);
}

void table_free(struct table *table)
{
    while (table->first) {
        struct row *row = table->first;
        table->first = row->next;
        for (size_t i = 0; i < table->columns; i++)
            free(row->cell[i]);
        free(row);
    }
    free(table);
}

static const char *figure(double value, double step, const char *const *units, size_t count,
                          char out[FIGURE_MAX])
{
    size_t unit = 0;
    for (; value >= step && unit + 1 < count; unit++)
        value /= step;
    bool whole = value >= 100 || (unit == 0 && value == (double)(long long)value);
    snprintf(out, FIGURE_MAX, whole ? "%.0f%s" : "%.1f%s", value, units[unit]);
    return out;
}

const char *figure_bytes(double bytes, char out[FIGURE_MAX])
{
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB"};
    return figure(bytes, 1024, units, ARRAY_SIZE(units), out);
}

const char *figure_count(double count, char out[FIGURE_MAX])
{
    static const char *const units[] = {"", "k", "M", "G"};
    return figure(count, 1000, units, ARRAY_SIZE(units), out);
}

const char *figure_us(double us, char out[FIGURE_MAX])
{
    static const char *const units[] = {" us", " ms", " s"};
    return figure(us, 1000, units, ARRAY_SIZE(units), out);
}

const char *figure_seconds(long long seconds, char out[FIGURE_MAX])
{
    if (seconds >= 86400)
        snprintf(out, FIGURE_MAX, "%lldd %lldh", seconds / 86400, seconds / 3600 % 24);
    else if (seconds >= 3600)
        snprintf(out, FIGURE_MAX, "%lldh %lldm", seconds / 3600, seconds / 60 % 60);
    else if (seconds >= 60)
        snprintf(out, FIGURE_MAX, "%lldm %llds", seconds / 60, seconds % 60);
    else
        snprintf(out, FIGURE_MAX, "%llds", seconds);
    return out;
}
