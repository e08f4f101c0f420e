/* Preloaded, it takes away what the system grants as long as a process has fewer than 65,530 mappings:
   to move one. */

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

void *mremap(void *block, size_t old_bytes, size_t new_bytes, int flags, ...) {
  (void)block, (void)old_bytes, (void)new_bytes, (void)flags;
  errno = ENOMEM;
  return MAP_FAILED;
}
