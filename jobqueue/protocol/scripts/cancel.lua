-- CANCEL: take jobs that still wait in a queue out of it, with RQ's status canceled and in RQ's registry of these.
--
-- KEYS  1 the queue
-- ARGV  1 the queue's name, then the job ids
-- returns  per job: 1 canceled now, 0 not changed (claimed, running, ended, gone, or in another place)
--
-- The promise: after a 1 the job will not run (again): it was in the queue's list, so no worker held it, and it left the
-- list and became canceled in one step. The list is searched from its tail, as the newest jobs are canceled most often.

local q = ARGV[1]
local canceled = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  canceled[i - 1] = redis.call('LREM', KEYS[1], -1, id)
  if canceled[i - 1] > 0 then
    redis.call('ZREM', back_key(q), id)
    if redis.call('EXISTS', job_key(id)) == 1 then
      redis.call('HSET', job_key(id), 'status', 'canceled')
      redis.call('ZADD', registry_key('canceled', q), math.floor(now()), id)
    end
  end
end
return canceled
