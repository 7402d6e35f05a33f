/* Pages of memory as POSIX and Windows give them. */
#include "pages.h"

#ifdef _WIN32
#include <windows.h>

size_t page_size(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

char *reserve(size_t bytes) { return VirtualAlloc(NULL, bytes, MEM_RESERVE, PAGE_NOACCESS); }

int open_pages(char *at, size_t bytes) {
    return VirtualAlloc(at, bytes, MEM_COMMIT, PAGE_READWRITE) != NULL;
}

int seal_pages(char *at, size_t bytes) {
    DWORD before;
    return VirtualProtect(at, bytes, PAGE_READONLY, &before);
}

void release(char *reserved, size_t bytes) {
    (void)bytes;
    VirtualFree(reserved, 0, MEM_RELEASE);
}
#else
#include <sys/mman.h>
#include <unistd.h>

size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

char *reserve(size_t bytes) {
    char *found = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return found == MAP_FAILED ? NULL : found;
}

int open_pages(char *at, size_t bytes) { return !mprotect(at, bytes, PROT_READ | PROT_WRITE); }

int seal_pages(char *at, size_t bytes) { return !mprotect(at, bytes, PROT_READ); }

void release(char *reserved, size_t bytes) { munmap(reserved, bytes); }
#endif
