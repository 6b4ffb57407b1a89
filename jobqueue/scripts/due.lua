-- Move scheduled jobs whose time has come to the end of their queue.
--
-- KEYS  1 RQ's scheduled registry of the queue
-- ARGV  1 queue  2 how many at most
-- returns  how many were moved; -1: an RQ scheduler holds this queue's lock and does it
--
-- The promise: out of the registry and into the queue in one step, so that any number of supervisors may ask and each
-- job is enqueued once. A job with a rate limit goes to those that wait for a place, as in RQ's scheduler, and from
-- there into its queue as far as there are free places.

local q = ARGV[1]
if redis.call('EXISTS', P .. ':scheduler-lock:' .. q) == 1 then return -1 end
local t = now()

local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', t, 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  redis.call('ZREM', KEYS[1], id)
  enqueue_waiting(id, q)
end
return #ids
