-- HEARTBEAT: renew the running jobs of a worker in RQ's started registries: RQ's maintenance takes a job whose entry has
-- expired for abandoned.
--
-- KEYS  1 RQ's set of the worker's executions
-- ARGV  1 worker  2 ttl in seconds
-- returns  how many executions were renewed
--
-- The promise: only entries that exist are renewed; none is made again for a job that has ended meanwhile.

local w, ttl = ARGV[1], tonumber(ARGV[2])
local t = now()
local count = 0
for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local id, x = string.match(member, '^(.*):([^:]*)$')
  local q = id and redis.call('HGET', job_key(id), 'origin')
  if q and redis.call('EXISTS', execution_key(id, x)) == 1 then
    redis.call('HSET', execution_key(id, x), 'last_heartbeat', t)
    redis.call('EXPIRE', execution_key(id, x), ttl)
    redis.call('ZADD', registry_key('wip', q), 'XX', math.floor(t) + ttl, member)
    redis.call('ZADD', executions_key(id), 'XX', t + ttl + 60, x)
    redis.call('EXPIRE', executions_key(id), ttl + 60)
    count = count + 1
  else
    redis.call('SREM', KEYS[1], member)
  end
end
redis.call('EXPIRE', KEYS[1], ttl + 60)
return count
