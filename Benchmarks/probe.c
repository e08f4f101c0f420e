/* probe PATH MICROSECONDS: every MICROSECONDS sends a GET of a missing key to the unix socket PATH,
   until SIGTERM. Then it writes what it saw to the standard output: pairs of 64-bit numbers, the
   nanosecond of CLOCK_MONOTONIC when a request was sent, and the nanoseconds until its reply.

   probe PATH echo: the least there can be behind a socket: answers whatever comes at once, to one
   client. Probing it shows how much of a latency is this machine's and the probe's own.

   A request that is due while the reply to the one before is awaited counts from when it was due:
   clients that come at that moment wait, too, and leaving them out would hide long pauses.

   It is not a Python script because that would add some 30 us of its own, and several hundred now
   and then. It asks for a real-time priority, for what else runs on its CPU must not delay it. And
   it uses no TCP: under load the kernel leaves packets to a thread of ordinary priority. */

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
  SAMPLES_MAX = 1 << 20, /* 17 minutes with one request a millisecond */
  ATTEMPTS_MAX = 5000    /* to connect, one a millisecond: an echo may not listen yet */
};

static struct { uint64_t sent, taken; } samples[SAMPLES_MAX];
static volatile sig_atomic_t stopping;

static void stop(int signal) { (void)signal, stopping = 1; }

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * UINT64_C(1000000000) + time.tv_nsec;
}

static void sleep_until(uint64_t when) {
  struct timespec time = {when / 1000000000, when % 1000000000};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

static void echo(int listening) {
  char bytes[4096];
  static const char reply[] = "$-1\r\n";
  int client = accept(listening, NULL, NULL);
  while (!stopping && client >= 0 && read(client, bytes, sizeof bytes) > 0)
    if (write(client, reply, sizeof reply - 1) < 0) break;
}

static size_t probe(int server, uint64_t interval) {
  static const char request[] = "*2\r\n$3\r\nGET\r\n$5\r\nprobe\r\n";
  char bytes[4096];
  size_t count = 0;
  uint64_t due = now();
  while (!stopping && count < SAMPLES_MAX) {
    sleep_until(due += interval);
    uint64_t sent = now();
    if (stopping) break;
    if (write(server, request, sizeof request - 1) != sizeof request - 1) fail("write");
    ssize_t length = read(server, bytes, sizeof bytes);
    if (length < 0 && errno == EINTR) break;
    if (length <= 0 || bytes[length - 1] != '\n') fail("read");
    uint64_t done = now();
    samples[count].sent = sent, samples[count++].taken = done - sent;
    for (; due + interval < done && count < SAMPLES_MAX; count++) {
      due += interval;
      samples[count].sent = due, samples[count].taken = done - due;
    }
  }
  return count;
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  struct sigaction stops = {.sa_handler = stop}; /* without SA_RESTART: read() must end */
  sigaction(SIGTERM, &stops, NULL);
  signal(SIGPIPE, SIG_IGN);
  struct sched_param priority = {.sched_priority = 1};
  if (sched_setscheduler(0, SCHED_FIFO, &priority)) perror("no real-time priority");
  if (mlockall(MCL_CURRENT)) perror("memory may be paged");

  int stream = socket(AF_UNIX, SOCK_STREAM, 0);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, arguments[1], sizeof address.sun_path - 1);
  if (!strcmp(arguments[2], "echo")) {
    if (bind(stream, (struct sockaddr *)&address, sizeof address)) fail("bind");
    if (listen(stream, 1)) fail("listen");
    echo(stream);
    return 0;
  }
  for (int attempts = 1; connect(stream, (struct sockaddr *)&address, sizeof address); attempts++) {
    if ((errno != ECONNREFUSED && errno != ENOENT) || attempts == ATTEMPTS_MAX) fail("connect");
    sleep_until(now() + 1000000);
  }
  size_t taken = probe(stream, strtoull(arguments[2], NULL, 10) * 1000);
  return fwrite(samples, sizeof samples[0], taken, stdout) == taken && !fflush(stdout) ? 0 : 1;
}
