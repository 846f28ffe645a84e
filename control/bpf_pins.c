/* SPDX-License-Identifier: Apache-2.0 */
#include "control/bpf_pins.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "abi.h"
#include "check.h"

#define ROOT_PREFIX "fairlead-"
#define NEW_SUFFIX  "-new" /* names there have no dots */

bool bpf_pins_instance_valid(const char *instance)
{
    size_t len = strlen(instance);
    return len > 0 && len < BPF_PINS_INSTANCE_MAX &&
           strspn(instance, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

/* out = folder/name. False if it does not fit. */
static bool join(char out[BPF_PINS_PATH_MAX], const char *folder, const char *name)
{
    int len = snprintf(out, BPF_PINS_PATH_MAX, "%s/%s", folder, name);
    return len > 0 && len < BPF_PINS_PATH_MAX;
}

static void root_path(char out[BPF_PINS_PATH_MAX], const char *instance)
{
    int len = snprintf(out, BPF_PINS_PATH_MAX, BPF_PINS_FS "/" ROOT_PREFIX "%s", instance);
    CHECK(len > 0 && len < BPF_PINS_PATH_MAX);
}

static void version_path(const struct bpf_pins *pins, bool beside, char out[BPF_PINS_PATH_MAX])
{
    char name[32];
    snprintf(name, sizeof(name), "v%d%s", ABI_VERSION, beside ? NEW_SUFFIX : "");
    CHECK(join(out, pins->root, name));
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static int make_folder(const char *path)
{
    return mkdir(path, 0700) && errno != EEXIST ? -errno : 0;
}

static bool is_mounted(void)
{
    struct statfs fs;
    return statfs(BPF_PINS_FS, &fs) == 0 && fs.f_type == BPF_FS_MAGIC;
}

static int lock_root(const char *root)
{
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    int result = errno == EWOULDBLOCK ? -EBUSY : -errno;
    close(fd);
    return result;
}

/* A set that was built beside its old one and is all that is left is the set; one that is not was given up.
 */
static int finish_earlier(struct bpf_pins *pins)
{
    char set[BPF_PINS_PATH_MAX], beside[BPF_PINS_PATH_MAX];
    version_path(pins, false, set);
    version_path(pins, true, beside);
    if (!exists(beside))
        return 0;
    if (exists(set))
        return bpf_pins_remove(beside);
    return rename(beside, set) ? -errno : 0;
}

int bpf_pins_open(struct bpf_pins *pins, const char *instance, char *err, size_t err_len)
{
    root_path(pins->root, instance);
    pins->set[0] = '\0';
    pins->lock = -1;
    if (!is_mounted() && mount("bpf", BPF_PINS_FS, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=700")) {
        int result = -errno;
        snprintf(err, err_len,
                 "the BPF file system is not mounted at " BPF_PINS_FS " and cannot be mounted: %s; "
                 "run `mount -t bpf bpf " BPF_PINS_FS "`",
                 strerror(-result));
        return result;
    }
    int result = make_folder(pins->root);
    if (!result) {
        pins->lock = lock_root(pins->root);
        result = pins->lock < 0 ? pins->lock : finish_earlier(pins);
    }
    if (result == -EBUSY)
        snprintf(err, err_len,
                 "another fairleadd has the instance %s on this kernel; give this one a name of its own "
                 "(kernel: instance)",
                 instance);
    else if (result)
        snprintf(err, err_len, "%s: %s; the programs' maps have to be kept there", pins->root,
                 strerror(-result));
    if (result)
        bpf_pins_close(pins);
    return result;
}

void bpf_pins_close(struct bpf_pins *pins)
{
    if (pins->lock >= 0)
        close(pins->lock);
    pins->lock = -1;
}

int bpf_pins_lock(const char *instance)
{
    char root[BPF_PINS_PATH_MAX];
    root_path(root, instance);
    return lock_root(root);
}

void bpf_pins_name(struct bpf_pins *pins, const char *instance)
{
    root_path(pins->root, instance);
}

bool bpf_pins_exist(const char *instance)
{
    char root[BPF_PINS_PATH_MAX];
    root_path(root, instance);
    return exists(root);
}

int bpf_pins_choose(struct bpf_pins *pins, bool beside)
{
    char links[BPF_PINS_PATH_MAX];
    version_path(pins, beside, pins->set);
    CHECK(join(links, pins->set, "links"));
    int result = make_folder(pins->set);
    return result ? result : make_folder(links);
}

/* Names in a folder, without . and .. ; in turn, as a callback may remove what it is given. */
static void each_name(const char *folder, void (*each)(void *arg, const char *path), void *arg)
{
    char path[BPF_PINS_PATH_MAX];
    DIR *dir = opendir(folder);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            join(path, folder, entry->d_name))
            each(arg, path);
    closedir(dir);
}

struct others {
    const struct bpf_pins *pins;
    void (*each)(void *arg, const char *set);
    void *arg;
};

static void one_other(void *arg, const char *path)
{
    const struct others *others = arg;
    struct stat stat_buf;
    bool set = strrchr(path, '/')[1] == 'v' && stat(path, &stat_buf) == 0 && S_ISDIR(stat_buf.st_mode);
    if (set && strcmp(path, others->pins->set) != 0)
        others->each(others->arg, path);
}

void bpf_pins_each_other(const struct bpf_pins *pins, void (*each)(void *arg, const char *set), void *arg)
{
    struct others others = {.pins = pins, .each = each, .arg = arg};
    each_name(pins->root, one_other, &others);
}

static void remove_one(void *arg, const char *path)
{
    int *result = arg;
    struct stat stat_buf;
    if (lstat(path, &stat_buf))
        return;
    int one = S_ISDIR(stat_buf.st_mode) ? bpf_pins_remove(path) : unlink(path) ? -errno : 0;
    if (one && !*result)
        *result = one;
}

int bpf_pins_remove(const char *folder)
{
    int result = 0;
    each_name(folder, remove_one, &result);
    if (!result && rmdir(folder) && errno != ENOENT)
        result = -errno;
    return result;
}

int bpf_pins_settle(struct bpf_pins *pins)
{
    int result = 0;
    char set[BPF_PINS_PATH_MAX];
    bpf_pins_each_other(pins, remove_one, &result);
    version_path(pins, false, set);
    if (result || strcmp(set, pins->set) == 0)
        return result;
    if (rename(pins->set, set))
        return -errno;
    memcpy(pins->set, set, sizeof(set));
    return 0;
}

int bpf_pins_remove_instance(const char *instance)
{
    char root[BPF_PINS_PATH_MAX];
    root_path(root, instance);
    return bpf_pins_remove(root);
}

/* Ids. */

static void add_id(void *arg, const char *path)
{
    struct bpf_pins_ids *ids = arg;
    struct bpf_map_info info = {0};
    uint32_t len = sizeof(info);
    struct stat stat_buf;
    if (stat(path, &stat_buf) || !S_ISREG(stat_buf.st_mode) || ids->count == BPF_PINS_IDS_MAX)
        return;
    int fd = bpf_obj_get(path);
    if (fd < 0)
        return;
    if (bpf_obj_get_info_by_fd(fd, &info, &len) == 0)
        ids->id[ids->count++] = info.id;
    close(fd);
}

static void add_set(void *arg, const char *path)
{
    each_name(path, add_id, arg);
}

struct roots {
    const char *own;
    bool others;
    struct bpf_pins_ids *ids;
};

static void add_root(void *arg, const char *path)
{
    const struct roots *roots = arg;
    static const char prefix[] = BPF_PINS_FS "/" ROOT_PREFIX;
    if (strncmp(path, prefix, sizeof(prefix) - 1) == 0 && (strcmp(path, roots->own) != 0) == roots->others)
        each_name(path, add_set, roots->ids);
}

void bpf_pins_ids(const char *instance, bool others, struct bpf_pins_ids *out)
{
    char own[BPF_PINS_PATH_MAX];
    struct roots roots = {.own = own, .others = others, .ids = out};
    root_path(own, instance);
    out->count = 0;
    each_name(BPF_PINS_FS, add_root, &roots);
}
