"""The Lua scripts of the Redis store: each is one step that no other client comes between.

Keys, all with one hash tag, so that a cluster would keep them on one node:

    {lego}:job:ID         hash: ``record`` as JSON, and what a claim changes of it beside; what is in the hash holds
    {lego}:ready          sorted set of claim orders, all of score 0: sorted as texts, each of which ends with the id
    {lego}:due            sorted set of ids by the time when something is due
    {lego}:jobs:TENANT    sorted set of ids, all of score 0
    {lego}:open:TENANT    set of the ids of jobs that have not ended
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
  return redis.call('HMGET', job(id), 'record', 'version', 'status', 'attempt', 'owner', 'started_at')
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
local function set_order(id, before, after)
  if before ~= '' and before ~= after then redis.call('ZREM', P .. 'ready', before) end
  if after ~= '' then redis.call('ZADD', P .. 'ready', 0, after) end
end
local function set_owner(id, before, after)
  if before ~= '' and before ~= after then redis.call('SREM', P .. 'owned:' .. before, id) end
  if after ~= '' then redis.call('SADD', P .. 'owned:' .. after, id) end
end
local function set_open(id, tenant, status)
  local is_open = status == 'queued' or status == 'in_progress'
  redis.call(is_open and 'SADD' or 'SREM', P .. 'open:' .. tenant, id)
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

# id, key or '', tenant, lease seconds, then record version status attempt owner started_at order due_at deadline_at
PUT = """
local id, key, tenant = ARGV[1], ARGV[2], ARGV[3]
if key ~= '' then
  local earlier = redis.call('GET', P .. key)
  if earlier then return read(earlier) end
end
if redis.call('EXISTS', job(id)) == 1 then return redis.error_reply('TAKEN') end
redis.call('HSET', job(id), 'record', ARGV[5], 'version', ARGV[6], 'status', ARGV[7], 'attempt', ARGV[8],
  'owner', ARGV[9], 'started_at', ARGV[10], 'order', ARGV[11], 'deadline_at', ARGV[13], 'key', key, 'tenant', tenant)
if key ~= '' then redis.call('SET', P .. key, id) end
redis.call('ZADD', P .. 'jobs:' .. tenant, 0, id)
set_open(id, tenant, ARGV[7])
set_order(id, '', ARGV[11])
set_owner(id, '', ARGV[9])
set_due(id, ARGV[12])
if ARGV[9] ~= '' then lease(ARGV[9], tonumber(ARGV[4])) end
announce(id)
return false
"""

# id, expected version, record version status attempt owner started_at order due_at, then three words a message
WRITE = """
local id = ARGV[1]
local held = redis.call('HMGET', job(id), 'version', 'order', 'owner', 'tenant')
if held[1] ~= ARGV[2] then return 0 end
redis.call('HSET', job(id), 'record', ARGV[3], 'version', ARGV[4], 'status', ARGV[5], 'attempt', ARGV[6],
  'owner', ARGV[7], 'started_at', ARGV[8], 'order', ARGV[9])
set_order(id, held[2], ARGV[9])
set_owner(id, held[3], ARGV[7])
set_open(id, held[4], ARGV[5])
if ARGV[5] ~= 'queued' and ARGV[5] ~= 'in_progress' then drop_running(id) end
set_due(id, ARGV[10])
for i = 11, #ARGV, 3 do
  redis.call('ZADD', P .. 'outbox', ARGV[i + 1], ARGV[i])
  redis.call('HSET', P .. 'messages', ARGV[i], ARGV[i + 2])
end
announce(id)
return 1
"""

# owner, how many, lease seconds; this is transitions.claim
CLAIM = """
local owner, time = ARGV[1], string.format('%.6f', now())
lease(owner, tonumber(ARGV[3]))
local claimed = {}
for i, order in ipairs(redis.call('ZRANGE', P .. 'ready', 0, tonumber(ARGV[2]) - 1)) do
  local id = string.sub(order, -36)
  local held = redis.call('HMGET', job(id), 'version', 'attempt', 'started_at', 'deadline_at')
  local started = held[3] == '' and time or held[3]
  redis.call('HSET', job(id), 'version', held[1] + 1, 'status', 'in_progress', 'attempt', held[2] + 1,
    'owner', owner, 'started_at', started, 'order', '')
  set_order(id, order, '')
  set_owner(id, '', owner)
  set_due(id, held[4])
  announce(id)
  claimed[i] = read(id)
end
return claimed
"""

# id, expected version
FORGET = """
local id = ARGV[1]
local held = redis.call('HMGET', job(id), 'version', 'order', 'owner', 'key', 'tenant')
if held[1] ~= ARGV[2] then return 0 end
set_order(id, held[2], '')
set_owner(id, held[3], '')
set_due(id, '')
redis.call('ZREM', P .. 'jobs:' .. held[5], id)
set_open(id, held[5], '')
if held[4] ~= '' then redis.call('DEL', P .. held[4]) end
redis.call('DEL', job(id))
drop_running(id)
announce(id)
return 1
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

OPEN_JOBS = "return redis.call('SCARD', P .. 'open:' .. ARGV[1])"

COUNTS = """
local running = 0
for _, owner in ipairs(redis.call('ZRANGE', P .. 'owners', 0, -1)) do
  running = running + redis.call('SCARD', P .. 'owned:' .. owner)
end
return {redis.call('ZCARD', P .. 'ready'), running, redis.call('ZCARD', P .. 'outbox')}
"""

POSITION = """
local order = redis.call('HGET', job(ARGV[1]), 'order')
return order and order ~= '' and redis.call('ZRANK', P .. 'ready', order)
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
  found[i] = redis.call('HGET', P .. 'messages', id)
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
