-- REQUEUE FAILED: put failed or stopped jobs back into their queues, as if they had never run.
--
-- KEYS  1 the set of queues
-- ARGV  job ids
-- returns  per job: 'requeued'; else why not: 'limited' (it has a rate limit, whose turn RQ's code takes), its status, or
--          '' (gone)
--
-- The promise: a job leaves the registry of failed jobs and enters its queue in one step; a second request, or RQ's own
-- requeue at the same time, does nothing.

local at, replies, listed = iso(now()), {}, {}
for i, id in ipairs(ARGV) do
  local job = job_key(id)
  local h = redis.call('HMGET', job, 'status', 'origin', 'ttl', 'rate_limit_key')
  local status, q = h[1], h[2]
  if not status or not q then
    replies[i] = ''
  elseif status ~= 'failed' and status ~= 'stopped' then
    replies[i] = status
  elseif h[4] and h[4] ~= '' then
    replies[i] = 'limited'
  else
    if not listed[q] then
      redis.call('SADD', KEYS[1], queue_key(q))
      listed[q] = true
    end
    redis.call('HSET', job, 'status', 'queued', 'enqueued_at', at)
    redis.call('HDEL', job, 'started_at', 'ended_at', 'last_heartbeat', 'worker_name', 'exc_info', 'jobq_crashes',
      'jobq_redelivered')
    redis.call('PERSIST', job)
    redis.call('PERSIST', dependents_key(id)) -- they had the same expiry as the failed job
    redis.call('PERSIST', dependencies_key(id))
    wait_for(id, h[3])
    redis.call('ZREM', registry_key('failed', q), id)
    redis.call('DEL', first_seen_key(q, id))
    redis.call('RPUSH', queue_key(q), id)
    replies[i] = 'requeued'
  end
end
return replies
