-- Tell RQ's readers that jobs are running: status, execution, started registry, as RQ's prepare_execution writes them.
--
-- KEYS  1 the owner's zset
-- ARGV  1 owner  2 worker  then for each job: id, claim, queue, started_at (RQ's text), ttl of the execution in seconds
-- returns  per job: 1 marked, 0 the token or the job is gone: it must not be started any more
--
-- The promise: only the owner marks, and a marked job has no expiry while it runs.

local owner, w = ARGV[1], ARGV[2]
local marked = {}
local t = now()
for at = 3, #ARGV, 5 do
  local id, claim, q, started_at, ttl = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local job = job_key(id)
  local is_ours = owns(owner, id, claim)
  if is_ours and redis.call('EXISTS', job) == 0 then -- deleted, or it waited for longer than its ttl
    clean_execution(w, q, id, claim)
    release(owner, q, id)
    marked[#marked + 1] = 0
  elseif is_ours then
    local x = execution_id(claim)
    redis.call('HSET', job, 'status', 'started', 'started_at', started_at, 'last_heartbeat', started_at, 'worker_name', w)
    redis.call('PERSIST', job)
    redis.call('HSET', execution_key(id, x), 'id', x, 'job_id', id, 'created_at', t, 'last_heartbeat', t, 'worker_name', w)
    redis.call('EXPIRE', execution_key(id, x), ttl)
    redis.call('ZADD', executions_key(id), t + ttl + 60, x)
    redis.call('EXPIRE', executions_key(id), ttl + 60)
    redis.call('ZADD', registry_key('wip', q), math.floor(t) + ttl, id .. ':' .. x)
    redis.call('SADD', worker_executions_key(w), id .. ':' .. x)
    redis.call('EXPIRE', worker_executions_key(w), ttl + 60)
    redis.call('HSET', worker_key(w), 'state', 'busy')
    redis.call('LREM', intermediate_key(q), 1, id)
    redis.call('DEL', first_seen_key(q, id))
    marked[#marked + 1] = 1
  else
    marked[#marked + 1] = 0
  end
end
return marked
