/* Checks that are counted: a failed one says where and what, and the program goes on. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>

extern long checks_passed, checks_failed;

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
