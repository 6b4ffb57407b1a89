-- FORGET GONE: remove jobs whose hash has expired from a registry that RQ never cleans; and remove canceled jobs from
-- the other registries.
--
-- KEYS  1 the registry
-- ARGV  1 which: deferred | canceled  2 queue, then the ids
-- returns  how many jobs without a hash were removed
--
-- The promise: a job that exists, also a new one under the same id, is not changed. A canceled job can be in a second
-- registry because RQ's cancel reads the status and writes in two steps, and the job may be moved between them.

local kind, q, count = ARGV[1], ARGV[2], 0
for i = 3, #ARGV do
  local id = ARGV[i]
  if redis.call('EXISTS', job_key(id)) == 0 then
    redis.call('ZREM', KEYS[1], id)
    redis.call('DEL', dependents_key(id), dependencies_key(id), results_key(id))
    count = count + 1
  elseif kind == 'canceled' and redis.call('HGET', job_key(id), 'status') == 'canceled' then
    for _, other in ipairs({ 'finished', 'failed', 'scheduled', 'deferred', 'ready' }) do
      redis.call('ZREM', registry_key(other, q), id)
    end
  end
end
return count
