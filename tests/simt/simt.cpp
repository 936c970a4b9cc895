/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* simt.cpp - CUDA device side + runtime API on the CPU.  x86-64 SysV, one global lock.
 * Memory checks come from -fsanitize=thread instrumentation of the kernel sources: the
 * __tsan_* hooks are defined HERE, libtsan is not linked. */
#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdarg.h>
#include <string.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#include <memory>
#include <deque>
#include <vector>
#include <map>
#include <string>
#include <mutex>
#include <condition_variable>
#include <functional>
#include <algorithm>
#include "simt_host.h"
typedef uint32_t u32; typedef uint64_t u64; typedef uintptr_t up;

struct SimtThread { uint3 tid, bid; dim3 bdim, gdim; };
thread_local SimtThread *simt_cur;                 // a kernel runs on the thread that drives the queue; other threads are host code meanwhile
/* ------------------------------------------------------------------ config, reports */
enum { EAGER, LAZY, RANDOM };
static int g_mode, g_order; static u64 g_rng = 88172645463325252ull; static int g_verbose = 2;
static std::recursive_mutex G; static std::condition_variable_any GC;
static u32 rnd(u32 n) { g_rng ^= g_rng << 13; g_rng ^= g_rng >> 7; g_rng ^= g_rng << 17; return (u32)((g_rng >> 16) % n); }
static std::map<std::string, long> g_err;
static SimtStats S;
extern "C" long simt_errors(const char *kind) { long n = 0; for (auto &e : g_err) if (!kind || e.first == kind) n += e.second; return n; }
extern "C" const char *simt_kinds(void) { static std::string s; s.clear(); for (auto &e : g_err) s += e.first + ":" + std::to_string(e.second) + " "; return s.c_str(); }
extern "C" void simt_clear(void) { g_err.clear(); }
extern "C" void simt_config(const char *mode, const char *order, u64 seed, int verbose)
{
    g_mode = !strcmp(mode, "lazy") ? LAZY : !strcmp(mode, "random") ? RANDOM : EAGER;
    g_order = !strcmp(order, "rev") ? 1 : !strcmp(order, "rand") ? 2 : 0;
    g_rng = 88172645463325252ull + seed * 7919; g_verbose = verbose;
}
extern "C" SimtStats *simt_stats(void) { return &S; }
static bool g_instr; static void *g_pc;
static struct Kern { const char *name; u32 op; } K;
struct Fiber; static thread_local Fiber *cur;
static void report(const char *kind, const char *fmt, ...);
static void fatal_in_kernel(void) __attribute__((noreturn));

/* ------------------------------------------------------------------ address spaces */
#define DEV 0x200000000000ull
#define DEVSZ (64ull << 30)
#define PIN 0x280000000000ull
#define PINSZ (16ull << 30)
#define SHM 0x300000000000ull
#define SHMSZ (256u << 10)
#define PAR 0x310000000000ull
#define STK 0x500000000000ull
#define STKSZ (128u << 10)
struct Cell { u32 wop, wblk, wep, wwep, rop, rblk, rep, rwep; uint16_t wtid, rtid; uint16_t pend, pad; }; /* 40 bytes per byte */
#define TATOM 0xfffe
#define TMULTI 0xfffd
#define TWARP 0x8000          /* | warp: several readers, one warp */
static Cell *dcell, *scell; static uint8_t *smem_ok;
struct Alloc { up p; size_t n; int dev; bool pinned; };
static std::map<up, Alloc> allocs; static up dev_next = DEV + 65536, pin_next = PIN + 65536; static Alloc last_alloc;
static std::map<up, size_t> zeroed;          /* ranges that a memset of whole pages has cleared: nothing in them is uninitialised */
static bool is_zeroed(up a) { auto i = zeroed.upper_bound(a); if (i == zeroed.begin()) return false; --i; return a < i->first + i->second; }
static int dev_open;
static void dev_protect(bool open) { if (dev_open == open) return; dev_open = open; for (auto &i : allocs) if (!i.second.pinned) mprotect((void *)i.second.p, (i.second.n + 4095) & ~4095ull, open ? PROT_READ | PROT_WRITE : PROT_NONE); }
static Alloc *find(up a)
{
    if (a >= last_alloc.p && a < last_alloc.p + last_alloc.n) return &last_alloc;
    auto i = allocs.upper_bound(a); if (i == allocs.begin()) return 0; --i;
    if (a >= i->second.p + i->second.n) return 0;
    last_alloc = i->second; return &last_alloc;
}
static void on_segv(int, siginfo_t *si, void *)
{
    up a = (up)si->si_addr;
    fprintf(stderr, "simt: SIGSEGV at %p%s\n", si->si_addr, a >= DEV && a < DEV + DEVSZ ? " = HOST CODE TOUCHED DEVICE MEMORY" : a >= STK && a < STK + (1ull << 30) ? " = kernel stack overflow" : "");
    fflush(stdout); _exit(86);
}
static char g_altstack[65536];
/* what was found is a failure of the program, whatever the program itself thinks */
static void at_exit(void)
{
    if (!g_err.empty()) { fflush(stdout); fprintf(stderr, "simt: FAILED: %s\n", simt_kinds()); _exit(86); }
}
static void init(void)
{
    static bool done; if (done) return; done = true; atexit(at_exit);
    int f = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    mmap((void *)DEV, DEVSZ, PROT_NONE, f, -1, 0); mmap((void *)PIN, PINSZ, PROT_READ | PROT_WRITE, f, -1, 0);
    mmap((void *)SHM, SHMSZ, PROT_READ | PROT_WRITE, f, -1, 0); mmap((void *)STK, 1024ull * STKSZ, PROT_READ | PROT_WRITE, f, -1, 0);
    mmap((void *)PAR, 4096, PROT_READ | PROT_WRITE, f, -1, 0);
    for (int i = 0; i < 1024; i++) mprotect((void *)(STK + (u64)i * STKSZ), 4096, PROT_NONE);
    dcell = (Cell *)mmap((void *)0x400000000000ull, DEVSZ * sizeof(Cell), PROT_READ | PROT_WRITE, f, -1, 0);
    scell = (Cell *)calloc(SHMSZ, sizeof(Cell)); smem_ok = (uint8_t *)calloc(SHMSZ, 1);
    if ((void *)dcell == MAP_FAILED) { perror("simt: shadow"); abort(); }
    stack_t ss; memset(&ss, 0, sizeof ss); ss.ss_sp = g_altstack; ss.ss_size = sizeof g_altstack; sigaltstack(&ss, 0);
    struct sigaction sa; memset(&sa, 0, sizeof sa); sa.sa_sigaction = on_segv; sa.sa_flags = SA_SIGINFO | SA_ONSTACK; sigaction(SIGSEGV, &sa, 0);
    if (getenv("SIMT_MODE")) simt_config(getenv("SIMT_MODE"), getenv("SIMT_ORDER") ? getenv("SIMT_ORDER") : "fwd", getenv("SIMT_SEED") ? atoi(getenv("SIMT_SEED")) : 0, g_verbose);
}

/* ------------------------------------------------------------------ fibers */
extern "C" void simt_switch(void **save, void *load);
asm(".text\n.globl simt_switch\n.type simt_switch,@function\nsimt_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\nmov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.size simt_switch,.-simt_switch\n");
struct Pend { void *dst; const void *src; int n, pred; u32 grp; };
struct Group { u32 mask, got; int kind; };
struct Warp { Group g[4]; void *arg[32]; u32 ep, exited; };
struct Fiber { void *sp; SimtThread *t; u32 idx, lane; Warp *w; up lo, hi; u32 grp; std::vector<Pend> pend; int state; int bpred, *bout, bkind; };
static Fiber F[1024]; static Warp W[32];
static std::deque<Fiber *> ready; static void *main_sp; static int live, nbar, nthr; static bool failed;
static u32 blk_serial, bar_ep; static void (*kfn)(void *); static size_t smem_static_off, smem_dyn; static std::map<const void *, size_t> smem_keys;

static void report(const char *kind, const char *fmt, ...)
{
    long n = ++g_err[kind];
    if (n > g_verbose) return;
    char b[512]; va_list ap; va_start(ap, fmt); vsnprintf(b, sizeof b, fmt, ap); va_end(ap);
    if (cur && g_pc) { char c[128], o[256] = ""; snprintf(c, sizeof c, "addr2line -s -i -e /proc/%d/exe %p", getpid(), (void *)((char *)g_pc - 1)); FILE *p = popen(c, "r"); if (p) { char q[256]; while (fgets(q, sizeof q, p)) if (!strstr(q, "simt.h") && !strstr(q, "gpu.cuh")) { strcpy(o, q); break; } o[strcspn(o, " \n")] = 0; pclose(p); } strncat(b, " at ", sizeof b - strlen(b) - 1); strncat(b, o, sizeof b - strlen(b) - 1); }
    if (cur) fprintf(stderr, "simt: %s: %s [kernel %s block %u,%u,%u thread %u,%u]\n", kind, b, K.name, cur->t->bid.x, cur->t->bid.y, cur->t->bid.z, cur->t->tid.x, cur->t->tid.y);
    else fprintf(stderr, "simt: %s: %s\n", kind, b);
}
static void fatal_in_kernel(void) { failed = true; void *d; cur = 0; simt_switch(&d, main_sp); abort(); }
static Fiber *next(void)
{
    if (ready.empty()) return 0;
    if (g_order == 2) std::swap(ready.front(), ready[rnd(ready.size())]);
    Fiber *f = ready.front(); ready.pop_front(); return f;
}
static void go(Fiber *f, void **save) { cur = f; simt_cur = f->t; S.switches++; simt_switch(save, f->sp); }
static void block(void)
{
    Fiber *me = cur, *f = next();
    if (!f) {
        int b = nbar; report("barrier-deadlock", "%d of %d live threads wait at __syncthreads, the rest at a warp operation", b, live);
        fatal_in_kernel();
    }
    if (f == me) return;
    go(f, &me->sp);
}
static void wake(Fiber **l, int n) { if (g_order == 1) for (int i = n - 1; i >= 0; i--) ready.push_back(l[i]); else for (int i = 0; i < n; i++) ready.push_back(l[i]); }
static void bar_release(void)
{
    static Fiber *l[1024]; int n = 0, c = 0, a = 1, o = 0;
    for (int i = 0; i < nthr; i++) if (F[i].state == 1) { l[n++] = &F[i]; c += !!F[i].bpred; a &= !!F[i].bpred; o |= !!F[i].bpred; }
    for (int i = 0; i < n; i++) { l[i]->state = 0; if (l[i]->bout) *l[i]->bout = l[i]->bkind == 1 ? c : l[i]->bkind == 2 ? a : o; if (l[i]->bkind != l[0]->bkind) report("barrier-mismatch", "different barriers met"); }
    nbar = 0; bar_ep++; wake(l, n);
}
static void fiber_main(void)
{
    kfn((void *)PAR);
    for (auto &p : cur->pend) if (p.pred) memcpy(p.dst, p.src, p.n); else memset(p.dst, 0, p.n);
    if (!cur->pend.empty()) { report("cp.async-unwaited", "thread ended with %zu copies in flight", cur->pend.size()); cur->pend.clear(); }
    live--; cur->w->exited |= 1u << cur->lane; cur->state = 3;
    for (auto &g : cur->w->g) if (g.got && (g.mask >> cur->lane & 1)) { report("warp-divergence", "a lane named in mask %08x has exited", g.mask); fatal_in_kernel(); }
    if (live && nbar == live) bar_release();
    void *d; Fiber *f = next();
    if (f) go(f, &d);
    if (live) { report("barrier-deadlock", "%d threads wait for ever, %d of them at __syncthreads", live, nbar); }
    cur = 0; simt_switch(&d, main_sp);
}
static void run_block(dim3 bdim, dim3 gdim, uint3 bid)
{
    nthr = live = bdim.x * bdim.y * bdim.z; nbar = 0; blk_serial++; bar_ep = 1; ready.clear(); memset(W, 0, sizeof W);
    memset((void *)SHM, 0xff, SHMSZ < smem_dyn + 49152 ? SHMSZ : smem_dyn + 49152);   /* NaN everywhere */
    Fiber *l[1024];
    for (int i = 0; i < nthr; i++) {
        Fiber &f = F[i]; f.idx = i; f.lane = i & 31; f.w = &W[i >> 5]; f.lo = STK + (u64)i * STKSZ + 4096; f.hi = STK + (u64)(i + 1) * STKSZ; f.state = 0; f.grp = 0; f.pend.clear();
        f.t = (SimtThread *)(f.hi - 128); f.t->bdim = bdim; f.t->gdim = gdim; f.t->bid = bid;
        f.t->tid = make_uint3(i % bdim.x, i / bdim.x % bdim.y, i / bdim.x / bdim.y);
        void **sp = (void **)(f.hi - 256); *--sp = 0; *--sp = (void *)fiber_main; for (int k = 0; k < 6; k++) *--sp = 0; f.sp = sp; l[i] = &f;
    }
    for (int w = 0; w * 32 < nthr; w++) if (nthr - w * 32 < 32) W[w].exited = ~0u << (nthr - w * 32);
    wake(l, nthr);
    go(next(), &main_sp); cur = 0;
}
extern "C" void simt_sync(int kind, int pred, int *out)
{
    Fiber *f = cur; f->bkind = kind; f->bpred = pred; f->bout = out; f->state = 1; S.barriers++;
    for (auto &g : f->w->g) if (g.got) report("barrier-divergence", "__syncthreads while lanes %08x of this warp wait at a warp operation", g.got);
    if (++nbar == live) bar_release();
    block();
}
/* warp collective: the last lane to arrive computes for all */
static void collective(int kind, u32 mask, void *arg, void (*fn)(void **, u32))
{
    Fiber *f = cur; Warp *w = f->w; u32 bit = 1u << f->lane; S.collectives++;
    if (!(mask & bit)) { report("warp-mask", "lane %u calls with mask %08x that does not name it", f->lane, mask); fatal_in_kernel(); }
    if (mask & w->exited) { report("warp-divergence", "mask %08x names exited lanes %08x", mask, mask & w->exited); fatal_in_kernel(); }
    Group *g = 0; for (auto &x : w->g) if (x.got && (x.mask & mask)) { g = &x; break; }
    if (!g) for (auto &x : w->g) if (!x.got) { g = &x; g->mask = mask; g->kind = kind; break; }
    if (g->mask != mask || g->kind != kind) { report("warp-divergence", "lane %u: operation %d mask %08x meets operation %d mask %08x", f->lane, kind, mask, g->kind, g->mask); fatal_in_kernel(); }
    w->arg[f->lane] = arg; g->got |= bit;
    if (g->got == mask) {
        if (fn) fn(w->arg, mask);
        if (kind == 1 && (mask | w->exited) == ~0u) w->ep++;
        Fiber *l[32]; int n = 0; for (int i = 0; i < 32; i++) if ((mask >> i & 1) && i != (int)f->lane) l[n++] = f - f->lane + i;
        g->got = 0; wake(l, n);
    } else block();
}
extern "C" void simt_syncwarp(unsigned m) { collective(1, m, 0, 0); }
struct SimtShfl { u64 v, r; int kind, arg, width; };
struct SimtVote { int pred, kind; unsigned r; };
static void do_shfl(void **a, u32 mask)
{
    for (int i = 0; i < 32; i++) if (mask >> i & 1) {
        SimtShfl *x = (SimtShfl *)a[i]; int w = x->width, base = i & ~(w - 1), s;
        if (x->kind == 0) s = base + (x->arg & (w - 1));
        else if (x->kind == 1) s = i - x->arg < base ? i : i - x->arg;
        else if (x->kind == 2) s = i + x->arg >= base + w ? i : i + x->arg;
        else { s = i ^ x->arg; if (s >= base + w) s = i; }
        if (!(mask >> s & 1)) { report("shfl-inactive", "lane %d reads lane %d, not in mask %08x", i, s, mask); x->r = ~0ull; }
        else x->r = ((SimtShfl *)a[s])->v;
    }
}
extern "C" void simt_shfl(unsigned m, SimtShfl *x) { collective(2, m, x, do_shfl); }
static void do_vote(void **a, u32 mask)
{
    u32 b = 0; for (int i = 0; i < 32; i++) if (mask >> i & 1) b |= (u32) !!((SimtVote *)a[i])->pred << i;
    for (int i = 0; i < 32; i++) if (mask >> i & 1) { SimtVote *x = (SimtVote *)a[i]; x->r = x->kind == 0 ? b : x->kind == 1 ? b != 0 : b == mask; }
}
extern "C" void simt_vote(unsigned m, SimtVote *x) { collective(3, m, x, do_vote); }
struct Ldsm { uint32_t *r; const uint8_t *p; };
static void ldsm(void **a, u32, int trans)
{
    for (int j = 0; j < 4; j++) { u32 banks = 0; for (int k = 0; k < 8; k++) banks |= 1u << (((up)((Ldsm *)a[j * 8 + k])->p >> 4) & 7); S.ldsm_phases++; S.ldsm_conflicts += 8 - __builtin_popcount(banks); }
    for (int l = 0; l < 32; l++) for (int j = 0; j < 4; j++) {
        uint16_t v[2];
        for (int e = 0; e < 2; e++) { int row = trans ? 2 * (l & 3) + e : l >> 2, col = trans ? l >> 2 : 2 * (l & 3) + e; memcpy(&v[e], ((Ldsm *)a[j * 8 + row])->p + 2 * col, 2); }
        memcpy(&((Ldsm *)a[l])->r[j], v, 4);
    }
}
static void do_ldsm0(void **a, u32 m) { ldsm(a, m, 0); }
static void do_ldsm1(void **a, u32 m) { ldsm(a, m, 1); }
extern "C" void simt_read(const void *, size_t, size_t); extern "C" void simt_write(void *, size_t, size_t);
extern "C" void simt_ldsm(void *r, const void *p, int trans)
{
    if ((up)p < SHM || (up)p >= SHM + SHMSZ) { report("address-space", "ldmatrix from %p, not shared memory", p); fatal_in_kernel(); }
    simt_read(p, 16, 16); Ldsm x = {(uint32_t *)r, (const uint8_t *)p}; collective(4 + trans, ~0u, &x, trans ? do_ldsm1 : do_ldsm0);
}
struct Mma { float *c; const uint32_t *a, *b; };
static float e4m3f[256]; static void e4m3init(void) { for (int i = 0; i < 256; i++) { __nv_fp8_e4m3 x; x.__x = i; e4m3f[i] = (float)x; } }
static void mma(void **arg, int fp8)
{
    int KK = fp8 ? 32 : 16; float A[16][32], B[32][8], C[16][8];
    for (int l = 0; l < 32; l++) { /* documented fragment layouts, PTX ISA "mma.m16n8k16" / "mma.m16n8k32" */
        Mma *x = (Mma *)arg[l]; int g = l >> 2, t = l & 3;
        if (!fp8) {
            for (int i = 0; i < 8; i++) { u32 h = x->a[i >> 1] >> (16 * (i & 1)) << 16; memcpy(&A[g + ((i >> 1) & 1) * 8][t * 2 + (i & 1) + (i >> 2) * 8], &h, 4); }
            for (int i = 0; i < 4; i++) { u32 h = x->b[i >> 1] >> (16 * (i & 1)) << 16; memcpy(&B[t * 2 + (i & 1) + (i >> 1) * 8][g], &h, 4); }
        } else {
            for (int i = 0; i < 16; i++) A[g + ((i >> 2) & 1) * 8][t * 4 + (i & 3) + (i >> 3) * 16] = e4m3f[x->a[i >> 2] >> (8 * (i & 3)) & 255];
            for (int i = 0; i < 8; i++) B[t * 4 + (i & 3) + (i >> 2) * 16][g] = e4m3f[x->b[i >> 2] >> (8 * (i & 3)) & 255];
        }
        for (int i = 0; i < 4; i++) C[g + (i >> 1) * 8][t * 2 + (i & 1)] = x->c[i];
    }
    for (int i = 0; i < 16; i++) { float s[8] = {0}; for (int k = 0; k < KK; k++) for (int j = 0; j < 8; j++) s[j] += A[i][k] * B[k][j]; for (int j = 0; j < 8; j++) C[i][j] += s[j]; }
    for (int l = 0; l < 32; l++) for (int i = 0; i < 4; i++) ((Mma *)arg[l])->c[i] = C[(l >> 2) + (i >> 1) * 8][(l & 3) * 2 + (i & 1)];
    S.mma++;
}
static void do_mma0(void **a, u32) { mma(a, 0); }
static void do_mma1(void **a, u32) { mma(a, 1); }
extern "C" void simt_mma(float *c, const uint32_t *a, const uint32_t *b, int kind) { Mma x = {c, a, b}; if (kind && !e4m3f[1]) e4m3init(); collective(6 + kind, ~0u, &x, kind ? do_mma1 : do_mma0); }

/* ------------------------------------------------------------------ ops, happens-before */
#define MAXS 24
struct VC { u32 v[MAXS]; void join(const VC &o) { for (int i = 0; i < MAXS; i++) v[i] = std::max(v[i], o.v[i]); } };
struct OpInfo { const char *name; int stream; u32 clock; VC vc; };
static std::vector<OpInfo> ops(1); static VC host_vc;            /* op 0 = never written */
static u32 cur_op, hb_cache;
static u32 new_op(const char *name, int stream, VC &vc) { vc.v[stream]++; OpInfo o = {name, stream, vc.v[stream], vc}; ops.push_back(o); hb_cache = 0; return cur_op = ops.size() - 1; }
static bool hb(u32 a) { if (a == hb_cache || a == cur_op) return true; const OpInfo &A = ops[a], &B = ops[cur_op]; if (B.vc.v[A.stream] >= A.clock) { hb_cache = a; return true; } return false; }

/* ------------------------------------------------------------------ the checks */
static const char *where(up a) { static char b[128]; Alloc *x = 0; auto i = allocs.upper_bound(a); if (i != allocs.begin()) { --i; x = &i->second; }
    if (x) snprintf(b, sizeof b, "%+ld bytes past the end of a %zu-byte allocation", (long)(a - x->p - x->n), x->n); else strcpy(b, "no allocation"); return b; }
static inline bool conc(u32 tid, u32 ep, u32 wep) { return tid != cur->idx && ep == bar_ep && !((tid >> 5) == (cur->idx >> 5) && wep < cur->w->ep); }
static void cells(Cell *c, up a, size_t n, bool w, bool atom, bool sh)
{
    if (!g_instr) return;
    Fiber *f = cur; bool done_u = false, done_r = false;
    for (size_t i = 0; i < n; i++, c++) {
        bool mine = c->wblk == blk_serial;
        if (sh ? !mine : !c->wop && !is_zeroed(a + i)) { if ((!w || atom) && !done_u) { done_u = true; report(sh ? "uninit-shared" : "uninit-global", "reads %s+%ld, never written", sh ? "shared" : "global", (long)(a + i - (sh ? SHM : DEV))); } }
        else if (!done_r) {
            if (c->pend && (mine)) { report("cp.async-race", "%s shared+%ld while cp.async of thread %u is in flight (wait_group missing?)", w ? "writes" : "reads", (long)(a + i - SHM), c->wtid); done_r = true; }
            else if (mine) { if (c->wtid == TATOM ? !atom && c->wep == bar_ep : conc(c->wtid, c->wep, c->wwep)) { report(sh ? "race-shared" : "race-global", "%s %p written by thread %u in the same barrier interval", w ? "writes" : "reads", (void *)(a + i), c->wtid); done_r = true; } }
            else if (!sh && c->wop == cur_op) { if (!(atom && c->wtid == TATOM)) { report("race-blocks", "%s %p written by another block of this launch", w ? "writes" : "reads", (void *)(a + i)); done_r = true; } }
            else if (!sh && !hb(c->wop)) { report("race-streams", "%s %p written by \"%s\", not ordered before this launch", w ? "writes" : "reads", (void *)(a + i), ops[c->wop].name); done_r = true; }
        }
        if (w && !done_r && c->rop) {
            if (c->rblk == blk_serial) {
                if (c->rep == bar_ep) { bool r = c->rtid == TMULTI ? true : (c->rtid & TWARP) ? !((u32)(c->rtid & 31) == f->idx >> 5 && c->rwep < f->w->ep) : conc(c->rtid, c->rep, c->rwep);
                    if (r) { report(sh ? "race-shared" : "race-global", "writes %p read by %s in the same barrier interval", (void *)(a + i), c->rtid >= TWARP ? "other threads" : "another thread"); done_r = true; } }
            } else if (!sh && c->rop == cur_op) { report("race-blocks", "writes %p read by another block of this launch", (void *)(a + i)); done_r = true; }
            else if (!sh && !hb(c->rop)) { report("race-streams", "writes %p still read by \"%s\", not ordered before this launch", (void *)(a + i), ops[c->rop].name); done_r = true; }
        }
        if (w) { c->wop = cur_op; c->wblk = blk_serial; c->wep = bar_ep; c->wwep = f->w->ep; c->wtid = atom ? TATOM : f->idx; c->pend = 0; c->rop = 0; }
        else if (c->rop == cur_op && c->rblk == blk_serial && c->rep == bar_ep && c->rtid != f->idx) {
            if (c->rtid != TMULTI) { u32 rw = (c->rtid & TWARP) ? c->rtid & 31 : c->rtid >> 5; c->rtid = rw == f->idx >> 5 ? TWARP | rw : TMULTI; } c->rwep = f->w->ep; }
        else { c->rop = cur_op; c->rblk = blk_serial; c->rep = bar_ep; c->rwep = f->w->ep; c->rtid = f->idx; }
    }
}
extern char __executable_start, __data_start;
static void check(up a, size_t n, bool w, size_t align, bool atom, void *pc)
{
    Fiber *f = cur;
    if (!f) { if (a - DEV < DEVSZ) report("host-touches-device", "host code %s device pointer %p (pc %p)", w ? "writes" : "reads", (void *)a, pc); return; }
    if (a >= f->lo && a + n <= f->hi) return;
    S.accesses++; g_pc = pc;
    if (align > 1 && a % align) { report("misaligned", "%zu-byte access at %p", n, (void *)a); fatal_in_kernel(); }
    if (a - SHM < SHMSZ) {
        for (size_t i = 0; i < n; i++) if (!smem_ok[a - SHM + i]) { report("oob-shared", "%s shared+%ld: outside every shared array (pc %p)", w ? "writes" : "reads", (long)(a - SHM + i), pc); fatal_in_kernel(); }
        cells(scell + (a - SHM), a, n, w, atom, true);
    } else if (a - DEV < DEVSZ) {
        Alloc *x = find(a);
        if (!x || a + n > x->p + x->n) { report("oob-global", "%s %zu bytes at %p: %s (pc %p)", w ? "writes" : "reads", n, (void *)a, where(a + n - 1), pc); fatal_in_kernel(); }
        cells(dcell + (a - DEV), a, n, w, atom, false);
    } else if (a - PIN < PINSZ) { if (!find(a)) { report("oob-global", "pinned memory %p", (void *)a); fatal_in_kernel(); } }
    else if (a - PAR < 4096 || a == (up)&simt_cur || (!w && a >= (up)&__executable_start && a < (up)&__data_start)) return;
    else { report("host-pointer", "kernel %s %p, which is host memory (pc %p)", w ? "writes" : "reads", (void *)a, pc); fatal_in_kernel(); }
}
#define PC __builtin_return_address(0)
extern "C" {
void simt_read(const void *p, size_t n, size_t al) { check((up)p, n, false, al, false, PC); }
void simt_write(void *p, size_t n, size_t al) { check((up)p, n, true, al, false, PC); }
void simt_atomic(void *p, size_t n) { check((up)p, n, true, n, true, PC); }
#define T_(n) void __tsan_read##n(void *p) { check((up)p, n, false, n, false, PC); } void __tsan_write##n(void *p) { check((up)p, n, true, n, false, PC); } \
  void __tsan_unaligned_read##n(void *p) { check((up)p, n, false, 1, false, PC); } void __tsan_unaligned_write##n(void *p) { check((up)p, n, true, 1, false, PC); } \
  void __tsan_volatile_read##n(void *p) { check((up)p, n, false, n, false, PC); } void __tsan_volatile_write##n(void *p) { check((up)p, n, true, n, false, PC); } \
  void __tsan_read_write##n(void *p) { check((up)p, n, false, n, false, PC); check((up)p, n, true, n, false, PC); }
T_(1) T_(2) T_(4) T_(8) T_(16)
void __tsan_read_range(void *p, size_t n) { check((up)p, n, false, 1, false, PC); }
void __tsan_write_range(void *p, size_t n) { check((up)p, n, true, 1, false, PC); }
void *__tsan_memcpy(void *d, const void *s, size_t n) { check((up)s, n, false, 1, false, PC); check((up)d, n, true, 1, false, PC); return memcpy(d, s, n); }
void *__tsan_memset(void *d, int v, size_t n) { check((up)d, n, true, 1, false, PC); return memset(d, v, n); }
void __tsan_init(void) { g_instr = true; } void __tsan_func_entry(void *) {} void __tsan_func_exit(void) {} void __tsan_vptr_update(void **, void *) {} void __tsan_vptr_read(void **) {}
void simt_cp_async(void *dst, const void *src, int n, int pred)
{
    if ((up)dst - SHM >= SHMSZ) { report("address-space", "cp.async to %p, not shared memory", dst); fatal_in_kernel(); }
    if (pred) check((up)src, n, false, n, false, PC);
    check((up)dst, n, true, n, false, PC);
    for (int i = 0; i < n; i++) scell[(up)dst - SHM + i].pend = 1;
    memset(dst, 0xff, n); Pend p = {dst, src, n, pred, cur->grp}; cur->pend.push_back(p);
}
void simt_cp_commit(void) { cur->grp++; }
void simt_cp_wait(int keep)
{
    auto &v = cur->pend; size_t k = 0;
    for (; k < v.size() && (int)(cur->grp - v[k].grp) > keep; k++) {
        if (v[k].pred) memcpy(v[k].dst, v[k].src, v[k].n); else memset(v[k].dst, 0, v[k].n);
        for (int i = 0; i < v[k].n; i++) { Cell &c = scell[(up)v[k].dst - SHM + i]; c.pend = 0; c.wblk = blk_serial; c.wop = cur_op; c.wtid = cur->idx; c.wep = bar_ep; c.wwep = cur->w->ep; }
    }
    v.erase(v.begin(), v.begin() + k);
}
void *simt_smem_static(const void *key, size_t bytes, size_t align)
{
    auto i = smem_keys.find(key); if (i != smem_keys.end()) return (void *)(SHM + i->second);
    if (align < 16) align = 16;
    size_t o = (smem_static_off + align - 1) & ~(align - 1); if (o + bytes > SHMSZ) abort();
    smem_keys[key] = o; smem_static_off = o + bytes + 16; memset(smem_ok + o, 1, bytes); return (void *)(SHM + o);
}
void *simt_smem_dynamic(void) { return (void *)SHM; }
/* library doubles and copies: whole-range accesses outside kernels */
int simt_range(const void *p, size_t n, int w)
{
    up a = (up)p; if (a - DEV >= DEVSZ) return 0;
    Alloc *x = find(a); if (!n) return 0;
    if (!x || a + n > x->p + x->n) { report("oob-global", "%s %s %zu bytes at %p: %s", ops[cur_op].name, w ? "writes" : "reads", n, p, where(a + n - 1)); return 1; }
    if (!g_instr) return 0;            /* kernels built without instrumentation keep no shadow */
    Cell *c = dcell + (a - DEV); bool u = false, r = false;
    for (size_t i = 0; i < n; i++, c++) {
        if (!w && !c->wop && !u && !is_zeroed(a + i)) { u = true; report("uninit-global", "%s reads %p, never written", ops[cur_op].name, (void *)(a + i)); }
        if (!r && ((c->wop && !hb(c->wop)) || (w && c->rop && !hb(c->rop)))) { r = true; report("race-streams", "%s %s %p, not ordered after \"%s\"", ops[cur_op].name, w ? "writes" : "reads", (void *)(a + i), ops[c->wop && !hb(c->wop) ? c->wop : c->rop].name); }
        if (w) { c->wop = cur_op; c->wblk = 0; c->rop = 0; c->pend = 0; } else { c->rop = cur_op; c->rblk = 0; }
    }
    return 0;
}
}
/* ------------------------------------------------------------------ streams */
struct Graph; struct Event { Graph *cap = 0; u32 rec = 0, done = 0; std::map<u32, VC> vc; struct Stream *on = 0; };
struct Op { std::string name; std::function<bool()> ready; std::function<void()> run; Event *rec = 0, *wait = 0; u32 gen = 0; VC hvc; };
struct Graph; struct Stream { Graph *cap = 0; int id, dev; std::deque<Op> q; VC vc; u64 seq = 0, done = 0; };
static std::vector<Stream *> streams; static cudaError_t sticky; static thread_local int cur_dev; static int n_dev = 2; static thread_local cudaError_t last_err;
static cudaError_t err(cudaError_t e) { if (e) last_err = e; return e; }
static bool head_ready(Stream *s) { if (s->q.empty()) return false; Op &o = s->q.front(); if (o.wait) return o.wait->done >= o.gen; return !o.ready || o.ready(); }
static void run_head(Stream *s)
{
    Op o = std::move(s->q.front()); s->q.pop_front(); s->vc.join(o.hvc);
    if (o.wait) { if (o.gen) s->vc.join(o.wait->vc[o.gen]); }
    else if (o.rec) { o.rec->done = std::max(o.rec->done, o.gen); s->vc.v[s->id]++; o.rec->vc[o.gen] = s->vc; }
    else { S.ops++; new_op(strdup(o.name.c_str()), s->id, s->vc); dev_protect(true); o.run(); dev_protect(false); }
    s->done++; GC.notify_all();
}
static bool step_one(bool rnd_pick) { std::vector<Stream *> r; for (auto s : streams) if (s && head_ready(s)) r.push_back(s); if (r.empty()) return false; run_head(rnd_pick ? r[rnd(r.size())] : g_mode == LAZY ? r.back() : r.front()); return true; }
static bool drive(Stream *s, u64 upto, int depth)   /* the least work that gets s there */
{
    while (s->done < upto) {
        if (head_ready(s)) { run_head(s); continue; }
        Op &o = s->q.front(); if (o.wait && o.wait->on && depth < 64 && o.wait->on != s && !o.wait->on->q.empty() && drive(o.wait->on, o.wait->on->done + 1, depth + 1)) continue;
        return false;
    }
    return true;
}
static void wait_for(std::unique_lock<std::recursive_mutex> &l, Stream *s, u64 upto)
{
    for (int spins = 0; s->done < upto;) {
        bool p = g_mode == LAZY ? drive(s, upto, 0) || s->done >= upto || step_one(false) : step_one(g_mode == RANDOM);
        if (s->done >= upto) break;
        if (!p) { if (GC.wait_for(l, std::chrono::milliseconds(50)) == std::cv_status::timeout && ++spins > 100) { report("stream-deadlock", "stream %d waits for \"%s\" which nobody will finish", s->id, s->q.empty() ? "?" : s->q.front().name.c_str()); s->done += s->q.size(); s->q.clear(); break; } }
    }
}
static Stream *S_(cudaStream_t s) { if (!s) { static Stream *d; if (!d) { init(); d = new Stream(); d->id = streams.size(); d->dev = 0; memset(&d->vc, 0, sizeof d->vc); streams.push_back(d); } return d; } return (Stream *)s; }
/* graph capture: operations are kept with their stream; a replay runs every captured side stream on a private one */
struct Graph { Stream *origin; std::vector<std::pair<Stream *, Op>> ops; std::map<Stream *, bool> open; std::map<Stream *, Stream *> priv; };
static void capture(Stream *s, Op o)
{
    Graph *g = s->cap;
    if (s != g->origin) g->open[s] = true;
    if (o.rec) o.rec->cap = g;
    if (o.wait && s == g->origin) g->open[o.wait->on] = false;      /* joined (assumes the event was recorded last) */
    g->ops.push_back({s, std::move(o)});
}
#define NOCAP(what) do { for (auto s_ : streams) if (s_ && s_->cap) { report("capture-illegal", "%s during stream capture", what); return cudaErrorStreamCaptureUnsupported; } } while (0)
static void enqueue(Stream *s, Op o)
{
    if (s->cap) { capture(s, std::move(o)); return; }
    o.hvc = host_vc; s->q.push_back(std::move(o)); s->seq++;      /* what the host has waited for orders later work */
    if (g_mode == EAGER) while (step_one(false)) ; else if (g_mode == RANDOM) for (int n = rnd(3); n--;) step_one(true);
}
extern "C" void simt_enqueue(cudaStream_t st, const char *name, std::function<bool()> *ready, std::function<void()> *run)
{
    std::unique_lock<std::recursive_mutex> l(G); init(); Op o; o.name = name; if (ready) o.ready = *ready; o.run = *run; enqueue(S_(st), std::move(o));
}
extern "C" void simt_join_streams(cudaStream_t *st, int n) { VC v; memset(&v, 0, sizeof v); for (int i = 0; i < n; i++) v.join(S_(st[i])->vc); for (int i = 0; i < n; i++) S_(st[i])->vc.join(v); ops[cur_op].vc.join(v); hb_cache = 0; }
extern "C" void simt_lock(int on) { if (on) G.lock(); else G.unlock(); }
extern "C" void simt_wait(std::function<bool()> *f) { std::unique_lock<std::recursive_mutex> l(G); GC.notify_all(); for (int i = 0; !(*f)(); i++) { GC.wait_for(l, std::chrono::milliseconds(20)); if (i > 500) { report("nccl-deadlock", "rank waits for the others"); return; } } }
struct FnAttr { int smem = 48 << 10; }; static std::map<const void *, FnAttr> fattr;
extern "C" cudaError_t simt_launch(const char *name, const void *fn, dim3 g, dim3 b, size_t smem, cudaStream_t st, void (*run)(void *), const void *args, size_t nargs)
{
    std::unique_lock<std::recursive_mutex> l(G); init(); if (sticky) return sticky;
    size_t nt = (size_t)b.x * b.y * b.z;
    if (!nt || nt > 1024 || b.z > 64 || !g.x || !g.y || !g.z || g.y > 65535 || g.z > 65535 || smem > 227 << 10) { report("launch-config", "%s: grid %u,%u,%u block %u,%u,%u smem %zu", name, g.x, g.y, g.z, b.x, b.y, b.z, smem); return err(cudaErrorInvalidConfiguration); }
    if ((int)smem > fattr[fn].smem) { report("launch-config", "%s: %zu bytes of dynamic shared memory without cudaFuncSetAttribute", name, smem); return err(cudaErrorInvalidValue); }
    if (!st) report("default-stream", "%s launched on the legacy default stream", name);
    if (nargs > 4096) abort();
    std::vector<char> pv((const char *)args, (const char *)args + nargs); Op o; o.name = name; const char *nm = strdup(name);
    o.run = [=] {
        memcpy((void *)PAR, pv.data(), pv.size()); kfn = run; K.name = nm; K.op = cur_op; failed = false; smem_dyn = smem; smem_keys.clear(); memset(smem_ok, 0, SHMSZ); memset(smem_ok, 1, smem); smem_static_off = (smem + 15 + 16) & ~15ull; S.launches++;
        u64 nb = (u64)g.x * g.y * g.z;
        for (u64 i = 0; i < nb && !failed; i++) { u64 j = g_order == 1 ? nb - 1 - i : i; run_block(b, g, make_uint3(j % g.x, j / g.x % g.y, j / g.x / g.y)); }
        if (failed) sticky = cudaErrorIllegalAddress;
    };
    enqueue(S_(st), std::move(o)); return cudaSuccess;
}
extern "C" void simt_reset(void) { sticky = cudaSuccess; for (auto s : streams) if (s) { s->done += s->q.size(); s->q.clear(); } }
static void copy_now(const char *nm, void *d, const void *s, size_t n, cudaMemcpyKind k)
{
    bool dd = (up)d - DEV < DEVSZ, sd = (up)s - DEV < DEVSZ;
    if (k != cudaMemcpyDefault && (dd != (k == cudaMemcpyHostToDevice || k == cudaMemcpyDeviceToDevice) || sd != (k == cudaMemcpyDeviceToHost || k == cudaMemcpyDeviceToDevice))) { report("memcpy-kind", "%s %p <- %p kind %d", nm, d, s, k); return; }
    if (simt_range(s, n, 0) | simt_range(d, n, 1)) return;
    memcpy(d, s, n);
}
/* ------------------------------------------------------------------ runtime API */
#define LK std::unique_lock<std::recursive_mutex> l(G); init()
extern "C" {
cudaError_t cudaMalloc(void **p, size_t n) { LK; NOCAP("cudaMalloc"); if (!n) { *p = 0; return cudaSuccess; } size_t r = (n + 4095) & ~4095ull; if (dev_next + r + 8192 > DEV + DEVSZ) return err(cudaErrorMemoryAllocation);
    up a = dev_next; dev_next += r + 4096; mprotect((void *)a, r, dev_open ? PROT_READ | PROT_WRITE : PROT_NONE); Alloc x = {a, n, cur_dev, false}; allocs[a] = x; *p = (void *)a; S.bytes += n; return cudaSuccess; }
static void sync_all(std::unique_lock<std::recursive_mutex> &l) { auto v = streams; if (g_mode == LAZY) std::reverse(v.begin(), v.end()); for (auto s : v) if (s) { wait_for(l, s, s->seq); host_vc.join(s->vc); } }
cudaError_t cudaFree(void *p) { LK; if (!p) return cudaSuccess; sync_all(l); zeroed.erase((up)p); auto i = allocs.find((up)p); if (i == allocs.end()) { report("bad-free", "%p", p); return err(cudaErrorInvalidValue); }
    size_t n = i->second.n; allocs.erase(i); last_alloc.n = 0; madvise((void *)p, (n + 4095) & ~4095ull, MADV_DONTNEED); madvise(dcell + ((up)p - DEV), n * sizeof(Cell), MADV_DONTNEED); return cudaSuccess; }
cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t) { return cudaMalloc(p, n); }
cudaError_t cudaFreeAsync(void *p, cudaStream_t st) { LK; Op o; o.name = "cudaFreeAsync"; o.run = [=] { simt_range(p, allocs[(up)p].n, 1); allocs.erase((up)p); last_alloc.n = 0; }; enqueue(S_(st), std::move(o)); return cudaSuccess; }
cudaError_t cudaHostAlloc(void **p, size_t n, unsigned) { LK; up a = pin_next; pin_next += ((n + 4095) & ~4095ull) + 4096; Alloc x = {a, n, -1, true}; allocs[a] = x; *p = (void *)a; return cudaSuccess; }
cudaError_t cudaMallocHost(void **p, size_t n) { return cudaHostAlloc(p, n, 0); }
cudaError_t cudaFreeHost(void *p) { LK; sync_all(l); allocs.erase((up)p); last_alloc.n = 0; return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, cudaMemcpyKind k, cudaStream_t st) { LK; if (sticky) return sticky; Op o; o.name = "cudaMemcpyAsync";
    bool pageable_src = k == cudaMemcpyHostToDevice && (up)s - PIN >= PINSZ && (up)s - DEV >= DEVSZ;
    if (pageable_src) { auto buf = std::make_shared<std::vector<char>>((const char *)s, (const char *)s + n); o.run = [=] { copy_now("cudaMemcpyAsync", d, buf->data(), n, k); }; }   /* staged at call time, like the driver */
    else o.run = [=] { copy_now("cudaMemcpyAsync", d, s, n, k); };
    enqueue(S_(st), std::move(o)); return cudaSuccess; }
cudaError_t cudaMemcpy(void *d, const void *s, size_t n, cudaMemcpyKind k) { LK; NOCAP("cudaMemcpy"); if (sticky) return sticky; Stream *z = S_(0); z->vc.join(host_vc); new_op("cudaMemcpy", z->id, z->vc); dev_protect(true); copy_now("cudaMemcpy", d, s, n, k); dev_protect(false); host_vc.join(z->vc); return cudaSuccess; }
cudaError_t cudaMemcpy2DAsync(void *d, size_t dp, const void *s, size_t sp, size_t w, size_t h, cudaMemcpyKind k, cudaStream_t st) { LK; Op o; o.name = "cudaMemcpy2DAsync"; o.run = [=] { for (size_t i = 0; i < h; i++) copy_now("cudaMemcpy2DAsync", (char *)d + i * dp, (const char *)s + i * sp, w, k); }; enqueue(S_(st), std::move(o)); return cudaSuccess; }
cudaError_t cudaMemcpyPeerAsync(void *d, int, const void *s, int, size_t n, cudaStream_t st) { return cudaMemcpyAsync(d, s, n, cudaMemcpyDeviceToDevice, st); }
cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t st) { LK; Op o; o.name = "cudaMemsetAsync"; o.run = [=] {
        if (!v && n >= 1 << 20 && !((up)d & 4095)) { Alloc *x = find((up)d); if (x && (up)d + n <= x->p + x->n) { const size_t whole = n & ~4095ull; madvise(d, whole, MADV_DONTNEED); zeroed[(up)d] = whole; if (n > whole && !simt_range((char *)d + whole, n - whole, 1)) memset((char *)d + whole, 0, n - whole); return; } }
        if (!simt_range(d, n, 1)) memset(d, v, n); }; enqueue(S_(st), std::move(o)); return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) { LK; S_(0); Stream *x = new Stream(); x->id = streams.size(); if (x->id >= MAXS) abort(); x->dev = cur_dev; memset(&x->vc, 0, sizeof x->vc); x->vc.join(host_vc); streams.push_back(x); *s = (cudaStream_t)x; return cudaSuccess; }
cudaError_t cudaStreamCreate(cudaStream_t *s) { return cudaStreamCreateWithFlags(s, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t st) { LK; Stream *s = S_(st); if (s->cap) NOCAP("cudaStreamSynchronize"); wait_for(l, s, s->seq); host_vc.join(s->vc); return err(sticky); }
cudaError_t cudaDeviceSynchronize(void) { LK; NOCAP("cudaDeviceSynchronize"); sync_all(l); return err(sticky); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) { *e = (cudaEvent_t) new Event(); return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t ev, cudaStream_t st) { LK; Event *e = (Event *)ev; Op o; o.name = "event record"; o.rec = e; o.gen = ++e->rec; e->on = S_(st); enqueue(S_(st), std::move(o)); return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t st, cudaEvent_t ev, unsigned) { LK; Event *e = (Event *)ev; if (e->cap) S_(st)->cap = e->cap; Op o; o.name = "event wait"; o.wait = e; o.gen = e->rec; if (!e->rec) report("event-unrecorded", "wait on an event never recorded (a no-op)"); enqueue(S_(st), std::move(o)); return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t ev) { LK; Event *e = (Event *)ev; u32 g = e->rec; while (e->done < g && e->on) { u64 t = e->on->done + 1; wait_for(l, e->on, t); } if (g) host_vc.join(e->vc[g]); return err(sticky); }
cudaError_t cudaEventQuery(cudaEvent_t ev) { LK; Event *e = (Event *)ev; step_one(g_mode == RANDOM); return e->done >= e->rec ? cudaSuccess : cudaErrorNotReady; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) { *ms = 1; return cudaSuccess; }
cudaError_t cudaGetLastError(void) { cudaError_t e = last_err; last_err = cudaSuccess; return sticky ? sticky : e; }
cudaError_t cudaPeekAtLastError(void) { return sticky ? sticky : last_err; }
const char *cudaGetErrorString(cudaError_t e) { return e ? "simt error" : "no error"; }
cudaError_t cudaSetDevice(int d) { if (d >= n_dev) return err(cudaErrorInvalidDevice); cur_dev = d; return cudaSuccess; }
cudaError_t cudaGetDevice(int *d) { *d = cur_dev; return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int *n) { *n = n_dev; return cudaSuccess; }
void simt_devices(int n) { n_dev = n; }
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int) { *v = a == cudaDevAttrMultiProcessorCount ? 132 : a == cudaDevAttrComputeCapabilityMajor ? 9 : a == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 227 << 10 : 0; return cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t *f, size_t *t) { *t = DEVSZ; *f = DEV + DEVSZ - dev_next; return cudaSuccess; }
cudaError_t cudaFuncSetAttribute(const void *f, cudaFuncAttribute a, int v) { LK; if (a == cudaFuncAttributeMaxDynamicSharedMemorySize) { if (v > 227 << 10) return err(cudaErrorInvalidValue); fattr[f].smem = v; } return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t st, cudaStreamCaptureMode) { LK; Graph *g = new Graph(); g->origin = S_(st); S_(st)->cap = g; return cudaSuccess; }
cudaError_t cudaStreamEndCapture(cudaStream_t st, cudaGraph_t *out) { LK; Graph *g = S_(st)->cap; if (!g || g->origin != S_(st)) return err(cudaErrorStreamCaptureUnmatched);
    for (auto &x : g->open) if (x.second) { report("capture-unjoined", "a forked stream was not joined back"); }
    for (auto s : streams) if (s && s->cap == g) s->cap = 0;
    *out = (cudaGraph_t)g; return cudaSuccess; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long) { *e = (cudaGraphExec_t)g; return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t st) { LK; Graph *g = (Graph *)e; std::map<Event *, Event *> ev; std::map<Stream *, bool> started; Event *start = new Event();
    { Op o; o.name = "graph start"; o.rec = start; o.gen = ++start->rec; start->on = S_(st); enqueue(S_(st), std::move(o)); }
    for (auto &x : g->ops) { Stream *d = S_(st); if (x.first != g->origin) { Stream *&p = g->priv[x.first]; if (!p) { cudaStream_t t; cudaStreamCreateWithFlags(&t, 0); p = (Stream *)t; } d = p; if (!started[d]) { started[d] = true; Op o; o.name = "graph start"; o.wait = start; o.gen = 1; enqueue(d, std::move(o)); } }
        Op o = x.second;
        if (o.rec) { Event *n = ev[o.rec] = new Event(); n->on = d; o.rec->cap = 0; o.rec = n; o.gen = ++n->rec; } else if (o.wait) { if (!ev.count(o.wait)) continue; o.wait = ev[o.wait]; o.gen = o.wait->rec; }
        enqueue(d, std::move(o)); }
    return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int d) { if (d < 0 || d >= n_dev) return err(cudaErrorInvalidDevice); memset(p, 0, sizeof *p); snprintf(p->name, sizeof p->name, "emulated GPU"); p->major = 9; p->multiProcessorCount = 132; p->totalGlobalMem = DEVSZ; p->warpSize = 32; p->maxThreadsPerBlock = 1024; p->sharedMemPerBlockOptin = 227 << 10; p->sharedMemPerMultiprocessor = 228 << 10; p->regsPerMultiprocessor = 65536; p->maxThreadsPerMultiProcessor = 2048; p->l2CacheSize = 50 << 20; p->asyncEngineCount = 3; p->unifiedAddressing = 1; return cudaSuccess; }
cudaError_t cudaSetDeviceFlags(unsigned) { return cudaSuccess; }
cudaError_t cudaInitDevice(int d, unsigned, unsigned) { return cudaSetDevice(d); }
cudaError_t cudaDriverGetVersion(int *v) { *v = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *v) { *v = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b) { *can = a != b; return cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t st) { LK; Stream *s = S_(st); step_one(g_mode == RANDOM); return s->done >= s->seq ? cudaSuccess : cudaErrorNotReady; }
cudaError_t cudaLaunchHostFunc(cudaStream_t st, cudaHostFn_t fn, void *arg) { LK; Op o; o.name = "cudaLaunchHostFunc"; o.run = [=] { dev_protect(false); fn(arg); dev_protect(true); }; enqueue(S_(st), std::move(o)); return cudaSuccess; }
cudaError_t cudaMemset(void *d, int v, size_t n) { cudaError_t e = cudaMemsetAsync(d, v, n, 0); return e ? e : cudaStreamSynchronize(0); }
const char *cudaGetErrorName(cudaError_t e) { return e ? "cudaError" : "cudaSuccess"; }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *a, const void *p) { LK; memset(a, 0, sizeof *a); Alloc *x = find((up)p); a->type = !x ? cudaMemoryTypeUnregistered : x->pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice; a->device = x ? x->dev : -1; return cudaSuccess; }
}
