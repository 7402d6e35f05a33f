/* Memory by pages: addresses that cannot be used until they are opened. */
#ifndef PAGES_H
#define PAGES_H

#include <stddef.h>

size_t page_size(void);
/* So many addresses, none of which can be read or written; NULL when there are none. */
char *reserve(size_t bytes);
/* Makes the pages from `at` on, which begins one, readable and writable; 0 when that fails. */
int open_pages(char *at, size_t bytes);
/* Makes pages that are open readable only; 0 when that fails. */
int seal_pages(char *at, size_t bytes);
/* Gives back all that reserve() gave. */
void release(char *reserved, size_t bytes);

#endif
