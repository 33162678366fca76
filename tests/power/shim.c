/*
 * Loaded into a server with LD_PRELOAD, this records every change to the files below POWER_ROOT in POWER_LOG, in the order in
 * which the changes are made. tests/it/power/recording.rs reads the log and compares it with the files themselves, so that a
 * change by a call that is missing here is noticed.
 *
 * A record is a line, `what inode offset length`, followed by `length` bytes: the bytes written, or a path below the root.
 *
 * POWER_FAULT, if set, is one fault of this process, `kind number suffix`: the process dies after `number` changes, or instead
 * of its `number`-th flush of files whose names end with `suffix`; or that flush fails, or does nothing and reports success.
 * Linux marks the pages of a failed flush clean, and no later flush writes them: tests/it/power/disk.rs does the same.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* Held from before a change until it is recorded, so that the log has the order of the disk. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int log_file = -1;

/* The inodes of the open files below the root, by descriptor; 0 for all other descriptors. */
#define MAX_FILES 65536
static ino_t files[MAX_FILES];

/* The files that the fault applies to, by descriptor, and the number of calls left until it happens. */
static char is_faulty[MAX_FILES];
static enum { NONE, DIE_WRITING, DIE_SYNCING, FAIL, LIE } fault;
static char suffix[64];
static long left;

static void die(const char *why) {
    dprintf(2, "power shim: %s\n", why);
    abort();
}

static void read_fault(const char *text) {
    static const char *const kinds[] = {"", "die-writing", "die-syncing", "fail", "lie"};
    char kind[16];
    if (sscanf(text, "%15s %ld %63s", kind, &left, suffix) < 2)
        die("POWER_FAULT is not understood");
    for (int i = DIE_WRITING; i <= LIE; i++)
        if (!strcmp(kind, kinds[i]))
            fault = i;
}

/* Runs before main, while there is one thread. */
__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("POWER_ROOT"), *path = getenv("POWER_LOG");
    if (!folder || !path || strlen(folder) >= sizeof root)
        die("POWER_ROOT or POWER_LOG is missing");
    strcpy(root, folder);
    root_length = strlen(root);
    if (getenv("POWER_FAULT"))
        read_fault(getenv("POWER_FAULT"));
    log_file = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log_file < 0)
        die("POWER_LOG cannot be opened");
}

static int ends_with(const char *text, const char *end) {
    size_t length = strlen(text), least = strlen(end);
    return length >= least && !strcmp(text + length - least, end);
}

/* The part of a path below the root, or NULL. SQLite's -shm files are left out: they are rebuilt, not stored data. */
static const char *below(const char *path) {
    if (strncmp(path, root, root_length) || (path[root_length] && path[root_length] != '/'))
        return NULL;
    if (ends_with(path, "-shm"))
        return NULL;
    return path[root_length] ? path + root_length + 1 : "";
}

static ino_t inode(int fd) { return fd >= 0 && fd < MAX_FILES ? files[fd] : 0; }

static void record(const char *what, ino_t file, off_t at, const void *data, size_t length) {
    char head[128];
    int size = snprintf(head, sizeof head, "%s %llu %lld %zu\n", what, (unsigned long long)file, (long long)at, length);
    struct iovec parts[] = {{head, size}, {(void *)data, length}};
    if (syscall(SYS_writev, log_file, parts, 2) != (long)(size + length))
        die("POWER_LOG cannot be written");
    /* The thread holds the lock when the process dies, so that no record is incomplete. */
    if (fault == DIE_WRITING && --left == 0)
        _exit(137);
}

static int open_file(const char *path, int flags, mode_t mode) {
    const char *name = below(path);
    if (!name)
        return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    pthread_mutex_lock(&turn);
    int is_new = (flags & O_CREAT) && access(path, F_OK);
    int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= 0) {
        struct stat found;
        if (fd >= MAX_FILES || fstat(fd, &found))
            die("too many files");
        files[fd] = found.st_ino;
        is_faulty[fd] = *suffix && ends_with(name, suffix);
        if (is_new)
            record("create", found.st_ino, 0, name, strlen(name));
        else if (flags & O_TRUNC)
            record("size", found.st_ino, 0, "", 0);
    }
    pthread_mutex_unlock(&turn);
    return fd;
}

/* The mode is passed only if the call may create a file. */
#define OPEN(name)                                  \
    int name(const char *path, int flags, ...) {    \
        va_list rest;                               \
        va_start(rest, flags);                      \
        mode_t mode = 0;                            \
        if (flags & (O_CREAT | O_TMPFILE))          \
            mode = va_arg(rest, mode_t);            \
        va_end(rest);                               \
        return open_file(path, flags, mode);        \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    if (!inode(fd))
        return syscall(SYS_close, fd);
    pthread_mutex_lock(&turn);
    files[fd] = 0;
    int done = syscall(SYS_close, fd);
    pthread_mutex_unlock(&turn);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) {
    if (!inode(fd))
        return syscall(SYS_pwrite64, fd, data, length, at);
    pthread_mutex_lock(&turn);
    ssize_t done = syscall(SYS_pwrite64, fd, data, length, at);
    if (done > 0)
        record("write", inode(fd), at, data, done);
    pthread_mutex_unlock(&turn);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return pwrite64(fd, data, length, at); }

ssize_t write(int fd, const void *data, size_t length) {
    if (!inode(fd))
        return syscall(SYS_write, fd, data, length);
    pthread_mutex_lock(&turn);
    ssize_t done = syscall(SYS_write, fd, data, length);
    if (done > 0)
        record("write", inode(fd), lseek(fd, 0, SEEK_CUR) - done, data, done);
    pthread_mutex_unlock(&turn);
    return done;
}

int ftruncate64(int fd, off64_t length) {
    if (!inode(fd))
        return syscall(SYS_ftruncate, fd, length);
    pthread_mutex_lock(&turn);
    int done = syscall(SYS_ftruncate, fd, length);
    if (!done)
        record("size", inode(fd), length, "", 0);
    pthread_mutex_unlock(&turn);
    return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

/* Recorded after the call, and no change is made meanwhile, so that every earlier record of the file is on disk. */
static int sync_file(int fd, long call) {
    if (!inode(fd))
        return syscall(call, fd);
    pthread_mutex_lock(&turn);
    int done = 0, error = 0;
    if (fault >= DIE_SYNCING && is_faulty[fd] && --left == 0) {
        if (fault == DIE_SYNCING)
            _exit(137);
        record("fail", inode(fd), 0, "", 0);
        done = fault == FAIL ? -1 : 0;
        error = EIO;
    } else {
        done = syscall(call, fd);
        error = errno;
        if (!done)
            record("sync", inode(fd), 0, "", 0);
    }
    pthread_mutex_unlock(&turn);
    if (done)
        errno = error;
    return done;
}

int fsync(int fd) { return sync_file(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }

int mkdir(const char *path, mode_t mode) {
    const char *name = below(path);
    if (!name)
        return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    pthread_mutex_lock(&turn);
    int done = syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    struct stat found;
    if (!done && !stat(path, &found))
        record("folder", found.st_ino, 0, name, strlen(name));
    pthread_mutex_unlock(&turn);
    return done;
}

int unlink(const char *path) {
    const char *name = below(path);
    if (!name)
        return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    pthread_mutex_lock(&turn);
    int done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (!done)
        record("unlink", 0, 0, name, strlen(name));
    pthread_mutex_unlock(&turn);
    return done;
}

int rename(const char *from, const char *to) {
    const char *old = below(from), *name = below(to);
    if (!old && !name)
        return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!old || !name)
        die("a file is moved across the root");
    pthread_mutex_lock(&turn);
    int done = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!done) {
        char both[2 * PATH_MAX];
        int length = snprintf(both, sizeof both, "%s%c%s", old, 0, name);
        record("rename", 0, 0, both, length);
    }
    pthread_mutex_unlock(&turn);
    return done;
}
