/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A host that opens its engine first and then becomes a service: it leaves its folder, gives up rights, closes what it does not know,
 * while somebody puts another model in the place of the first. Streams go on with what was opened, or end with the code; each in a child.
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "engine/engine.h"
#include "take.h"

#define HANG_SECONDS 60                             // of a child

/* By a path that is relative to /tmp. */
static AvatarEngine *open_engine(const char *offload)
{
    AvatarOptions opt = take_options(NULL, "cpu", NULL, NULL);
    AvatarEngine *e = NULL;

    REQUIRE_OK(chdir("/tmp"));
    opt.model = take_dir + strlen("/tmp/");
    opt.offload = offload;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    return e;
}

/* A whole stream of 25 frames: how many came, or what ended it. */
static int stream(AvatarEngine *e)
{
    const AvatarLook look = take_look(0);
    float *pcm = take_sound(16000);
    AvatarSession *s = NULL;
    AvatarFrame f;
    int nb = 0, ret = avatar_session_open(&s, e, &look);

    if (ret >= 0)
        ret = avatar_session_send(s, pcm, 16000);
    if (ret >= 0)
        ret = avatar_session_send(s, NULL, 0);
    for (; ret >= 0; nb += ret >= 0)
        ret = avatar_session_receive(s, &f, AVATAR_WAIT);
    avatar_session_close(&s);
    free(pcm);
    return ret == AVATAR_EOF ? nb : ret;
}

static int close_all(AvatarEngine *e, int bad)
{
    avatar_engine_close(&e);
    avatar_engine_flush();
    return bad;
}

/* ---- names ---------------------------------------------------------------------------------------------------------------- */

static int leaves_its_folder(int offload)
{
    AvatarEngine *e = open_engine(offload ? "weights" : NULL);

    REQUIRE_OK(chdir("/"));
    return close_all(e, stream(e) != 25);
}

/* Not only renamed: to a process in a chroot, or as another user, no name leads to the model. */
static int loses_its_model(int offload)
{
    AvatarEngine *e = open_engine(offload ? "weights" : NULL);
    char away[sizeof(take_dir) + 8];
    int nb;

    snprintf(away, sizeof(away), "%s.away", take_dir);
    REQUIRE_OK(rename(take_dir, away));
    nb = stream(e);
    REQUIRE_OK(rename(away, take_dir));
    return close_all(e, nb != 25);
}

static void names_are_for_opening(void **state)
{
    (void)state;
    for (int offload = 0; offload < 2; offload++) {
        assert_int_equal(take_in_child(leaves_its_folder, offload, HANG_SECONDS), 0);
        assert_int_equal(take_in_child(loses_its_model, offload, HANG_SECONDS), 0);
    }
}

/* ---- rights and descriptors ----------------------------------------------------------------------------------------------- */

/* From now on this thread, and those that it makes, read no file at a place. */
static void deny_reading(int error)
{
    struct sock_filter f[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pread64, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog prog = { sizeof(f) / sizeof(f[0]), f };

    REQUIRE_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    REQUIRE_OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
}

/* EPERM is -1, which says "nothing yet" to nobody. */
static int may_not_read(int error)
{
    AvatarEngine *e = open_engine(NULL);

    deny_reading(error);
    return close_all(e, stream(e) != AVATAR_ERR(error));
}

static void failures_are_any_number(void **state)
{
    (void)state;
    for (int error = 1; error < 15; error += 1 + (error == 3))                  // not EINTR, which is tried again
        assert_int_equal(take_in_child(may_not_read, error, HANG_SECONDS), 0);
}

/* As a daemon does that closes all descriptors; then its own files have the numbers of ours. */
static int closes_everything(int offload)
{
    AvatarEngine *e = open_engine(offload ? "weights" : NULL);
    char path[] = "/tmp/avatar-e2e-file-XXXXXX";
    int fd, ret;

    for (fd = 3; fd < 64; fd++)
        close(fd);
    fd = mkstemp(path);
    REQUIRE(fd >= 0 && !ftruncate(fd, 64 << 20) && !remove(path));
    for (int i = 0; i < 32; i++)
        REQUIRE(dup(fd) > fd);
    ret = stream(e);
    return close_all(e, ret != AVATAR_ERR(ESTALE));
}

static void descriptors_are_looked_at(void **state)
{
    (void)state;
    for (int offload = 0; offload < 2; offload++)
        assert_int_equal(take_in_child(closes_everything, offload, HANG_SECONDS), 0);
}

/* A host without standard streams prints all the same: not into the statistics. */
static int has_no_streams(int arg)
{
    AvatarEngine *e = open_engine(NULL);
    AvatarLook look = take_look(0);
    char path[] = "/tmp/avatar-e2e-stats-XXXXXX", text[4096] = "";
    AvatarSession *s = NULL;
    const int fd = mkstemp(path);
    int printed = 0;

    (void)arg;
    look.stats = path;
    for (int i = 0; i < 3; i++)
        close(i);
    REQUIRE_OK(avatar_session_open(&s, e, &look));
    for (int i = 0; i < 3; i++)
        printed += write(i, "host", 4) == 4;
    avatar_session_close(&s);
    if (read(fd, text, sizeof(text) - 1) < 0 || remove(path))
        return close_all(e, 2);
    close(fd);
    return close_all(e, printed || strstr(text, "host"));
}

static void statistics_are_no_stream(void **state)
{
    (void)state;
    assert_int_equal(take_in_child(has_no_streams, 0, HANG_SECONDS), 0);
}

/* ---- another model ---------------------------------------------------------------------------------------------------------- */

/* Turns the bits of a value of one layer, in place: by its file's size nothing has changed. */
static void write_into_the_model(void)
{
    char path[sizeof(take_dir) + 64];
    uint8_t byte;
    int fd;

    snprintf(path, sizeof(path), "%s/diffusion_pytorch_model.safetensors", take_dir);
    fd = open(path, O_RDWR | O_CLOEXEC);
    REQUIRE(fd >= 0 && lseek(fd, -40, SEEK_END) > 0 && read(fd, &byte, 1) == 1);
    byte ^= 0x80;
    REQUIRE(lseek(fd, -1, SEEK_CUR) > 0 && write(fd, &byte, 1) == 1);
    close(fd);
}

/* Layers that come out of the file again and again: half of one model and half of another would be one. */
static int model_is_written_anew(int arg)
{
    AvatarEngine *e = open_engine("weights");

    (void)arg;
    usleep(20000);                                                              // the clock of files is slow
    write_into_the_model();
    return close_all(e, stream(e) != AVATAR_ERR(ESTALE));
}

static void models_are_not_mixed(void **state)
{
    (void)state;
    assert_int_equal(take_in_child(model_is_written_anew, 0, HANG_SECONDS), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_for_opening), cmocka_unit_test(failures_are_any_number), cmocka_unit_test(descriptors_are_looked_at),
        cmocka_unit_test(statistics_are_no_stream), cmocka_unit_test(models_are_not_mixed),
    };

    return _cmocka_run_group_tests("service", tests, sizeof(tests) / sizeof(tests[0]), take_setup, take_teardown) ? 1 : 0;
}
