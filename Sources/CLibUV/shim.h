#ifndef VALIANT_CLIBUV_SHIM_H
#define VALIANT_CLIBUV_SHIM_H

#include <sys/socket.h>
#include <uv.h>

/* Two machine instructions that Swift cannot say. */

static inline void valiant_prefetch(const void *address) {
  __builtin_prefetch(address);
}

static inline void valiant_spin_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

/* accept4 is declared for _GNU_SOURCE only, which an importer cannot set. */
extern int accept4(int, struct sockaddr *, socklen_t *, int);

static inline int valiant_accept(int listening) {
  return accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

/* mremap takes a varying number of arguments, which an importer cannot call. */
extern void *mremap(void *, size_t, size_t, int, ...);

static inline void *valiant_remap(void *block, size_t old_bytes, size_t new_bytes) {
  return mremap(block, old_bytes, new_bytes, 1 /* MREMAP_MAYMOVE */);
}

#endif
