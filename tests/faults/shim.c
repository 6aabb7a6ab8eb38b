/* Loaded into a process with LD_PRELOAD, this makes faults that a test cannot make from outside: an op that crashes, a
 * slow disk, a wall clock that jumps. `shim.py` builds it and steers it through a file that is mapped into all processes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t clock_seconds; /* added to the wall clock */
    int64_t open_millis;   /* that opening a file of the store takes longer */
    int64_t read_millis;   /* that each read of any file's place takes longer */
};

static struct control *control;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("TFSERVE_SHIM");
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int fd = path ? real_open(path, O_RDWR) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED) control = mapped;
}

static void wait_millis(int64_t millis) {
    struct timespec time = {millis / 1000, millis % 1000 * 1000000};
    if (millis > 0) nanosleep(&time, NULL);
}

static void before_open(const char *path) {
    if (!control || !path) return;
    if (strstr(path, "crash-in-the-op")) *(volatile int *)0 = 1;
    if (strstr(path, "/store/")) wait_millis(control->open_millis);
}

#define OPEN(name)                                                              \
    int name(const char *path, int flags, ...) {                                \
        static int (*real)(const char *, int, ...);                             \
        if (!real) real = dlsym(RTLD_NEXT, #name);                              \
        va_list more;                                                           \
        va_start(more, flags);                                                  \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;       \
        va_end(more);                                                           \
        before_open(path);                                                      \
        return real(path, flags, mode);                                         \
    }
OPEN(open)
OPEN(open64)

#define FOPEN(name)                                                             \
    FILE *name(const char *path, const char *mode) {                            \
        static FILE *(*real)(const char *, const char *);                       \
        if (!real) real = dlsym(RTLD_NEXT, #name);                              \
        before_open(path);                                                      \
        return real(path, mode);                                                \
    }
FOPEN(fopen)
FOPEN(fopen64)

#define PREAD(name)                                                             \
    ssize_t name(int fd, void *into, size_t size, off_t at) {                   \
        static ssize_t (*real)(int, void *, size_t, off_t);                     \
        if (!real) real = dlsym(RTLD_NEXT, #name);                              \
        if (control) wait_millis(control->read_millis);                         \
        return real(fd, into, size, at);                                        \
    }
PREAD(pread)
PREAD(pread64)

int clock_gettime(clockid_t clock, struct timespec *into) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, into);
    if (!result && control && clock == CLOCK_REALTIME) into->tv_sec += control->clock_seconds;
    return result;
}

int gettimeofday(struct timeval *into, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(into, zone);
    if (!result && control) into->tv_sec += control->clock_seconds;
    return result;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}
