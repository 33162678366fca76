/*
 * Loaded into sumd with LD_PRELOAD, this makes host name lookups hang forever. Each lookup is logged as a line of the file
 * NAMES_LOG.
 */
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int getaddrinfo(const char *restrict name, const char *restrict service, const struct addrinfo *restrict hints,
                struct addrinfo **restrict found) {
    (void)service, (void)hints, (void)found;
    FILE *log = fopen(getenv("NAMES_LOG"), "a");
    fprintf(log, "%s\n", name);
    fclose(log);
    for (;;)
        pause();
}
