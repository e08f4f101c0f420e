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

#endif
