-- Move scheduled jobs whose time has come to the end of their queue.
--
-- KEYS  1 RQ's scheduled registry of the queue
-- ARGV  1 queue  2 how many at most
-- returns  how many were moved; -1: an RQ scheduler holds this queue's lock and does it
--
-- The promise: out of the registry and into the queue in one step, so that any number of supervisors may ask and each
-- job is enqueued once.

local q = ARGV[1]
if redis.call('EXISTS', P .. ':scheduler-lock:' .. q) == 1 then return -1 end
local t = now()
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', t, 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  redis.call('ZREM', KEYS[1], id)
  local job = job_key(id)
  local h = redis.call('HMGET', job, 'data', 'enqueue_at_front', 'enqueue_at_front_on_retry', 'ended_at', 'ttl')
  if h[1] then
    redis.call('HSET', job, 'status', 'queued', 'enqueued_at', iso(t))
    if tonumber(h[5] or '') then redis.call('EXPIRE', job, h[5]) end
    redis.call('SADD', QUEUES, queue_key(q))
    local front = h[2] == '1' or (h[3] == '1' and h[4] and h[4] ~= '')
    redis.call(front and 'LPUSH' or 'RPUSH', queue_key(q), id)
  end
end
return #ids
