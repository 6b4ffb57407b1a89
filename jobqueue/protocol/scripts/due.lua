-- DUE: move scheduled jobs whose time has come to the end of their queues.
--
-- KEYS  RQ's scheduled registry of each queue
-- ARGV  1 how many at most, of all queues together  then the queues, in the order of the keys
-- returns  for each queue how many were moved; -1: an RQ scheduler holds the queue's lock and does it
--
-- The promise: a job leaves the registry and enters its queue in one step, so any number of supervisors may send this
-- and each job is enqueued once. A job with a rate limit waits for a place of it, as in RQ's scheduler, and enters its
-- queue when a place is free.

local t = now()

local function move(q, registry, most)
  if redis.call('EXISTS', P .. ':scheduler-lock:' .. q) == 1 then return -1 end
  local ids = redis.call('ZRANGEBYSCORE', registry, '-inf', t, 'LIMIT', 0, most)
  for _, id in ipairs(ids) do
    redis.call('ZREM', registry, id)
    enqueue_waiting(id, q)
  end
  return #ids
end

local counts, left = {}, tonumber(ARGV[1])
for i, registry in ipairs(KEYS) do
  counts[i] = move(ARGV[i + 1], registry, left)
  left = left - math.max(0, counts[i])
end
return counts
