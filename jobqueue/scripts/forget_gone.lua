-- FORGET GONE: of jobs whose hash has expired, take what RQ lets stand for ever out of a registry that nobody cleans.
--
-- KEYS  1 the registry
-- ARGV  the ids
-- returns  how many were forgotten
--
-- The promise: a job that is there, also one that was enqueued anew under the name, is left alone.

local count = 0
for _, id in ipairs(ARGV) do
  if redis.call('EXISTS', job_key(id)) == 0 then
    redis.call('ZREM', KEYS[1], id)
    redis.call('DEL', dependents_key(id), dependencies_key(id), results_key(id))
    count = count + 1
  end
end
return count
