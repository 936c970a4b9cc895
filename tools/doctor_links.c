/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is between devices and between processes: copies from GPU to GPU, each way measured; whether NCCL starts; which threads MPI allows.
 * Both libraries are opened at run time, in a child that is given START_SECONDS: a start that hangs is what is looked for.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/thread.h"
#include "comm/mpi_plugin.h"
#include "doctor.h"
#include "kernels.h"
#include "nvml.h"

#define GPUS          16
#define COPY_BYTES    ((int64_t)64 << 20)
#define COPIES        3
#define SLOW_GBPS     4.0                           // PCIe 4 over 16 lanes gives 25, over 4 lanes 6; through the host's memory less
#define START_SECONDS 10

/* ---- in a child ------------------------------------------------------------------------------------------------------------ */

typedef struct Said {                   // the first byte is the Verdict
    char verdict, text[200];
} Said;

typedef void Trial(Said *s, unsigned gpus);

static void run_child(Trial *trial, unsigned gpus, int out)
{
    const int null = open("/dev/null", O_RDWR);
    Said s = { .verdict = GOOD };

    dup2(null, 1);                                                  // what libraries have to say is not the doctor's
    dup2(null, 2);
    trial(&s, gpus);
    _exit(write(out, &s, sizeof(s)) != sizeof(s));
}

/* @return 1: it has said something; 0: it has not in time, or ended without a word */
static int try_in_child(Said *s, Trial *trial, unsigned gpus)
{
    struct pollfd p = { .events = POLLIN };
    int ends[2], done = 0;
    pid_t child;

    if (pipe(ends) < 0)
        return 0;
    child = fork();
    if (!child)
        run_child(trial, gpus, ends[1]);
    close(ends[1]);
    p.fd = ends[0];
    if (child > 0 && poll(&p, 1, START_SECONDS * 1000) == 1)
        done = read(ends[0], s, sizeof(*s)) == sizeof(*s);
    close(ends[0]);
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    return done;
}

/* ---- copies between GPUs ----------------------------------------------------------------------------------------------------- */

typedef struct End {
    Backend *be;
    Arena *arena;
    Tensor t;
} End;

static int open_end(End *e, int index)
{
    const BackendOptions opt = { .threads = 1 };
    char device[16];
    int ret;

    snprintf(device, sizeof(device), "cuda%d", index);
    ret = avt_backend_open(&e->be, device, &opt);
    if (ret >= 0)
        ret = avt_arena_open(&e->arena, e->be, "copies", COPY_BYTES + 4096);
    if (ret >= 0)
        e->t = avt_new(e->arena, DT_U8, COPY_BYTES);
    return ret;
}

static void close_end(End *e)
{
    if (e->be)
        avt_arena_close(&e->arena);
    avt_backend_close(&e->be);
}

/* GB/s, the best of some; 0: it fails. */
static double copy_rate(const End *from, const End *to)
{
    double best = 0;

    for (int i = 0; i <= COPIES; i++) {
        const int64_t start = avt_now_ns();

        avt_copy(to->be, to->t, from->t);
        if (avt_sync(to->be) < 0)
            return 0;
        if (i && (double)COPY_BYTES / (double)(avt_now_ns() - start) > best)
            best = (double)COPY_BYTES / (double)(avt_now_ns() - start);
    }
    return best;
}

static void judge_row(Findings *f, const End *end, const int *index, int nb, int from)
{
    double least = 1e9;
    char text[160] = "";

    for (int to = 0; to < nb; to++) {
        const double rate = to == from ? 1e9 : copy_rate(&end[from], &end[to]);
        const size_t n = strlen(text);

        least = rate < least ? rate : least;
        if (to != from)
            snprintf(text + n, sizeof(text) - n, "%s cuda%d %.1f", n ? "," : "", index[to], rate);
    }
    doctor_words(f, "devices", "copies between GPUs", least <= 0 ? BAD : least < SLOW_GBPS ? DOUBTFUL : GOOD, "cuda%d to%s GB/s", index[from], text);
    doctor_remedy(f, least <= 0 ? "they fail: see the driver's log (dmesg), and IOMMU and ACS in the firmware" :
                                  "slower than four lanes of PCIe 4: see nvidia-smi topo -m; another slot, or plan=layer, which sends least");
}

static void look_at_copies(Findings *f)
{
    End end[GPUS] = { { .be = NULL } };
    int index[GPUS];
    const int nb = avt_devices_found(index, GPUS, NULL);
    int open = 0;

    while (open < nb && open_end(&end[open], index[open]) >= 0)
        open++;
    if (nb < 2)
        doctor_words(f, "devices", "copies between GPUs", GOOD, nb ? "one GPU: there is nothing to copy to" : "no GPU that can be used");
    else if (open < nb) {
        doctor_words(f, "devices", "copies between GPUs", DOUBTFUL, "cuda%d cannot be opened", index[open]);
        doctor_remedy(f, "leave it out of devices=, or see what else uses it: nvidia-smi");
    }
    for (int i = 0; i < nb && nb > 1 && open == nb; i++)
        judge_row(f, end, index, nb, i);
    for (int i = 0; i < nb; i++)
        close_end(&end[i]);
}

/* ---- NCCL -------------------------------------------------------------------------------------------------------------------- */

static unsigned count_gpus(void)
{
    unsigned nb = 0;
    Nvml n;

    if (nvml_open(&n)) {
        n.count(&nb);
        nvml_close(&n);
    }
    return nb < GPUS ? nb : GPUS;
}

static void start_nccl(Said *s, unsigned gpus)
{
    void *lib = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL), *comm[GPUS];
    int (*version)(int *) = NULL, (*init)(void **, int, const int *) = NULL, v = 0, ret = 0;

    if (!lib) {
        snprintf(s->text, sizeof(s->text), "not there, and not needed: GPUs of one process copy by themselves");
        return;
    }
    *(void **)&version = dlsym(lib, "ncclGetVersion");
    *(void **)&init = dlsym(lib, "ncclCommInitAll");
    if (version)
        version(&v);
    if (gpus && init)
        ret = init(comm, (int)gpus, NULL);
    s->verdict = (char)(ret ? DOUBTFUL : GOOD);
    snprintf(s->text, sizeof(s->text), ret ? "%d.%d does not start on %u GPUs: error %d" : gpus ? "%d.%d starts on %u GPUs" : "%d.%d, and no GPU to start on",
             v / 10000, v / 100 % 100, gpus, ret);
}

static void look_at_nccl(Findings *f)
{
    Said s = { .verdict = DOUBTFUL };

    if (!try_in_child(&s, start_nccl, count_gpus()))
        snprintf(s.text, sizeof(s.text), "it does not start within %d s", START_SECONDS);
    doctor_words(f, "devices", "NCCL", (Verdict)s.verdict, "%s", s.text);
    doctor_remedy(f, "NCCL_DEBUG=INFO says where it stops; IOMMU and ACS in the firmware, or too small a /dev/shm, are the usual reasons");
}

/* ---- MPI --------------------------------------------------------------------------------------------------------------------- */

static void start_mpi(Said *s, unsigned gpus)
{
    const WorldCard own = { .worker = 0 };
    WorldMeeting m;
    const int ret = avt_mpi_meet(&m, &own);

    (void)gpus;
    s->verdict = (char)(ret < 0 && !strstr(m.why, "is neither") ? DOUBTFUL : GOOD);     // a build without MPI has no fault
    snprintf(s->text, sizeof(s->text), "%.199s", ret < 0 ? m.why : "it starts, with MPI_THREAD_MULTIPLE");
}

static void look_at_mpi(Findings *f, const ToolOptions *o)
{
    Said s = { .verdict = DOUBTFUL };

    if (o->engine.launched) {
        doctor_words(f, "devices", "MPI", GOOD, "this is a process of mpirun; look at the machine without it");
        return;
    }
    if (!o->full && !(o->engine.devices && strchr(o->engine.devices, ':'))) {
        doctor_words(f, "devices", "MPI", GOOD, "not started: --full does, or --devices with workers, as in 1:cpu");
        return;
    }
    if (!try_in_child(&s, start_mpi, 0))
        snprintf(s.text, sizeof(s.text), "it does not start within %d s", START_SECONDS);
    doctor_words(f, "devices", "MPI", (Verdict)s.verdict, "%s", s.text);
    doctor_remedy(f, "try mpirun -n 2 hostname; films on several hosts need it (doc/cluster.md), others do not");
}

void doctor_links(Findings *f, const ToolOptions *o)
{
    look_at_copies(f);
    look_at_nccl(f);
    look_at_mpi(f, o);
}
