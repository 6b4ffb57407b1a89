-- DUE: move scheduled jobs whose time has come to the end of their queues.
--
-- KEYS  RQ's scheduled registry of each queue
-- ARGV  1 how many at most, of all queues together  then the queues, in the order of the keys
-- returns  for each queue how many were moved; -1: it has delayed jobs, and an RQ scheduler holds its lock and does it
--
-- The promise: a job leaves the registry and enters its queue in one step, so any number of supervisors may send this
-- and each job is enqueued once. A job with a rate limit waits for a place of it, as in RQ's scheduler, and enters its
-- queue when a place is free.

local t

local function move(q, registry, most)
  t = t or now()
  if redis.call('EXISTS', P .. ':scheduler-lock:' .. q) == 1 then return -1 end
  local ids = redis.call('ZRANGEBYSCORE', registry, '-inf', t, 'LIMIT', 0, most)
  for _, id in ipairs(ids) do
    redis.call('ZREM', registry, id)
    enqueue_waiting(id, q)
  end
  return #ids
end

local counts, left, PARTS = {}, tonumber(ARGV[1]), 8

-- Mostly no queue has delayed jobs: one EXISTS says so for all of them. Else those are found by parts.
local function look(first, last)
  if redis.call('EXISTS', unpack(KEYS, first, last)) == 0 then
    for i = first, last do counts[i] = 0 end
  elseif first == last then
    counts[first] = move(ARGV[first + 1], KEYS[first], left)
    left = left - math.max(0, counts[first])
  else
    local size = math.ceil((last - first + 1) / PARTS)
    for at = first, last, size do look(at, math.min(last, at + size - 1)) end
  end
end

look(1, #KEYS)
return counts
