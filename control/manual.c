/* SPDX-License-Identifier: Apache-2.0 */
#include "control/manual.h"

#include "control/settings.h"

/* A line that begins with a dot or a quote would be a macro; a hyphen would be typeset as a dash. */
static void print_text(FILE *out, const char *text)
{
    if (*text == '.' || *text == '\'')
        fputs("\\&", out);
    for (; *text; text++) {
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else
            fputc(*text, out);
    }
    fputc('\n', out);
}

void manual_print_settings(FILE *out)
{
    for (int i = 0; i < SETTINGS_COUNT; i++) {
        const struct setting_info *info = setting_info(i);
        char lowest[SETTING_TEXT_MAX], highest[SETTING_TEXT_MAX], initial[SETTING_TEXT_MAX];
        setting_format(i, info->min, lowest);
        setting_format(i, info->max, highest);
        setting_format(i, info->def, initial);
        fprintf(out, ".TP\n.B %s\n", info->name);
        print_text(out, info->text);
        if (info->type == SETTING_BOOL)
            fprintf(out, "Boolean; default %s.\n", initial);
        else
            fprintf(out, "%c%s from %s to %s; default %s.\n", setting_type_name(info->type)[0] - 'a' + 'A',
                    setting_type_name(info->type) + 1, lowest, highest, initial);
    }
}
