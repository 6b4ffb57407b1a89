-- Jobs that still wait in their queue are taken out and become canceled, in RQ's words and registry.
--
-- KEYS  1 the queue
-- ARGV  1 the queue's name, then the job ids
-- returns  per job: 1 canceled now, 0 left alone (claimed, running, ended, gone, or in another place)
--
-- The promise: who is told 1 knows that the job will not run (again): it was in the queue's list, so no worker held it,
-- and it left the list and became canceled in one step. Searched from the tail: the youngest are canceled most often.

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
