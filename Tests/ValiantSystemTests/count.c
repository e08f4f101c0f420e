/* Counts allocations of a program that preloads this, in the first eight bytes of the file that
   ALLOCATION_COUNT_FILE names. See AllocationTests.swift. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static unsigned long early;
static unsigned long *counter = &early;

__attribute__((constructor)) static void map_counter(void) {
  const char *path = getenv("ALLOCATION_COUNT_FILE");
  int file = path ? open(path, O_RDWR) : -1;
  if (file < 0) return;
  void *map = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (map != MAP_FAILED) counter = map;
}

#define COUNT __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED)

void *malloc(size_t size) { COUNT; return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { COUNT; return __libc_calloc(count, size); }
void *realloc(void *block, size_t size) { COUNT; return __libc_realloc(block, size); }
void *aligned_alloc(size_t alignment, size_t size) { COUNT; return __libc_memalign(alignment, size); }
int posix_memalign(void **block, size_t alignment, size_t size) {
  COUNT;
  *block = __libc_memalign(alignment, size);
  return *block ? 0 : 12;
}
