/// What runs in Lua before any script: it takes away what a script may not have, and makes the rest so
/// that no script can change it for another.
enum ScriptPrelude {
  /// Gets a table of functions of the program; returns the scripts' environment and the function that
  /// says where an error has come from.
  static let source = #"""
    local program = ...
    local error, type, tostring, select, setmetatable, setfenv =
      error, type, tostring, select, setmetatable, setfenv
    local getinfo, clock, concat, pcall = debug.getinfo, os.clock, table.concat, pcall
    local sub, match, byte = string.sub, string.match, string.byte
    local rawset, rawget, loadstring, collectgarbage = rawset, rawget, loadstring, collectgarbage

    local protected = setmetatable({}, {__mode = 'k'})
    local function refuse() error('Attempt to modify a readonly table', 2) end
    local function protect(library)
      local outside = {}
      protected[outside] = true
      return setmetatable(outside, {__index = library, __newindex = refuse, __metatable = false})
    end

    -- What runs in C is not interrupted, and what cjson writes has lengths of 32 bits.
    local repeated, encode, textMax = string.rep, cjson.encode, 64 * 1024 * 1024
    string.rep = function(text, count)
      if #text == 0 then return '' end
      return repeated(text, count)
    end
    local function weigh(value, left, depth)
      if type(value) == 'string' then return left - #value - 8 end
      left = left - 32
      if type(value) ~= 'table' or depth > 1000 then return left end
      for key, element in next, value do
        left = weigh(element, weigh(key, left, depth + 1), depth + 1)
        if left < 0 then return left end
      end
      return left
    end
    local json = {
      null = cjson.null, decode = cjson.decode, _NAME = cjson._NAME, _VERSION = cjson._VERSION,
      encode = function(...)
        if weigh((...), textMax, 0) < 0 then error('Cannot serialise more than 64 MB', 2) end
        return encode(...)
      end,
    }

    -- Each coroutine's instructions are counted for itself.
    local check = program.check
    local function checking(body) return function(...) check() return body(...) end end
    local routines = {
      create = checking(coroutine.create), wrap = checking(coroutine.wrap),
      resume = checking(coroutine.resume), yield = coroutine.yield, status = coroutine.status,
      running = coroutine.running,
    }

    string.dump = nil
    getmetatable('').__metatable = false

    math.random, math.randomseed = program.random, program.seed

    local redis = {
      call = program.call, pcall = program.pcall, sha1hex = program.sha1hex, log = program.log,
      setresp = program.setresp,
      LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
      REPL_NONE = 0, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_ALL = 3,
      REDIS_VERSION = program.version, REDIS_VERSION_NUM = program.version_number,
    }
    local function one(body)
      return function(...)
        local text = ...
        if select('#', ...) ~= 1 or type(text) ~= 'string' then
          return {err = 'ERR wrong number or type of arguments'}
        end
        return body(text)
      end
    end
    redis.error_reply = one(function(text)
      if sub(text, 1, 1) == '-' then text = sub(text, 2) end
      local code, rest = match(text, '^([^ ]*) (.*)$')
      if not code then code, rest = 'ERR', text end
      return {err = code .. ' ' .. match(rest, '^(.-)[\r\n]*$')}
    end)
    redis.status_reply = one(function(text) return {ok = text} end)
    redis.replicate_commands = function() return true end
    redis.set_repl = function() end
    redis.breakpoint = function() return false end
    redis.debug = function() end
    redis.acl_check_cmd = function() return true end

    local visible = {
      tostring = tostring, tonumber = tonumber, type = type,
      getmetatable = getmetatable, setmetatable = setmetatable, next = next, pairs = pairs,
      ipairs = ipairs, assert = assert, error = error, rawget = rawget, rawequal = rawequal,
      select = select, unpack = unpack, gcinfo = gcinfo, _VERSION = _VERSION,
      coroutine = protect(routines), table = protect(table), string = protect(string),
      math = protect(math), bit = protect(bit), cjson = protect(json),
      os = protect({clock = clock}), redis = protect(redis), server = protect(redis),
    }
    local environment = {}
    visible._G = environment
    -- An error of a command is text to who catches it.
    local function caught(ok, problem, ...)
      if not ok and type(problem) == 'table' then
        local text = rawget(problem, 'err')
        if type(text) == 'string' then problem = text end
      end
      return ok, problem, ...
    end
    visible.pcall = function(...) return caught(pcall(...)) end
    -- Lua runs a handler where nothing interrupts it.
    local function handled(handler, ok, ...)
      if ok then return true, ... end
      return false, handler(...)
    end
    visible.xpcall = function(body, handler) return handled(handler, pcall(body)) end
    visible.rawset = function(table, key, value)
      if protected[table] or table == environment then
        error('Attempt to modify a readonly table', 2)
      end
      return rawset(table, key, value)
    end
    visible.collectgarbage = function(what)
      return collectgarbage(what == 'count' and 'count' or 'collect')
    end
    visible.loadstring = function(text, name)
      if type(text) == 'string' and byte(text) == 27 then
        return nil, 'precompiled code is not allowed'
      end
      local chunk, problem = loadstring(text, name)
      if chunk then setfenv(chunk, environment) end
      return chunk, problem
    end
    visible.load = function(reader, name)
      local pieces = {}
      for piece in reader do
        if piece == '' then break end
        pieces[#pieces + 1] = piece
      end
      return visible.loadstring(concat(pieces), name or '=(load)')
    end

    setmetatable(visible, {
      __index = function(_, name)
        error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
      end,
    })
    setmetatable(environment, {__index = visible, __newindex = refuse, __metatable = false})

    local function locate(problem)
      local level = 2
      local where = getinfo(level, 'Sl')
      while where and (where.what == 'C' or where.what == 'tail' or where.source == '=prelude') do
        level = level + 1
        where = getinfo(level, 'Sl')
      end
      local text = type(problem) == 'table' and rawget(problem, 'err') or 'ERR ' .. tostring(problem)
      return {err = text, source = where and where.source, line = where and where.currentline}
    end
    return environment, locate
    """#
}
