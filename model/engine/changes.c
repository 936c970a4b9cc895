/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Changes of a stream that wait for their block. See conductor.h. */
#include "engine/conductor.h"

/* Put `from` on top of what `to` holds. */
static void add_up(Changes *to, Changes *from)
{
    if (from->prompt) {
        avt_free(to->prompt);
        to->prompt = from->prompt;
    }
    if (from->picture) {
        avt_free(to->picture);
        to->picture = from->picture;
    }
    if (from->seed != KEEP_SEED)
        to->seed = from->seed;
    to->prompt_id += from->prompt_id;
}

int avt_changes_add(AvatarSession *s, int64_t block, Changes *ch)
{
    LaterChange **at = &s->later, *l;

    while (*at && (*at)->block < block)
        at = &(*at)->next;
    if (*at && (*at)->block == block) {
        add_up(&(*at)->ch, ch);
        return 0;
    }
    l = avt_calloc(MEM_SESSION, 1, sizeof(*l));
    if (!l)
        return AVT_ERR(ENOMEM);
    *l = (LaterChange){ .next = *at, .block = block, .ch = *ch };
    *at = l;
    return 0;
}

void avt_changes_due(AvatarSession *s, int64_t block)
{
    while (s->later && s->later->block <= block) {
        LaterChange *l = s->later;

        s->later = l->next;
        add_up(&s->next, &l->ch);
        avt_free(l);
    }
}

void avt_changes_free(AvatarSession *s)
{
    avt_changes_due(s, INT64_MAX);
    avt_freep(&s->next.picture);
    avt_freep(&s->next.prompt);
}
