/* hiredis HOST PORT: what a program in C does with hiredis, against a running server.
 *
 * Uses keys which begin with `hiredis:` and removes them. Prints `ok - ...` or `not ok - ...` for each check; exit status 1
 * if one failed. */

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed;

static void check(const char *name, int holds) {
  printf("%s - hiredis: %s\n", holds ? "ok" : "not ok", name);
  if (!holds) failed = 1;
}

static int is_text(const redisReply *reply, int type, const char *text) {
  return reply && reply->type == type && reply->len == strlen(text) && memcmp(reply->str, text, reply->len) == 0;
}

static int is_number(const redisReply *reply, long long number) {
  return reply && reply->type == REDIS_REPLY_INTEGER && reply->integer == number;
}

static redisContext *connected(const char *host, int port) {
  struct timeval patience = {10, 0};
  redisContext *context = redisConnectWithTimeout(host, port, patience);
  if (!context || context->err) {
    printf("not ok - hiredis: connects: %s\n", context ? context->errstr : "no memory");
    exit(1);
  }
  redisSetTimeout(context, patience);
  return context;
}

static void values(redisContext *context) {
  const char binary[] = "a\0b\r\nc";
  redisReply *reply = redisCommand(context, "SET hiredis:a %b", binary, sizeof binary - 1);
  check("sets a binary value", is_text(reply, REDIS_REPLY_STATUS, "OK"));
  freeReplyObject(reply);
  reply = redisCommand(context, "GET hiredis:a");
  check("gets it back", reply && reply->len == sizeof binary - 1 && memcmp(reply->str, binary, reply->len) == 0);
  freeReplyObject(reply);
  reply = redisCommand(context, "INCR hiredis:a");
  check("gets an error", is_text(reply, REDIS_REPLY_ERROR, "ERR value is not an integer or out of range"));
  freeReplyObject(reply);
  reply = redisCommand(context, "DEL hiredis:a");
  check("deletes it", is_number(reply, 1));
  freeReplyObject(reply);
  reply = redisCommand(context, "GET hiredis:a");
  check("gets nil for what is missing", reply && reply->type == REDIS_REPLY_NIL);
  freeReplyObject(reply);
}

static void pipeline(redisContext *context) {
  int good = 1;
  redisReply *reply;
  for (int number = 0; number < 1000; number++) redisAppendCommand(context, "INCRBY hiredis:n %d", number);
  redisAppendCommand(context, "GETDEL hiredis:n");
  for (int number = 0, sum = 0; number < 1000; number++) {
    sum += number;
    good = redisGetReply(context, (void **)&reply) == REDIS_OK && is_number(reply, sum) && good;
    freeReplyObject(reply);
  }
  good = redisGetReply(context, (void **)&reply) == REDIS_OK && is_text(reply, REDIS_REPLY_STRING, "499500") && good;
  freeReplyObject(reply);
  check("pipelines a thousand requests", good);
}

static void transaction(redisContext *context) {
  freeReplyObject(redisCommand(context, "MULTI"));
  redisReply *reply = redisCommand(context, "SET hiredis:a 1");
  check("queues", is_text(reply, REDIS_REPLY_STATUS, "QUEUED"));
  freeReplyObject(reply);
  freeReplyObject(redisCommand(context, "DEL hiredis:a"));
  reply = redisCommand(context, "EXEC");
  check("executes", reply && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 && is_number(reply->element[1], 1));
  freeReplyObject(reply);
}

static void messages(redisContext *context, redisContext *other) {
  redisReply *reply = redisCommand(context, "SUBSCRIBE hiredis:c");
  check("subscribes", reply && reply->type == REDIS_REPLY_ARRAY && is_number(reply->element[2], 1));
  freeReplyObject(reply);
  reply = redisCommand(other, "PUBLISH hiredis:c hello");
  check("publishes to one", is_number(reply, 1));
  freeReplyObject(reply);
  int came = redisGetReply(context, (void **)&reply) == REDIS_OK;
  check("gets the message", came && reply->elements == 3 && is_text(reply->element[2], REDIS_REPLY_STRING, "hello"));
  if (came) freeReplyObject(reply);
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  redisContext *context = connected(arguments[1], atoi(arguments[2]));
  redisContext *other = connected(arguments[1], atoi(arguments[2]));
  values(context);
  pipeline(context);
  transaction(context);
  messages(context, other);
  redisFree(context);
  redisFree(other);
  return failed;
}
