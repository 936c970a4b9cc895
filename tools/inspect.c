/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* avatar inspect MODEL|FILE, on one screen. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "file.h"
#include "files/inspect.h"
#include "manifest.h"
#include "options.h"
#include "speak.h"

int cmd_inspect(int argc, char **argv)
{
    const Log log = { .write = tool_log_line, .level = LOG_WARNING };
    ToolOptions o;
    char *text = NULL, folder[PATH_MAX];
    int ret = tool_options(&o, argc, argv);

    if (ret)
        return ret;
    if (o.help || o.nb_positional != 1) {
        fprintf(o.help ? stdout : stderr, "usage: avatar inspect MODEL|FILE\n       avatar inspect --manifest MODEL > MODEL/" MANIFEST_NAME "\n");
        return o.help ? 0 : 2;
    }
    if (tool_takes(&o, "inspect", " manifest"))
        return 2;
    o.engine.model = o.positional[0];
    avt_options_folder(folder, &o.engine);
    if (o.manifest && manifest_write(folder, stdout) < 0)
        return fprintf(stderr, "avatar: %s: %s\n", file_shown(folder), strerror(errno)), 1;
    if (o.manifest)
        return 0;
    ret = avt_inspect(&text, folder, &log);
    if (text)
        fputs(text, stdout);
    avt_free(text);
    return ret < 0;
}
