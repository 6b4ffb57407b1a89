-- BRING ON: enqueue a job that still waits for other jobs although all of them have ended.
--
-- KEYS  1 the job's hash
-- ARGV  1 id
-- returns  1 it is in its queue, 0 a job that it waits for has not ended, or it does not wait
--
-- The promise: the check and the move are one step, by RQ's rules (Job.dependencies_are_met): a dependency is met if it
-- is finished, if it failed and the job allows that, or if it does not exist any more.

local id = ARGV[1]
local h = redis.call('HMGET', KEYS[1], 'status', 'origin', 'allow_dependency_failures')
local status, q, allows_failure = h[1], h[2], h[3] == '1'
if not q or (status ~= 'deferred' and status ~= 'ready_to_enqueue') then return 0 end
local dependencies = redis.call('SMEMBERS', dependencies_key(id))
for _, dependency in ipairs(dependencies) do
  local other = redis.call('HGET', job_key(dependency), 'status')
  if other and other ~= 'finished' and not (allows_failure and other == 'failed') then return 0 end
end
for _, dependency in ipairs(dependencies) do redis.call('SREM', dependents_key(dependency), id) end
redis.call('ZREM', registry_key('deferred', q), id)
redis.call('ZREM', registry_key('ready', q), id)
enqueue_waiting(id, q)
return 1
