-- DELETE FAILED: delete failed or stopped jobs, their results and their output.
--
-- KEYS  1 the set of queues
-- ARGV  job ids
-- returns  per job: 'deleted'; else why not: 'by rq' (it has a rate limit or belongs to a group, which RQ's code keeps),
--          its status, or '' (gone)

local replies = {}
for i, id in ipairs(ARGV) do
  local h = redis.call('HMGET', job_key(id), 'status', 'origin', 'rate_limit_key', 'group_id')
  local status, q = h[1], h[2]
  if not status or not q then
    replies[i] = ''
  elseif status ~= 'failed' and status ~= 'stopped' then
    replies[i] = status
  elseif (h[3] and h[3] ~= '') or (h[4] and h[4] ~= '') then
    replies[i] = 'by rq'
  else
    redis.call('ZREM', registry_key('failed', q), id)
    redis.call('UNLINK', job_key(id), results_key(id), dependents_key(id), dependencies_key(id), executions_key(id),
      output_key(id))
    replies[i] = 'deleted'
  end
end
return replies
