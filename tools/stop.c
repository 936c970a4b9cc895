/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Signals that stop `avatar speak`. See stop.h. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "file.h"
#include "stop.h"

static struct {
    pthread_mutex_t lock;
    AvatarSession *session;
    int asked, at_once;
    void (*remove)(const char *path);
    const char *path;
} stop = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int is_ignored(int sig)
{
    struct sigaction now;

    return !sigaction(sig, NULL, &now) && now.sa_handler == SIG_IGN;
}

/* What people and systems end a program with: also a terminal that closes (unless nohup said to stay) and a used-up limit of time. */
static sigset_t stop_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGQUIT);
    sigaddset(&set, SIGXCPU);
    if (!is_ignored(SIGHUP))
        sigaddset(&set, SIGHUP);
    return set;
}

static void end_now(void)
{
    file_abandon();
    if (stop.path && *stop.path)
        stop.remove(stop.path);
    fprintf(stderr, "avatar: interrupted\n");
    _exit(1);
}

static void *watch(void *arg)
{
    const sigset_t set = stop_signals();
    int sig;

    (void)arg;
    if (sigwait(&set, &sig))
        return NULL;
    pthread_mutex_lock(&stop.lock);
    stop.asked = 1;
    if (stop.at_once)
        end_now();
    if (stop.session)
        avatar_session_abort(stop.session);
    pthread_mutex_unlock(&stop.lock);
    do
        if (sigwait(&set, &sig))
            return NULL;
    while (sig == SIGXCPU);             // which comes again with each second
    end_now();
    return NULL;
}

int stop_watch(void)
{
    const sigset_t set = stop_signals();
    pthread_t thread;

    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (pthread_create(&thread, NULL, watch, NULL)) {
        fprintf(stderr, "avatar: the system gives no thread: raise the limit of processes (ulimit -u) or of memory (ulimit -v)\n");
        return AVATAR_ERR(ENOMEM);
    }
    pthread_detach(thread);
    return 0;
}

int stop_asked(void)
{
    int asked;

    pthread_mutex_lock(&stop.lock);
    asked = stop.asked;
    pthread_mutex_unlock(&stop.lock);
    return asked;
}

void stop_removes(void (*remove_it)(const char *path), const char *path)
{
    pthread_mutex_lock(&stop.lock);
    stop.remove = remove_it;
    stop.path = path;
    pthread_mutex_unlock(&stop.lock);
}

void stop_session(AvatarSession *s)
{
    pthread_mutex_lock(&stop.lock);
    stop.session = s;
    if (s && stop.asked)
        avatar_session_abort(s);
    pthread_mutex_unlock(&stop.lock);
}

void stop_at_once(int on)
{
    pthread_mutex_lock(&stop.lock);
    stop.at_once = on;
    if (on && stop.asked)
        end_now();
    pthread_mutex_unlock(&stop.lock);
}
