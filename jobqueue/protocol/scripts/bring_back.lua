-- BRING BACK: put a job in limbo (its hash says that it waits or runs, and nobody holds it) at the head of its queue.
--
-- KEYS  1 the job's queue
-- ARGV  1 queue  2 id
--       then the fields of its hash when it was first read: status, enqueued_at, started_at, worker_name
-- returns  1 it is in its queue, 0 a process holds it, or it has changed since
--
-- The promise: a job in its queue, held by an owner or in RQ's started registry is not changed, nor is one whose hash
-- has changed since it was first read. An entry in the intermediate list does not count as held: a living RQ worker
-- leaves a job there only for a moment, much shorter than the time between the two readings.

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
redis.call('HINCRBY', job_key(id), 'jobq_redelivered', 1) -- it may have run: its next start is marked before it runs
wait_for(id, h[5])
redis.call('SADD', QUEUES, KEYS[1])
redis.call('LPUSH', KEYS[1], id)
return 1
