-- FORGET GONE: of jobs whose hash has expired, take what RQ lets stand for ever out of a registry that nobody cleans;
-- and who is canceled out of the others.
--
-- KEYS  1 the registry
-- ARGV  1 which: deferred | canceled  2 queue, then the ids
-- returns  how many were forgotten
--
-- The promise: a job that is there, also one that was enqueued anew under the name, is left alone. RQ's cancel reads the
-- status and writes in two steps: what came in between has put the job into a registry that it did not look into.

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
