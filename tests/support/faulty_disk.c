/* A disk that fails, below everything that a program does to it: to be preloaded (LD_PRELOAD) into a process.
 *
 * Of the calls that write to, cut or sync the files in FAULTY_DISK_DIR, number FAULTY_DISK_AT fails as
 * FAULTY_DISK_KIND says:
 *   short   half of the bytes are written, and then there is no space
 *   eio     EIO
 *   enospc  ENOSPC
 *   power   the process ends, and of what was written since each file's last sync, everything is lost
 *   torn    the same, but a part of it, which FAULTY_DISK_AT decides, is on the disk nevertheless
 * FAULTY_DISK_REPORT is created when that has happened. A process that ends by itself writes the number of its calls to
 * FAULTY_DISK_CALLS. A sync succeeds without a real one: what it means is that the
 * writes before it can no longer be lost. Index in shared memory and lock are left alone: a crash forgets both. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A change since the last sync of its file: how to undo it, and how to do it again. */
struct change {
    struct change *before;
    ino_t inode;
    char path[4096];
    off_t size;         /* of the file before */
    off_t at;
    size_t old_length, new_length;
    char *old, *new;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct change *changes;
static long calls;
static int no_space_next;

static ssize_t real_pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return syscall(SYS_pwrite64, fd, bytes, length, at);
}

/* Whether the file belongs to the disk, and its path. */
static int is_ours(int fd, char *path) {
    static const char *dir;
    if (!dir && !(dir = getenv("FAULTY_DISK_DIR"))) return 0;
    char link[64] = "/proc/self/fd/";
    char digits[16];
    int count = 0, number = fd;
    if (fd < 0) return 0;
    do digits[count++] = '0' + number % 10; while (number /= 10);
    for (size_t end = strlen(link); count; link[end++] = digits[--count]) link[end + 1] = 0;
    ssize_t length = readlink(link, path, 4095);
    if (length < 0) return 0;
    path[length] = 0;
    if (strncmp(path, dir, strlen(dir)) != 0 || path[strlen(dir)] != '/') return 0;
    return !strstr(path, "-shm") && !strstr(path, ".lock");
}

static void *must(void *memory) {
    if (!memory) abort();
    return memory;
}

static void remember(int fd, const char *path, off_t at, const void *new, size_t new_length, int is_cut) {
    struct stat stat;
    if (fstat(fd, &stat) != 0) abort();
    struct change *change = must(calloc(1, sizeof *change));
    strcpy(change->path, path);
    change->inode = stat.st_ino;
    change->size = stat.st_size;
    change->at = at;
    off_t end = is_cut ? stat.st_size : at + (off_t)new_length;
    if (end > stat.st_size) end = stat.st_size;
    change->old_length = end > at ? end - at : 0;
    change->old = must(malloc(change->old_length + 1));
    int reader = open(path, O_RDONLY);
    if (change->old_length && pread(reader, change->old, change->old_length, at) != (ssize_t)change->old_length) abort();
    close(reader);
    change->new_length = new_length;
    change->new = must(malloc(new_length + 1));
    if (new_length) memcpy(change->new, new, new_length);
    change->before = changes;
    changes = change;
}

static void synced(int fd) {
    struct stat stat;
    if (fstat(fd, &stat) != 0) abort();
    for (struct change **link = &changes; *link;) {
        struct change *change = *link;
        if (change->inode != stat.st_ino) {
            link = &change->before;
            continue;
        }
        *link = change->before;
        free(change->old);
        free(change->new);
        free(change);
    }
}

static void lose_power(int is_torn) {
    struct change *again = NULL;
    for (struct change *change = changes, *before; change; change = before) {
        before = change->before;
        int fd = open(change->path, O_RDWR);
        if (change->old_length) real_pwrite(fd, change->old, change->old_length, change->at);
        syscall(SYS_ftruncate, fd, change->size);
        close(fd);
        change->before = again;
        again = change;
    }
    unsigned long random = 0x9e3779b97f4a7c15ul * (calls + 1);
    for (; is_torn && again; again = again->before) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        if (random & 1) continue;
        int fd = open(again->path, O_RDWR);
        if (again->new_length) real_pwrite(fd, again->new, again->new_length, again->at);
        close(fd);
    }
    _exit(99);
}

enum fault { NONE, SHORT, FAILED };

/* Counts a call, and says what is to become of it. */
static enum fault next(int is_write) {
    const char *at = getenv("FAULTY_DISK_AT"), *kind = getenv("FAULTY_DISK_KIND");
    calls++;
    if (no_space_next && is_write) {
        no_space_next = 0;
        errno = ENOSPC;
        return FAILED;
    }
    if (!at || !kind || calls != atol(at)) return NONE;
    const char *report = getenv("FAULTY_DISK_REPORT");
    if (report) close(open(report, O_CREAT | O_WRONLY, 0600));
    if (!strcmp(kind, "power") || !strcmp(kind, "torn")) lose_power(kind[0] == 't');
    if (!strcmp(kind, "short") && is_write) {
        no_space_next = 1;
        return SHORT;
    }
    errno = !strcmp(kind, "eio") || !is_write ? EIO : ENOSPC;
    return FAILED;
}

__attribute__((destructor)) static void ended(void) {
    const char *path = getenv("FAULTY_DISK_CALLS");
    int fd = path ? open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600) : -1;
    if (fd < 0) return;
    dprintf(fd, "%ld", calls);
    close(fd);
}

static ssize_t write_at(int fd, const void *bytes, size_t length, off_t at, const char *path) {
    pthread_mutex_lock(&lock);
    enum fault fault = next(1);
    ssize_t written = -1;
    if (fault == SHORT) length /= 2;
    if (fault != FAILED) {
        remember(fd, path, at, bytes, length, 0);
        written = real_pwrite(fd, bytes, length, at);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    char path[4096];
    return is_ours(fd, path) ? write_at(fd, bytes, length, at, path) : real_pwrite(fd, bytes, length, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) { return pwrite(fd, bytes, length, at); }

ssize_t write(int fd, const void *bytes, size_t length) {
    char path[4096];
    if (!is_ours(fd, path)) return syscall(SYS_write, fd, bytes, length);
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t written = write_at(fd, bytes, length, at, path);
    if (written > 0) lseek(fd, at + written, SEEK_SET);
    return written;
}

int ftruncate(int fd, off_t size) {
    char path[4096];
    if (!is_ours(fd, path)) return syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    int result = -1;
    if (next(0) == NONE) {
        remember(fd, path, size, NULL, 0, 1);
        result = syscall(SYS_ftruncate, fd, size);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int fdatasync(int fd) {
    char path[4096];
    if (!is_ours(fd, path)) return syscall(SYS_fdatasync, fd);
    pthread_mutex_lock(&lock);
    int result = next(0) == NONE ? 0 : -1;
    if (result == 0) synced(fd);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fsync(int fd) { return fdatasync(fd); }
