#ifndef VALIANT_CLIBUV_SHIM_H
#define VALIANT_CLIBUV_SHIM_H

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <uv.h>

/* Machine instructions that Swift cannot say. */

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

/* Which of the sixteen words at `words` are `word`: a bit for each, the first one's lowest. */

static inline uint32_t valiant_match_words(const void *words, uint16_t word) {
#if defined(__SSE2__)
  typedef short eight_words __attribute__((vector_size(16)));
  typedef char sixteen_bytes __attribute__((vector_size(16)));
  const short w = (short)word;
  const eight_words wanted = {w, w, w, w, w, w, w, w};
  eight_words low, high;
  memcpy(&low, words, 16);
  memcpy(&high, (const char *)words + 16, 16);
  const sixteen_bytes matches = __builtin_ia32_packsswb128(low == wanted, high == wanted);
  return (uint32_t)__builtin_ia32_pmovmskb128(matches);
#else
  uint32_t matches = 0;
  for (int index = 0; index < 16; index++) {
    uint16_t other;
    memcpy(&other, (const char *)words + 2 * index, 2);
    matches |= (uint32_t)(other == word) << index;
  }
  return matches;
#endif
}

/* accept4 is declared for _GNU_SOURCE only, which an importer cannot set. */
extern int accept4(int, struct sockaddr *, socklen_t *, int);

static inline int valiant_accept(int listening) {
  return accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

/* recv, send and sendmsg without being points where a thread can be cancelled: announcing that to
   the C library takes two locked instructions a call, and nobody cancels our threads. */

extern long syscall(long, ...);

static inline ssize_t valiant_receive(int socket, void *buffer, size_t bytes) {
  return syscall(SYS_recvfrom, socket, buffer, bytes, 0, NULL, NULL);
}

static inline ssize_t valiant_send(int socket, const void *bytes, size_t count) {
  return syscall(SYS_sendto, socket, bytes, count, MSG_NOSIGNAL, NULL, 0);
}

static inline ssize_t valiant_send_message(int socket, const struct msghdr *message) {
  return syscall(SYS_sendmsg, socket, message, MSG_NOSIGNAL);
}

/* A timer with a descriptor that becomes readable every so many milliseconds; -1 when there is none.
   By number, for <sys/timerfd.h> would make time structures a part of this module. */

static inline int valiant_timer(int milliseconds) {
  const long seconds = milliseconds / 1000, nanoseconds = milliseconds % 1000 * 1000000L;
  const long interval_and_first[4] = {seconds, nanoseconds, seconds, nanoseconds};
  const int monotonic = 1;
  int timer = (int)syscall(SYS_timerfd_create, monotonic, O_NONBLOCK | O_CLOEXEC);
  if (timer >= 0 && syscall(SYS_timerfd_settime, timer, 0, interval_and_first, NULL) != 0) {
    close(timer);
    timer = -1;
  }
  return timer;
}

/* mremap takes a varying number of arguments, which an importer cannot call. */
extern void *mremap(void *, size_t, size_t, int, ...);

static inline void *valiant_remap(void *block, size_t old_bytes, size_t new_bytes) {
  return mremap(block, old_bytes, new_bytes, 1 /* MREMAP_MAYMOVE */);
}

#endif
