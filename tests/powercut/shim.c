/* Keeps beside a folder a copy of what a power cut would leave of it.
 *
 * Preloaded into the program under test: POWERCUT_DIR is the folder that is watched, POWERCUT_COPY where the copy stands;
 * both are absolute and without a slash at the end. A file's bytes and length go into the copy when the file is synced
 * (fsync, fdatasync, or sync_file_range of its written part), never before. Names that a synced file has, renames and
 * deletions go there at once: what a journalling file system may or may not have done by then, the next shim run may meet
 * the other way. POWERCUT_NAMES=late holds renames and deletions back until their folder is synced, for the way in which
 * the old names are still there.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One change of the copy at a time, in the order in which the changes became durable. */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

/* A rename or deletion that waits for its folder. `to` is empty for a deletion. */
struct waiting {
    char from[PATH_MAX], to[PATH_MAX];
    struct waiting *next;
};
static struct waiting *first, **last = &first;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Fills `copy` with the place of an absolute path in the copy; 0 if the path is not watched. */
static int place(const char *path, char copy[PATH_MAX]) {
    const char *dir = getenv("POWERCUT_DIR"), *to = getenv("POWERCUT_COPY");
    size_t length = dir ? strlen(dir) : 0;
    if (!length || !to || strncmp(path, dir, length) || (path[length] && path[length] != '/')) return 0;
    return snprintf(copy, PATH_MAX, "%s%s", to, path + length) < PATH_MAX;
}

static int place_at(int folder, const char *path, char copy[PATH_MAX]) {
    char whole[PATH_MAX], link[64];
    if (path[0] == '/') return place(path, copy);
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(folder == AT_FDCWD ? "/proc/self/cwd" : link, whole, sizeof whole - 1);
    if (length < 0 || (size_t)length + strlen(path) + 2 > sizeof whole) return 0;
    sprintf(whole + length, "/%s", path);
    return place(whole, copy);
}

static void give_up(const char *what, const char *path) {
    fprintf(stderr, "powercut: %s %s: %s\n", what, path, strerror(errno));
    abort();
}

static void make_parents(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        if (mkdir(path, 0777) && errno != EEXIST) give_up("making", path);
        *slash = '/';
    }
}

static int concerns(const struct waiting *change, const char *folder, const char *file) {
    const char *name = change->to[0] ? change->to : change->from;
    size_t length = folder ? strlen(folder) : 0;
    if (file) return !strcmp(change->from, file) || !strcmp(change->to, file);
    return !folder || (!strncmp(name, folder, length) && strrchr(name, '/') == name + length);
}

/* Does what waits for a folder, or what concerns the name of a file, in order; everything if both are null. */
static void settle(const char *folder, const char *file) {
    for (struct waiting **at = &first; *at;) {
        struct waiting *change = *at;
        if (!concerns(change, folder, file)) {
            at = &change->next;
            continue;
        }
        if (change->to[0]) REAL(rename)(change->from, change->to);
        else remove(change->from);
        *at = change->next;
        free(change);
    }
    for (last = &first; *last;) last = &(*last)->next;
}

static void change(const char *from, const char *to) {
    const char *names = getenv("POWERCUT_NAMES");
    struct waiting *new = calloc(1, sizeof *new);
    if (!new) give_up("noting", from);
    strcpy(new->from, from);
    strcpy(new->to, to);
    pthread_mutex_lock(&turn);
    *last = new;
    last = &new->next;
    if (!names || strcmp(names, "late")) settle(NULL, NULL);
    pthread_mutex_unlock(&turn);
}

/* Copies bytes [from, to) of an open file, and with `whole` its length too. */
static void keep(int file, off_t from, off_t to, int whole) {
    static char bytes[1 << 16];
    char path[PATH_MAX], copy[PATH_MAX], link[64];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    struct stat now;
    if (!place(path, copy) || fstat(file, &now)) return;
    pthread_mutex_lock(&turn);
    make_parents(copy);
    if (S_ISDIR(now.st_mode)) {
        if (mkdir(copy, 0777) && errno != EEXIST) give_up("making", copy);
        settle(copy, NULL);
    } else if (S_ISREG(now.st_mode) && now.st_nlink) {
        /* The name is this file's now: what became of an older file with it has happened before. */
        settle(NULL, copy);
        /* Opened anew: the program's descriptor may be for writing only. */
        int source = REAL(open)(link, O_RDONLY | O_CLOEXEC);
        int target = REAL(open)(copy, O_WRONLY | O_CLOEXEC | (whole ? O_CREAT : 0), 0666);
        struct stat known;
        if (source >= 0 && target >= 0 && !fstat(target, &known)) {
            /* Without the length, only what the copy has already can be newer. */
            off_t end = whole ? now.st_size : known.st_size;
            if (to < end) end = to;
            while (from < end) {
                size_t part = end - from < (off_t)sizeof bytes ? (size_t)(end - from) : sizeof bytes;
                ssize_t got = pread(source, bytes, part, from);
                if (got <= 0) break;
                if (pwrite(target, bytes, got, from) != got) give_up("copying to", copy);
                from += got;
            }
            if (whole && ftruncate(target, now.st_size)) give_up("cutting", copy);
        } else if (whole) {
            give_up("opening", copy);
        }
        if (source >= 0) close(source);
        if (target >= 0) close(target);
    }
    pthread_mutex_unlock(&turn);
    errno = saved;
}

int fsync(int file) {
    int result = REAL(fsync)(file);
    if (!result) keep(file, 0, LLONG_MAX, 1);
    return result;
}

int fdatasync(int file) {
    int result = REAL(fdatasync)(file);
    if (!result) keep(file, 0, LLONG_MAX, 1);
    return result;
}

/* It writes blocks, but no metadata and no cache of the disk: by itself it makes nothing durable. With POWERCUT_RANGES=kept
 * the bytes that the file had at its last sync may be newer, as they may on a real disk. */
int sync_file_range(int file, off64_t from, off64_t count, unsigned flags) {
    const char *ranges = getenv("POWERCUT_RANGES");
    int result = REAL(sync_file_range)(file, from, count, flags);
    if (!result && ranges && !strcmp(ranges, "kept")) keep(file, from, count ? from + count : LLONG_MAX, 0);
    return result;
}

int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    char a[PATH_MAX], b[PATH_MAX];
    int known = place_at(from_folder, from, a) & place_at(to_folder, to, b);
    int result = REAL(renameat)(from_folder, from, to_folder, to);
    if (!result && known) change(a, b);
    return result;
}

int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int unlinkat(int folder, const char *path, int flags) {
    char copy[PATH_MAX];
    int known = place_at(folder, path, copy);
    int result = REAL(unlinkat)(folder, path, flags);
    if (!result && known) change(copy, "");
    return result;
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

/* A cut is as durable as its next sync, so only syncs are watched. A folder that is made is durable with the first synced
 * file below it, or with its own sync. */
