-- Move scheduled jobs whose time has come to the end of their queues.
--
-- KEYS  RQ's scheduled registry of each queue
-- ARGV  1 how many at most, of all queues together  then the queues, in the order of the keys
-- returns  for each queue how many were moved; -1: an RQ scheduler holds its lock and does it
--
-- The promise: out of the registry and into the queue in one step, so that any number of supervisors may ask and each
-- job is enqueued once. A job with a rate limit goes to those that wait for a place, as in RQ's scheduler, and from
-- there into its queue as far as there are free places.

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
