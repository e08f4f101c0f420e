#ifndef VALIANT_CLUA_SHIM_H
#define VALIANT_CLUA_SHIM_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>

extern int luaopen_cjson(lua_State *);
extern int luaopen_bit(lua_State *);

/* An error of Lua leaves the functions that it passes by a jump, which Swift does not allow for its own.
   So Swift says what is wrong by a result, and only C raises errors:

     body        a function in Swift; fewer than 0 results mean that the value on top is an error to be raised
     interrupt   is asked now and then whether what runs has to end, and why

   While a body runs, memory is given beyond the limit: its absence would be such an error, too. */

typedef int (*valiant_lua_body)(lua_State *);

typedef struct {
  void *owner;
  const char *(*interrupt)(void *owner);
  size_t used, limit; /* bytes */
  int bodies;
} valiant_lua_memory;

static inline void *valiant_lua_allocate(void *memory_, void *block, size_t old, size_t wanted) {
  valiant_lua_memory *memory = memory_;
  if (wanted == 0) {
    memory->used -= old;
    free(block);
    return NULL;
  }
  if (wanted > old && memory->bodies == 0 && memory->used + (wanted - old) > memory->limit) return NULL;
  void *result = realloc(block, wanted);
  if (result)
    memory->used += wanted - old;
  else if (memory->bodies > 0)
    abort();
  return result;
}

static inline valiant_lua_memory *valiant_lua_memory_of(lua_State *state) {
  void *memory;
  lua_getallocf(state, &memory);
  return memory;
}

static inline lua_State *valiant_lua_new(valiant_lua_memory *memory) {
  return lua_newstate(valiant_lua_allocate, memory);
}

static inline int valiant_lua_enter(lua_State *state) {
  valiant_lua_memory *memory = valiant_lua_memory_of(state);
  valiant_lua_body body = (valiant_lua_body)lua_touserdata(state, lua_upvalueindex(1));
  memory->bodies++;
  int results = body(state);
  memory->bodies--;
  return results < 0 ? lua_error(state) : results;
}

static inline void valiant_lua_push_body(lua_State *state, valiant_lua_body body) {
  lua_pushlightuserdata(state, (void *)body);
  lua_pushcclosure(state, valiant_lua_enter, 1);
}

/* Opens the libraries that scripts may use, and those of which the prelude takes something. */
static inline void valiant_lua_open(lua_State *state) {
  static const luaL_Reg libraries[] = {
    {"", luaopen_base}, {LUA_TABLIBNAME, luaopen_table}, {LUA_STRLIBNAME, luaopen_string},
    {LUA_MATHLIBNAME, luaopen_math}, {LUA_OSLIBNAME, luaopen_os}, {LUA_DBLIBNAME, luaopen_debug},
    {"cjson", luaopen_cjson}, {"bit", luaopen_bit}, {NULL, NULL},
  };
  for (const luaL_Reg *library = libraries; library->func; library++) {
    lua_pushcfunction(state, library->func);
    lua_pushstring(state, library->name);
    lua_call(state, 1, 1);
    if (library->name[0]) lua_setglobal(state, library->name);
  }
  lua_settop(state, 0);
}

static inline void valiant_lua_hook(lua_State *state, lua_Debug *activation) {
  (void)activation;
  valiant_lua_memory *memory = valiant_lua_memory_of(state);
  const char *reason = memory->interrupt(memory->owner);
  if (!reason) return;
  /* Who catches the error gets it again at once. */
  lua_sethook(state, valiant_lua_hook, LUA_MASKLINE, 0);
  lua_pushstring(state, reason);
  lua_error(state);
}

/* Has `interrupt` asked every so many instructions. */
static inline void valiant_lua_watch(lua_State *state, int instructions) {
  lua_sethook(state, valiant_lua_hook, LUA_MASKCOUNT, instructions);
}

/* What the importer does not take over, because it is a macro. */

static inline void valiant_lua_pop(lua_State *state, int count) { lua_settop(state, -count - 1); }
static inline void valiant_lua_new_table(lua_State *state) { lua_createtable(state, 0, 0); }
static inline int valiant_lua_keep(lua_State *state) { return luaL_ref(state, LUA_REGISTRYINDEX); }
static inline void valiant_lua_push_kept(lua_State *state, int number) {
  lua_rawgeti(state, LUA_REGISTRYINDEX, number);
}
static inline void valiant_lua_forget(lua_State *state, int number) { luaL_unref(state, LUA_REGISTRYINDEX, number); }

static inline int valiant_lua_format(char *text, size_t room, double number) {
  return snprintf(text, room, "%.17g", number);
}

#endif
