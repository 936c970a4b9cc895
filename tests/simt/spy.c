/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tells the bed the operands of every op: stands between the library and the CUDA backend's table. Linked with
 * -Wl,--wrap=avt_backend_cuda_open, so that neither knows.
 */
#include <pthread.h>

#include "control.h"
#include "cuda/cuda.h"

int __real_avt_backend_cuda_open(Backend *be);
int __wrap_avt_backend_cuda_open(Backend *be);

static const BackendClass *real;
static BackendClass seen;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t scale_bytes(Tensor t)
{
    return t.scale ? (size_t)avt_rows_of(t) * sizeof(float) : 0;
}

static int run(Backend *be, const OpCall *c)
{
    static const char *const name[OP_MAX_IN] = { "operand 0", "operand 1", "operand 2", "operand 3", "operand 4", "operand 5", "operand 6", "operand 7" };
    SimtSpan span[2 * (OP_MAX_IN + OP_MAX_OUT)] = { { c->out.data, avt_nbytes(c->out), 1, "the result" },
                                                    { c->out.scale, scale_bytes(c->out), 1, "the result's scales" } };
    const Cuda *cuda = avt_cuda(be);
    int ret, nb = 2;

    for (int i = 0; i < OP_MAX_OUT - 1; i++)
        if (c->more[i].be)
            span[nb++] = (SimtSpan){ c->more[i].data, avt_nbytes(c->more[i]), 1, "a further result" };
    for (int i = 0; i < OP_MAX_IN; i++)
        if (c->in[i].be) {
            span[nb++] = (SimtSpan){ c->in[i].data, avt_nbytes(c->in[i]), 0, name[i] };
            span[nb++] = (SimtSpan){ c->in[i].scale, scale_bytes(c->in[i]), 0, "scales of an operand" };
        }
    simt_operands(avt_op_name(c->op), span, nb, &cuda->workspace, &cuda->workspace_size);
    ret = real->run(be, c);
    simt_operands(NULL, NULL, 0, NULL, NULL);
    return ret;
}

int __wrap_avt_backend_cuda_open(Backend *be)
{
    const int ret = __real_avt_backend_cuda_open(be);

    if (ret < 0)
        return ret;
    pthread_mutex_lock(&lock);
    if (!real) {
        seen = *be->cls;
        seen.run = run;
        real = be->cls;
    }
    pthread_mutex_unlock(&lock);
    be->cls = &seen;
    return ret;
}
