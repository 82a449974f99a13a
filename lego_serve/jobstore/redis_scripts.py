"""The Lua scripts of the Redis store: each is one step that no other client comes between.

Keys, all with one hash tag, so that a cluster would keep them on one node:

    {lego}:job:ID         hash: ``record`` as JSON, and what a claim changes of it beside; what is in the hash holds
    {lego}:ready:TENANT   sorted set of a tenant's claim orders, all of score 0: sorted as texts
    {lego}:waiting        sorted set of the tenants that have such a set, all of score 0
    {lego}:turns          sorted set of tenants by the number of the claim that each last had
    {lego}:ready          claim orders of all tenants, as gateways of an earlier version add them; claims take them over
    {lego}:due            sorted set of ids by the time when something is due
    {lego}:jobs:TENANT    sorted set of ids, all of score 0
    {lego}:open:TENANT    set of the ids of jobs that have not ended
    {lego}:stored         hash of the bytes that the files of each tenant's jobs take
    {lego}:unreadable     set of the ids of jobs whose records were set aside
    {lego}:idem:N:TENANT:KEY   the id that an idempotency key stands for; N is the length of the tenant's name
    {lego}:owners         sorted set of owners by the end of their lease
    {lego}:owned:OWNER    set of ids
    {lego}:outbox, {lego}:messages   sorted set of message ids by the time they are due, hash of messages
    {lego}:note:NAME      hash of a text and until when it is kept, a key that expires
    {lego}:flight:TENANT  hash of how many requests each owner has in flight
    {lego}:settings       hash of what all gateways keep under a name
    {lego}:ckpt:ID, {lego}:previews:ID   what an attempt leaves while it runs, keys that expire (see running/)
    {lego}:changes        the channel on which ids of changed jobs are published

Sorted sets rather than keys that expire, because what lapses must be found.  The scripts use commands of Redis 6.2.
"""

SERVER_TIME = "local t = redis.call('TIME') return tonumber(t[1]) + tonumber(t[2]) / 1000000"

# ARGV is the script's own; KEYS[1] is the prefix that all keys have.
_COMMON = """
local P = KEYS[1]
local function now() %s end
local function job(id) return P .. 'job:' .. id end
local function read(id)
  local found = redis.call('HMGET', job(id), 'record', 'version', 'status', 'attempt', 'owner', 'started_at')
  table.insert(found, 1, id)
  return found
end
local function read_all(ids)
  local found = {}
  for i, id in ipairs(ids) do found[i] = read(id) end
  return found
end
local function lease(owner, seconds) redis.call('ZADD', P .. 'owners', now() + seconds, owner) end
local function set_due(id, at)
  if at == '' then redis.call('ZREM', P .. 'due', id) else redis.call('ZADD', P .. 'due', at, id) end
end
local function ready(tenant) return P .. 'ready:' .. tenant end
local function tenant_in(order) return string.sub(order, 29, -38) end
local function set_order(before, after)
  if before and before ~= '' and before ~= after then
    local tenant = tenant_in(before)
    redis.call('ZREM', P .. 'ready', before)
    redis.call('ZREM', ready(tenant), before)
    if redis.call('EXISTS', ready(tenant)) == 0 then redis.call('ZREM', P .. 'waiting', tenant) end
  end
  if after ~= '' then
    redis.call('ZADD', ready(tenant_in(after)), 0, after)
    redis.call('ZADD', P .. 'waiting', 0, tenant_in(after))
  end
end
local function set_owner(id, before, after)
  if before and before ~= '' and before ~= after then redis.call('SREM', P .. 'owned:' .. before, id) end
  if after ~= '' then redis.call('SADD', P .. 'owned:' .. after, id) end
end
local function set_open(id, tenant, status)
  local is_open = status == 'queued' or status == 'in_progress'
  redis.call(is_open and 'SADD' or 'SREM', P .. 'open:' .. tenant, id)
end
local function set_size(id, tenant, passing, kept)
  local held = redis.call('HMGET', job(id), 'passing', 'kept')
  local more = passing + kept - (tonumber(held[1]) or 0) - (tonumber(held[2]) or 0)
  if more ~= 0 then redis.call('HINCRBY', P .. 'stored', tenant, more) end
  redis.call('HSET', job(id), 'passing', passing, 'kept', kept)
end
local function drop_running(id) redis.call('DEL', P .. 'ckpt:' .. id, P .. 'previews:' .. id) end
local function is_run(id, attempt)
  local held = redis.call('HMGET', job(id), 'attempt', 'owner')
  return held[1] == attempt and held[2] ~= ''
end
local function announce(id) redis.call('PUBLISH', P .. 'changes', id) end
"""

NOW = "return string.format('%.6f', now())"

GET = "return read(ARGV[1])"

# key
FIND = """
local id = redis.call('GET', P .. ARGV[1])
return read(id or '')
"""

# id, attempt, content, milliseconds that it is kept; refused unless the record has the attempt and somebody runs it
SET_CHECKPOINT = """
if not is_run(ARGV[1], ARGV[2]) then return 0 end
redis.call('SET', P .. 'ckpt:' .. ARGV[1], ARGV[3], 'PX', ARGV[4])
return 1
"""

GET_CHECKPOINT = "return redis.call('GET', P .. 'ckpt:' .. ARGV[1])"

# id, attempt, lane, content, milliseconds that all are kept
SET_PREVIEW = """
if not is_run(ARGV[1], ARGV[2]) then return 0 end
redis.call('HSET', P .. 'previews:' .. ARGV[1], ARGV[3], ARGV[4])
redis.call('PEXPIRE', P .. 'previews:' .. ARGV[1], ARGV[5])
return 1
"""

GET_PREVIEWS = "return redis.call('HGETALL', P .. 'previews:' .. ARGV[1])"

# tenant, how many, after or '', '1' for ascending
PAGE = """
local tenant, count, after = P .. 'jobs:' .. ARGV[1], ARGV[2], ARGV[3]
if ARGV[4] == '1' then
  local from = after == '' and '-' or '(' .. after
  return read_all(redis.call('ZRANGEBYLEX', tenant, from, '+', 'LIMIT', 0, count))
end
local from = after == '' and '+' or '(' .. after
return read_all(redis.call('ZREVRANGEBYLEX', tenant, from, '-', 'LIMIT', 0, count))
"""

# tenant
HELD = "return {redis.call('SCARD', P .. 'open:' .. ARGV[1]), redis.call('HGET', P .. 'stored', ARGV[1]) or '0'}"

COUNTS = """
local running, queued = 0, redis.call('ZCARD', P .. 'ready')
for _, owner in ipairs(redis.call('ZRANGE', P .. 'owners', 0, -1)) do
  running = running + redis.call('SCARD', P .. 'owned:' .. owner)
end
for _, tenant in ipairs(redis.call('ZRANGE', P .. 'waiting', 0, -1)) do
  queued = queued + redis.call('ZCARD', ready(tenant))
end
return {queued, running, redis.call('ZCARD', P .. 'outbox'), redis.call('SCARD', P .. 'unreadable')}
"""

POSITION = """
local order = redis.call('HGET', job(ARGV[1]), 'order')
return order and order ~= '' and redis.call('ZRANK', ready(tenant_in(order)), order)
"""

# owner, lease seconds
BEAT = """
local ends = redis.call('ZSCORE', P .. 'owners', ARGV[1])
lease(ARGV[1], tonumber(ARGV[2]))
return (ends and tonumber(ends) > now()) and 1 or 0
"""

LAPSED = "return redis.call('ZRANGEBYSCORE', P .. 'owners', '-inf', now())"

OWNED = """
local ids = redis.call('SMEMBERS', P .. 'owned:' .. ARGV[1])
table.sort(ids)
return read_all(ids)
"""

OWNED_IDS = "return redis.call('SMEMBERS', P .. 'owned:' .. ARGV[1])"

DROP_OWNER = """
if redis.call('SCARD', P .. 'owned:' .. ARGV[1]) > 0 then return 0 end
redis.call('ZREM', P .. 'owners', ARGV[1])
return 1
"""

DUE = "return read_all(redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', now(), 'LIMIT', 0, ARGV[1]))"

# how many, for how many seconds nobody else gets them
TAKE_OUTBOX = """
local found = {}
for i, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'outbox', '-inf', now(), 'LIMIT', 0, ARGV[1])) do
  redis.call('ZADD', P .. 'outbox', now() + tonumber(ARGV[2]), id)
  found[i] = {id, redis.call('HGET', P .. 'messages', id)}
end
return found
"""

# message id, due_at, message
POSTPONE = """
if redis.call('HEXISTS', P .. 'messages', ARGV[1]) == 0 then return 0 end
redis.call('HSET', P .. 'messages', ARGV[1], ARGV[3])
redis.call('ZADD', P .. 'outbox', ARGV[2], ARGV[1])
return 1
"""

SETTLE = """
redis.call('HDEL', P .. 'messages', ARGV[1])
return redis.call('ZREM', P .. 'outbox', ARGV[1])
"""

# name, text, seconds, '1' to replace; with the script's own time, as all else lapses by it
NOTE = """
local held = redis.call('HMGET', P .. 'note:' .. ARGV[1], 'text', 'until')
if ARGV[4] == '1' or not held[1] or tonumber(held[2]) <= now() then
  redis.call('HSET', P .. 'note:' .. ARGV[1], 'text', ARGV[2], 'until', now() + tonumber(ARGV[3]))
  redis.call('EXPIRE', P .. 'note:' .. ARGV[1], math.ceil(tonumber(ARGV[3])))
  return ARGV[2]
end
return held[1]
"""

# tenant, owner, how many it has, how many all may have; not told where it has more than before and all have too many
TELL_IN_FLIGHT = """
local key, owner, here = P .. 'flight:' .. ARGV[1], ARGV[2], tonumber(ARGV[3])
local total, before = here, 0
local held = redis.call('HGETALL', key)
for i = 1, #held, 2 do
  local ends = redis.call('ZSCORE', P .. 'owners', held[i])
  if held[i] == owner then before = tonumber(held[i + 1])
  elseif ends and tonumber(ends) > now() then total = total + tonumber(held[i + 1])
  else redis.call('HDEL', key, held[i]) end
end
if total > tonumber(ARGV[4]) and here > before then return 0 end
if here > 0 then redis.call('HSET', key, owner, here) else redis.call('HDEL', key, owner) end
return 1
"""

SETTING = """
redis.call('HSETNX', P .. 'settings', ARGV[1], ARGV[2])
return redis.call('HGET', P .. 'settings', ARGV[1])
"""

SET_SETTING = "return redis.call('HSET', P .. 'settings', ARGV[1], ARGV[2])"


def complete_script(body: str, now_lua: str = SERVER_TIME) -> str:
    """Return a script with what all have in common; ``now_lua`` is how it knows the time in seconds."""
    return _COMMON.replace("%s", now_lua, 1) + body
