/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Limits of the control group: version 2 and 1, of the group itself and of those above it, in a container, and none. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/group.h"
#include "base/thread.h"
#include "test.h"

static char dir[] = "/tmp/avatar-group-XXXXXX", root[64], self[64];

/* The file system of groups anew: lines of /proc/self/cgroup, commands in the mount's folder. */
static void mount_as(const char *lines, const char *commands)
{
    test_shell("rm -rf %s && mkdir -p %s && printf '%s' > %s && cd %s && %s", root, root, lines, self, root, commands);
}

static void no_groups(void **state)
{
    (void)state;
    test_shell("rm -rf %s %s", root, self);
    assert_true(avt_group_memory_left(root, self) == INT64_MAX);
    assert_int_equal(avt_group_cores(root, self), INT32_MAX);
    mount_as("0::/\\n", "echo max > memory.max; echo 5 > memory.current; echo max 100000 > cpu.max");
    assert_true(avt_group_memory_left(root, self) == INT64_MAX);
    assert_int_equal(avt_group_cores(root, self), INT32_MAX);
}

static void version_2(void **state)
{
    (void)state;
    mount_as("0::/user/job\\n", "mkdir -p user/job; echo 3000 > user/job/memory.max; echo 1000 > user/job/memory.current;"
             "printf 'anon 7\\ninactive_file 400\\n' > user/job/memory.stat; echo 150000 100000 > user/job/cpu.max");
    assert_int_equal(avt_group_memory_left(root, self), 2400);
    assert_int_equal(avt_group_cores(root, self), 2);
}

/* The group above has less left than its child's own limit says. */
static void the_least_on_the_way_holds(void **state)
{
    (void)state;
    mount_as("0::/user/job\\n", "mkdir -p user/job; echo 3000 > user/job/memory.max; echo 0 > user/job/memory.current;"
             "echo 5000 > user/memory.max; echo 4900 > user/memory.current; echo 400000 100000 > user/job/cpu.max; echo 10000 100000 > user/cpu.max");
    assert_int_equal(avt_group_memory_left(root, self), 100);
    assert_int_equal(avt_group_cores(root, self), 1);
}

static void version_1(void **state)
{
    (void)state;
    mount_as("5:name=systemd:/\\n4:memory:/job\\n2:cpu,cpuacct:/job\\n1:cpuset:/\\n0::/\\n",
             "mkdir -p memory/job cpu/job; echo 3000 > memory/job/memory.limit_in_bytes; echo 1000 > memory/job/memory.usage_in_bytes;"
             "echo total_inactive_file 10 > memory/job/memory.stat; echo 250000 > cpu/job/cpu.cfs_quota_us; echo 100000 > cpu/job/cpu.cfs_period_us");
    assert_int_equal(avt_group_memory_left(root, self), 2010);
    assert_int_equal(avt_group_cores(root, self), 3);
    mount_as("2:cpu:/job\\n", "mkdir -p cpu/job; echo -1 > cpu/job/cpu.cfs_quota_us; echo 100000 > cpu/job/cpu.cfs_period_us");
    assert_int_equal(avt_group_cores(root, self), INT32_MAX);
}

/* The path is the host's; what is mounted here is the container's own group. */
static void a_container(void **state)
{
    (void)state;
    mount_as("0::/docker/0123\\n", "echo 900 > memory.max; echo 100 > memory.current; echo 100000 100000 > cpu.max");
    assert_int_equal(avt_group_memory_left(root, self), 800);
    assert_int_equal(avt_group_cores(root, self), 1);
}

static void cores_of_this_process(void **state)
{
    (void)state;
    assert_in_range(avt_nb_cores(), 1, avt_nb_mask());
}

static int setup(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(root, sizeof(root), "%s/groups", dir);
    snprintf(self, sizeof(self), "%s/self", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_shell("rm -rf %s", dir);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_groups), cmocka_unit_test(version_2), cmocka_unit_test(the_least_on_the_way_holds),
        cmocka_unit_test(version_1), cmocka_unit_test(a_container), cmocka_unit_test(cores_of_this_process),
    };

    return _cmocka_run_group_tests("group", tests, sizeof(tests) / sizeof(tests[0]), setup, teardown) ? 1 : 0;
}
