/*
 * Loaded into sumd with LD_PRELOAD, this simulates a failing disk. A fault lasts as long as a file of its name is in the folder
 * DISK_FAULTS:
 *
 *   kill       the process is killed instead of syncing a write-ahead log
 *   bad        a sync of a write-ahead log fails
 *   hang       a sync of a write-ahead log does not return
 *   full       writes to write-ahead logs and to incomplete files find no space
 *   folder     a sync of a folder fails
 *   read-only  files below the folder DISK_ROOT cannot be opened for writing
 *
 * Each write and each sync is logged as a line of the file DISK_LOG, `what path`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static int has(const char *fault) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", getenv("DISK_FAULTS"), fault);
    return !access(path, F_OK);
}

static int ends(const char *path, const char *end) {
    size_t length = strlen(path), of_end = strlen(end);
    return length >= of_end && !strcmp(path + length - of_end, end);
}

static void path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void note(const char *what, const char *path) {
    int log = syscall(SYS_openat, AT_FDCWD, getenv("DISK_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    dprintf(log, "%s %s\n", what, path);
    syscall(SYS_close, log);
}

static int sync_file(int fd, long call) {
    char path[PATH_MAX];
    path_of(fd, path);
    if (ends(path, "-wal") && has("kill"))
        _exit(137);
    if (ends(path, "-wal") && has("bad")) {
        errno = EIO;
        return -1;
    }
    struct stat of_file;
    if (has("folder") && !fstat(fd, &of_file) && S_ISDIR(of_file.st_mode)) {
        errno = EIO;
        return -1;
    }
    if (ends(path, "-wal") && has("hang")) {
        note("hang", path);
        while (has("hang"))
            usleep(1000);
    }
    note("sync", path);
    return syscall(call, fd);
}

int fsync(int fd) { return sync_file(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) {
    char path[PATH_MAX];
    path_of(fd, path);
    if ((ends(path, "-wal") || ends(path, ".partial")) && has("full")) {
        errno = ENOSPC;
        return -1;
    }
    note("write", path);
    return syscall(SYS_pwrite64, fd, data, length, at);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return pwrite64(fd, data, length, at); }

static int open_file(const char *path, int flags, mode_t mode) {
    const char *root = getenv("DISK_ROOT");
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
    if (writes && !strncmp(path, root, strlen(root)) && has("read-only")) {
        errno = EROFS;
        return -1;
    }
    return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

/* The mode is passed only if the call may create a file. */
#define OPEN(name)                               \
    int name(const char *path, int flags, ...) { \
        va_list rest;                            \
        va_start(rest, flags);                   \
        mode_t mode = 0;                         \
        if (flags & (O_CREAT | O_TMPFILE))       \
            mode = va_arg(rest, mode_t);         \
        va_end(rest);                            \
        return open_file(path, flags, mode);     \
    }
OPEN(open)
OPEN(open64)
