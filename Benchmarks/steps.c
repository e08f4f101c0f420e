/* steps COUNT NANOSECONDS PAGES: does COUNT pieces of arithmetic of about NANOSECONDS each, writes
   to PAGES pages of fresh memory in each, and prints how many pieces took more than 200 us, their
   99.9th percentile and the longest, in us.

   Times are processor times of the thread, as Valiant records those of its own steps (INFO engine).
   What a virtual machine's host takes away is in them, and what it needs to give the guest another
   page. Nothing can hold up this program but the machine: whatever it shows, no server on it can do
   better. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { BUCKETS = 1 << 20, SLOW = 200000 /* ns */, PAGE = 4096, REGION = 64 << 20 };

static uint32_t buckets[BUCKETS]; /* by 100 ns */

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time.tv_sec * UINT64_C(1000000000) + time.tv_nsec;
}

static uint64_t work(uint64_t rounds) {
  uint64_t value = 1;
  for (uint64_t round = 0; round < rounds; round++)
    value = value * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return value;
}

/* The next page that nobody has written to since the system gave it. */
static volatile char *fresh(void) {
  static char *region = MAP_FAILED;
  static size_t used = REGION;
  if (used == REGION) {
    if (region != MAP_FAILED) munmap(region, REGION);
    region = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) exit(1);
    used = 0;
  }
  used += PAGE;
  return region + used - PAGE;
}

int main(int argc, char **arguments) {
  if (argc != 4) return 2;
  uint64_t count = strtoull(arguments[1], NULL, 10), wanted = strtoull(arguments[2], NULL, 10);
  uint64_t pages = strtoull(arguments[3], NULL, 10);
  volatile uint64_t sink = 0;
  uint64_t least = UINT64_MAX, sample = 100000;
  for (int attempt = 0; attempt < 20; attempt++) { /* how fast this processor is */
    uint64_t start = now();
    sink += work(sample);
    uint64_t taken = now() - start;
    if (taken < least) least = taken;
  }
  uint64_t rounds = wanted * sample / (least ? least : 1) + 1, slow = 0, longest = 0;
  volatile char *touched[16] = {0};
  if (pages > sizeof touched / sizeof *touched) return 2;
  for (uint64_t step = 0; step < count; step++) {
    for (uint64_t page = 0; page < pages; page++) touched[page] = fresh();
    uint64_t start = now();
    for (uint64_t page = 0; page < pages; page++) *touched[page] = 1;
    sink += work(rounds);
    uint64_t taken = now() - start, bucket = taken / 100;
    buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    slow += taken > SLOW;
    if (taken > longest) longest = taken;
  }
  uint64_t beyond = count / 1000, bucket = BUCKETS;
  while (bucket-- > 0) {
    if (beyond < buckets[bucket]) break;
    beyond -= buckets[bucket];
  }
  printf("slow=%llu,p999_usec=%.1f,max_usec=%.1f\n", (unsigned long long)slow, (bucket + 1) / 10.0,
         longest / 1e3);
  return 0;
}
