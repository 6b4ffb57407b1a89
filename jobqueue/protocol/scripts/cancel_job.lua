-- CANCEL JOB: cancel a job that waits or runs, wherever it is; one that has ended is not changed.
--
-- KEYS  1 the job's hash
-- ARGV  1 id  2 1: only if it waits, 0: also if a worker has it  3 1: its dependents may run without it
--       4 1: remove it from the dependents of the jobs that it waits for
-- returns  { 1 canceled now | 0 not, its status before ('' gone, 'held' claimed by a worker and not marked as started) }
--
-- The promise: status, registry and queue are read and changed in one step, so of a cancel and an outcome the first one
-- counts. The owner of a canceled job does not start it, and its outcome is not recorded.

local id, only_waiting = ARGV[1], ARGV[2] == '1'
local h = redis.call('HMGET', KEYS[1], 'status', 'origin', 'rate_limit_key')
local status, q, limit = h[1], h[2], h[3]
if not status or not q then return { 0, status or '' } end
if status == 'canceled' or ENDS[status] then return { 0, status } end
if only_waiting and status == 'started' then return { 0, status } end
if redis.call('LREM', queue_key(q), -1, id) == 0 and status == 'queued' and only_waiting then return { 0, 'held' } end

redis.call('ZREM', back_key(q), id)
if status == 'deferred' or status == 'scheduled' then redis.call('ZREM', registry_key(status, q), id) end
for _, kind in ipairs({ 'finished', 'failed' }) do redis.call('ZREM', registry_key(kind, q), id) end -- from earlier runs
if status == 'ready_to_enqueue' then redis.call('ZREM', registry_key('ready', q), id) end
local executions = redis.call('ZRANGE', executions_key(id), 0, -1)
for _, x in ipairs(executions) do redis.call('ZREM', registry_key('wip', q), id .. ':' .. x) end
redis.call('HSET', KEYS[1], 'status', 'canceled')
redis.call('ZADD', registry_key('canceled', q), math.floor(now()), id)
if limit and limit ~= '' then
  redis.call('ZREM', limit_key(limit) .. ':rate_limited', id)
  if #executions == 0 then free_place(id, limit) end -- else its place is freed when the run has ended
end

if ARGV[4] == '1' then
  for _, dependency in ipairs(redis.call('SMEMBERS', dependencies_key(id))) do
    redis.call('SREM', dependents_key(dependency), id)
  end
end
if ARGV[3] == '1' then hand_over(id, 'skipped') end
local life = redis.call('PTTL', KEYS[1])
if life > 0 then
  redis.call('PEXPIRE', dependents_key(id), life)
  redis.call('PEXPIRE', dependencies_key(id), life)
end
return { 1, status }
