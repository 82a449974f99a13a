"""The Lua scripts that change jobs in Redis: each keeps all that a job is found by in step with its hash."""

# id, key or '', tenant, lease seconds, bytes passing and kept, most open jobs and stored bytes or '',
# then record version status attempt owner started_at order due_at deadline_at
PUT = """
local id, key, tenant, passing, kept = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6])
if key ~= '' then
  local earlier = redis.call('GET', P .. key)
  if earlier and redis.call('EXISTS', job(earlier)) == 1 then return read(earlier) end
end
local open, stored = redis.call('SCARD', P .. 'open:' .. tenant), redis.call('HGET', P .. 'stored', tenant) or '0'
local most_open, most_stored = tonumber(ARGV[7]), tonumber(ARGV[8])
local is_full = most_open and open >= most_open
if most_stored and (tonumber(stored) >= most_stored or tonumber(stored) + passing + kept > most_stored) then
  is_full = true
end
if is_full then return {open, stored} end
if redis.call('EXISTS', job(id)) == 1 then return redis.error_reply('TAKEN') end
redis.call('HSET', job(id), 'record', ARGV[9], 'version', ARGV[10], 'status', ARGV[11], 'attempt', ARGV[12],
  'owner', ARGV[13], 'started_at', ARGV[14], 'order', ARGV[15], 'deadline_at', ARGV[17], 'key', key, 'tenant', tenant)
if key ~= '' then redis.call('SET', P .. key, id) end
redis.call('ZADD', P .. 'jobs:' .. tenant, 0, id)
set_size(id, tenant, passing, kept)
set_open(id, tenant, ARGV[11])
set_order('', ARGV[15])
set_owner(id, '', ARGV[13])
set_due(id, ARGV[16])
if ARGV[13] ~= '' then lease(ARGV[13], tonumber(ARGV[4])) end
announce(id)
return false
"""

# id, expected version, bytes of results, record version status attempt owner started_at order due_at,
# then three words a message
WRITE = """
local id = ARGV[1]
local held = redis.call('HMGET', job(id), 'version', 'order', 'owner', 'tenant', 'kept')
if held[1] ~= ARGV[2] then return 0 end
redis.call('HSET', job(id), 'record', ARGV[4], 'version', ARGV[5], 'status', ARGV[6], 'attempt', ARGV[7],
  'owner', ARGV[8], 'started_at', ARGV[9], 'order', ARGV[10])
redis.call('SREM', P .. 'unreadable', id)
set_order(held[2], ARGV[10])
set_owner(id, held[3], ARGV[8])
set_open(id, held[4], ARGV[6])
if ARGV[6] ~= 'queued' and ARGV[6] ~= 'in_progress' then
  drop_running(id)
  set_size(id, held[4], 0, (tonumber(held[5]) or 0) + tonumber(ARGV[3]))
end
set_due(id, ARGV[11])
for i = 12, #ARGV, 3 do
  redis.call('ZADD', P .. 'outbox', ARGV[i + 1], ARGV[i])
  redis.call('HSET', P .. 'messages', ARGV[i], ARGV[i + 2])
end
announce(id)
return 1
"""

# owner, how many, lease seconds, then tenants and their weights; this is turns.next_tenant and transitions.claim
CLAIM = """
local owner, count, time = ARGV[1], tonumber(ARGV[2]), string.format('%.6f', now())
lease(owner, tonumber(ARGV[3]))
for _, order in ipairs(redis.call('ZRANGE', P .. 'ready', 0, 999)) do
  redis.call('ZREM', P .. 'ready', order)
  set_order('', order)
end
local function running(tenant)
  return redis.call('SCARD', P .. 'open:' .. tenant) - redis.call('ZCARD', ready(tenant))
end
local weights, waiting = {}, {}
for i = 4, #ARGV, 2 do weights[ARGV[i]] = tonumber(ARGV[i + 1]) end
for i, tenant in ipairs(redis.call('ZRANGE', P .. 'waiting', 0, -1)) do
  local turn = tonumber(redis.call('ZSCORE', P .. 'turns', tenant) or 0)
  waiting[i] = {name = tenant, turn = turn, weight = weights[tenant] or 1, running = running(tenant)}
end
local function next_tenant()
  local first, least
  for _, each in ipairs(waiting) do
    local share = each.running / each.weight
    if not each.is_done and (not first or share < least or (share == least and each.turn < first.turn)) then
      first, least = each, share
    end
  end
  return first
end
local turn, claimed = tonumber(redis.call('ZREVRANGE', P .. 'turns', 0, 0, 'WITHSCORES')[2] or 0), {}
while #claimed < count do
  local tenant = next_tenant()
  if not tenant then break end
  local order = redis.call('ZRANGE', ready(tenant.name), 0, 0)[1]
  if order then
    local id = string.sub(order, -36)
    local held = redis.call('HMGET', job(id), 'version', 'attempt', 'started_at', 'deadline_at', 'status')
    set_order(order, '')
    if held[5] == 'queued' then
      local version, attempt = tonumber(held[1]), tonumber(held[2])
      if version and attempt then
        local started = held[3] == '' and time or held[3]
        redis.call('HSET', job(id), 'version', version + 1, 'status', 'in_progress', 'attempt', attempt + 1,
          'owner', owner, 'started_at', started, 'order', '')
        set_owner(id, '', owner)
        set_due(id, held[4])
        announce(id)
      end
      claimed[#claimed + 1] = read(id)
      turn = turn + 1
      tenant.turn = turn
      redis.call('ZADD', P .. 'turns', turn, tenant.name)
    end
    tenant.running = running(tenant.name)
  else
    redis.call('ZREM', P .. 'waiting', tenant.name)
    tenant.is_done = true
  end
end
return claimed
"""

# id, expected version
FORGET = """
local id = ARGV[1]
local held = redis.call('HMGET', job(id), 'version', 'order', 'owner', 'key', 'tenant')
if held[1] ~= ARGV[2] then return 0 end
set_order(held[2], '')
set_owner(id, held[3], '')
set_due(id, '')
set_size(id, held[5], 0, 0)
redis.call('ZREM', P .. 'jobs:' .. held[5], id)
if redis.call('EXISTS', P .. 'jobs:' .. held[5]) == 0 then redis.call('HDEL', P .. 'stored', held[5]) end
set_open(id, held[5], '')
if held[4] ~= '' then redis.call('DEL', P .. held[4]) end
redis.call('DEL', job(id))
drop_running(id)
announce(id)
return 1
"""

# id, version as it was read or '', the owner whose list has it or ''; its hash stays, but for a job that has none
SET_ASIDE = """
local id = ARGV[1]
local held = redis.call('HMGET', job(id), 'version', 'order', 'owner', 'tenant', 'status')
if (held[1] or '') ~= ARGV[2] then return 0 end
set_due(id, '')
set_owner(id, ARGV[3], '')
if redis.call('EXISTS', job(id)) == 0 then return 1 end
set_order(held[2], '')
set_owner(id, held[3], '')
if held[4] then
  set_open(id, held[4], '')
  set_size(id, held[4], 0, 0)
end
redis.call('HSET', job(id), 'status', 'unreadable', 'owner', '', 'order', '')
redis.call('SADD', P .. 'unreadable', id)
return held[5] ~= 'unreadable' and 1 or 0
"""
