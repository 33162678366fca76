/*
 * Put before sumd with LD_PRELOAD, this is a machine whose look-ups of host names never end. Each is a line of the file
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
