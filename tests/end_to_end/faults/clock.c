/* Another time of day for one program and those it starts: CLOCK_OFF_S seconds more, if CLOCK_OF is in its command. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

static long off = 0;

__attribute__((constructor)) static void begin(void) {
    char line[8192];
    const char *of = getenv("CLOCK_OF"), *seconds = getenv("CLOCK_OFF_S"), *within = getenv("CLOCK_WITHIN");
    FILE *file = fopen("/proc/self/cmdline", "rb");
    size_t size = file ? fread(line, 1, sizeof line - 1, file) : 0;
    if (file) fclose(file);
    for (size_t at = 0; at < size; at++)
        if (!line[at]) line[at] = ' ';
    line[size] = 0;
    if (!of || !seconds) return;
    if (within || strstr(line, of)) {
        off = atol(seconds);
        setenv("CLOCK_WITHIN", "1", 1);
    }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, now);
    if (!done && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += off;
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (where) *where = found.tv_sec;
    return found.tv_sec;
}
