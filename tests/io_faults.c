/* Preloaded into a process: counts the operations on files below given folders, and lets the n-th one fail.

   Python, torch's C++ and safetensors' Rust all write through these functions of the C library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folders[4][PATH_MAX];
static int num_folders, error_number, is_lasting, is_kill, journal = -1, is_armed;
static long fails_at;
static atomic_long count;
static char saved[PATH_MAX]; /* where the files that a rename replaces are kept, named by the number of the rename */

/* Begin to count; `fails_at` 0 lets nothing fail. `error` 0 ends the process there, as a kill does. */
void io_faults_arm(const char *first, const char *second, long n, int error, int lasting, const char *log,
                   const char *replaced) {
    num_folders = 0;
    snprintf(folders[num_folders++], PATH_MAX, "%s/", first);
    if (second && *second) snprintf(folders[num_folders++], PATH_MAX, "%s/", second);
    fails_at = n, error_number = error, is_lasting = lasting, is_kill = n && !error;
    snprintf(saved, PATH_MAX, "%s", replaced ? replaced : "");
    atomic_store(&count, 0);
    journal = log && *log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
    is_armed = 1;
}

long io_faults_count(void) { return atomic_load(&count); }

static int is_ours(const char *path) {
    for (int i = 0; i < num_folders; i++)
        if (!strncmp(path, folders[i], strlen(folders[i]))) return 1;
    return 0;
}

static const char *absolute(int at, const char *path, char *out) {
    if (*path == '/') return path;
    char link[64], base[PATH_MAX];
    ssize_t n;
    if (at == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
    n = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
    base[n > 0 ? n : 0] = 0;
    snprintf(out, PATH_MAX, "%s/%.1000s", base, path);
    return out;
}

static const char *of_handle(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    out[n > 0 ? n : 0] = 0;
    return out;
}

/* Count an operation before it is done; 1 if it must fail, with errno set. */
static int fails(const char *what, const char *path, const char *other) {
    if (!is_armed || !is_ours(path)) return 0;
    long n = atomic_fetch_add(&count, 1) + 1;
    int now = fails_at && (n == fails_at || (is_lasting && n > fails_at));
    if (journal >= 0) {
        char line[2 * PATH_MAX + 64];
        int size = snprintf(line, sizeof line, "%s\t%s\t%s\t%s\n", now ? "!" : "-", what, path, other ? other : "");
        syscall(SYS_write, journal, line, size);
    }
    if (!now && *saved && !strcmp(what, "rename")) {
        char keep[PATH_MAX];
        snprintf(keep, PATH_MAX, "%.3000s/%ld", saved, n);
        syscall(SYS_linkat, AT_FDCWD, other, AT_FDCWD, keep, 0);
    }
    if (now && is_kill) syscall(SYS_exit_group, 137);
    if (now) errno = error_number;
    return now;
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
/* Opening an existing file to append to it does not change it. */
#define KIND(flags) ((flags) & O_TRUNC ? "create" : (flags) & (O_WRONLY | O_RDWR | O_CREAT) ? "open" : "read")

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        NEXT(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); } \
        char buffer[PATH_MAX]; \
        if (is_armed && fails(KIND(flags), absolute(AT_FDCWD, path, buffer), 0)) return -1; \
        return next(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        NEXT(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); } \
        char buffer[PATH_MAX]; \
        if (is_armed && fails(KIND(flags), absolute(at, path, buffer), 0)) return -1; \
        return next(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        NEXT(name); \
        char buffer[PATH_MAX]; \
        if (is_armed && fails(*mode == 'w' ? "create" : strpbrk(mode, "a+") ? "open" : "read", absolute(AT_FDCWD, path, buffer), 0)) return NULL; \
        return next(path, mode); \
    }
FOPEN(fopen)
FOPEN(fopen64)

#define ON_HANDLE(type, name, what, parameters, arguments) \
    type name parameters { \
        NEXT(name); \
        char buffer[PATH_MAX]; \
        if (is_armed && fails(what, of_handle(fd, buffer), 0)) return -1; \
        return next arguments; \
    }
ON_HANDLE(ssize_t, write, "write", (int fd, const void *data, size_t size), (fd, data, size))
ON_HANDLE(ssize_t, pwrite, "write", (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
ON_HANDLE(ssize_t, pwrite64, "write", (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
ON_HANDLE(ssize_t, writev, "write", (int fd, const struct iovec *parts, int n), (fd, parts, n))

/* With the size that is safe from then on. */
#define SYNC(name) \
    int name(int fd) { \
        NEXT(name); \
        char buffer[PATH_MAX], size[32]; \
        struct stat state; \
        if (!is_armed) return next(fd); \
        snprintf(size, sizeof size, "%ld", fstat(fd, &state) ? 0L : (long)state.st_size); \
        return fails("fsync", of_handle(fd, buffer), size) ? -1 : next(fd); \
    }
SYNC(fsync)
SYNC(fdatasync)

/* What the C library buffers; numpy writes arrays so. */
size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    NEXT(fwrite);
    char buffer[PATH_MAX];
    return is_armed && fails("write", of_handle(fileno(file), buffer), 0) ? 0 : next(data, size, n, file);
}
ON_HANDLE(int, ftruncate, "truncate", (int fd, off_t size), (fd, size))
ON_HANDLE(int, ftruncate64, "truncate", (int fd, off64_t size), (fd, size))

#define ON_PATHS(name, what, parameters, path, other, arguments) \
    int name parameters { \
        NEXT(name); \
        char one[PATH_MAX], two[PATH_MAX]; \
        if (is_armed && fails(what, path, other)) return -1; \
        return next arguments; \
    }
ON_PATHS(rename, "rename", (const char *from, const char *to), absolute(AT_FDCWD, from, one),
         absolute(AT_FDCWD, to, two), (from, to))
ON_PATHS(renameat, "rename", (int a, const char *from, int b, const char *to), absolute(a, from, one),
         absolute(b, to, two), (a, from, b, to))
ON_PATHS(link, "link", (const char *from, const char *to), absolute(AT_FDCWD, to, one), ((void)two, from), (from, to))
ON_PATHS(mkdir, "mkdir", (const char *path, mode_t mode), absolute(AT_FDCWD, path, one), ((void)two, NULL), (path, mode))
ON_PATHS(unlink, "unlink", (const char *path), absolute(AT_FDCWD, path, one), ((void)two, NULL), (path))
ON_PATHS(unlinkat, "unlink", (int at, const char *path, int flags), absolute(at, path, one), ((void)two, NULL), (at, path, flags))
ON_PATHS(rmdir, "unlink", (const char *path), absolute(AT_FDCWD, path, one), ((void)two, NULL), (path))
