-- PURGE: delete the jobs at the head of a queue.
--
-- KEYS  1 the queue
-- ARGV  1 the queue's name  2 how many at most
-- returns  how many ids were taken out of the queue; then the ids of those that were not deleted here, as RQ's code keeps
--          a rate limit or a group of theirs: they are canceled
--
-- The promise: a job that a worker holds is in no queue, and is not touched.

local q, ids, left = ARGV[1], redis.call('LRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1), {}
for _, id in ipairs(ids) do
  local h = redis.call('HMGET', job_key(id), 'status', 'rate_limit_key', 'group_id')
  redis.call('ZREM', back_key(q), id)
  if (h[2] and h[2] ~= '') or (h[3] and h[3] ~= '') then
    redis.call('HSET', job_key(id), 'status', 'canceled')
    redis.call('ZADD', registry_key('canceled', q), math.floor(now()), id)
    left[#left + 1] = id
  elseif h[1] == 'queued' then
    for _, dependency in ipairs(redis.call('SMEMBERS', dependencies_key(id))) do
      redis.call('SREM', dependents_key(dependency), id)
    end
    redis.call('UNLINK', job_key(id), results_key(id), dependents_key(id), dependencies_key(id), executions_key(id),
      output_key(id))
  end
end
redis.call('LTRIM', KEYS[1], #ids, -1)
return { #ids, left }
