/* Checks that are counted, and a digest of results. A failed check says where and what, and the program goes
 * on. */
#ifndef CHECK_H
#define CHECK_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

extern long checks_passed, checks_failed;

/* FNV-1a over everything given to it so far. */
extern uint64_t digest;
void digest_add(const void *bytes, size_t n);

/* CHECK(condition, format, ...): the format says of which case the condition does not hold. */
#define CHECK(condition, ...)                                                                   \
    do {                                                                                        \
        if (condition) {                                                                        \
            checks_passed++;                                                                    \
        } else if (checks_failed++ < 50) {                                                      \
            printf("%s:%d: not so: %s (", __FILE__, __LINE__, #condition);                      \
            printf(__VA_ARGS__);                                                                \
            printf(")\n");                                                                      \
        }                                                                                       \
    } while (0)

#endif
