-- A job in limbo (waiting or running by its own hash, and held by nobody) goes back to the head of its queue.
--
-- KEYS  1 the job's queue
-- ARGV  1 queue  2 id
--       then what its hash said when it was looked at before: status, enqueued_at, started_at, worker_name
-- returns  1 it is back, 0 somebody holds it, or it has changed since
--
-- The promise: a job that stands in its queue, in an owner's hands or in RQ's started registry is left alone, and so
-- is one that anybody touched since the first look. A place in the intermediate list holds nobody to anything: who
-- popped a job there and lives has moved on long before the second look.

local q, id = ARGV[1], ARGV[2]
local h = redis.call('HMGET', job_key(id), 'status', 'enqueued_at', 'started_at', 'worker_name', 'ttl', 'data')
if not h[6] then return 0 end
for i = 1, 4 do
  if (h[i] or '') ~= ARGV[2 + i] then return 0 end
end
if redis.call('LPOS', KEYS[1], id) then return 0 end
for _, owner in ipairs(redis.call('SMEMBERS', OWNERS)) do
  if redis.call('ZSCORE', own_key(owner), id) then return 0 end
end
for _, x in ipairs(redis.call('ZRANGE', executions_key(id), 0, -1)) do
  if redis.call('ZSCORE', registry_key('wip', q), id .. ':' .. x) then return 0 end
end

redis.call('LREM', intermediate_key(q), 0, id)
redis.call('DEL', first_seen_key(q, id), executions_key(id))
redis.call('HSET', job_key(id), 'status', 'queued', 'enqueued_at', iso(now()))
redis.call('HINCRBY', job_key(id), 'jobq_redelivered', 1) -- perhaps it has run: its next start is marked before it runs
wait_for(id, h[5])
redis.call('SADD', QUEUES, KEYS[1])
redis.call('LPUSH', KEYS[1], id)
return 1
