-- ENQUEUE DEPENDENTS: enqueue the dependents of a job that has ended, those that wait for nothing else, some with each
-- request; after the last, free the job's place of a rate limit.
--
-- KEYS  1 its dependents, which were put aside when its outcome was recorded
-- ARGV  1 the job's id  2 how many at most
-- returns  { left, queue, id, queue, id, ... }: left is 1 if there are more; then the jobs that were enqueued
--
-- The promise: an outcome is recorded together with an entry in ENDED, which stays until each dependent is in its queue
-- or waits for another job. So the process that records the outcome may be killed at any moment: any other process may
-- send this request, any number of times. RQ's rules (Job.dependencies_are_met): a dependency is met if it is finished,
-- if it failed and the dependent allows that, or if it does not exist any more.

local id = ARGV[1]
local how, limit = string.match(redis.call('HGET', ENDED, id) or '', '^(%S+) ?(.*)$')
if not how then return { 0 } end
local status = redis.call('HGET', job_key(id), 'status') -- it may have been requeued since, and have finished then
if how ~= 'skipped' and status == 'finished' then how = 'finished' end

local function is_met(dependency, allows_failure)
  if dependency == id then return how == 'finished' or how == 'skipped' or (allows_failure and how == 'failed') end
  local other = redis.call('HGET', job_key(dependency), 'status')
  return not other or other == 'finished' or (allows_failure and other == 'failed')
end

local function is_ready(dependent, allows_failure)
  if not is_met(id, allows_failure) then return false end
  for _, dependency in ipairs(redis.call('SMEMBERS', dependencies_key(dependent))) do
    if not is_met(dependency, allows_failure) then return false end
  end
  return true
end

-- RQ leaves it among those who wait for the others, until these expire. A list that does not, because its job had ended
-- or was gone when somebody came to wait for it, would be there for ever.
local function waits_no_more(dependent)
  for _, dependency in ipairs(redis.call('SMEMBERS', dependencies_key(dependent))) do
    local waiters = dependents_key(dependency)
    if redis.call('TTL', waiters) == -1 then redis.call('SREM', waiters, dependent) end
  end
end

local reply, waiting = { 0 }, {}
for _, dependent in ipairs(redis.call('SPOP', KEYS[1], ARGV[2])) do
  local h = redis.call('HMGET', job_key(dependent), 'status', 'origin', 'allow_dependency_failures')
  if h[1] == 'deferred' and h[2] then -- else it was moved meanwhile, or it is gone
    if is_ready(dependent, h[3] == '1') then
      redis.call('ZREM', registry_key('deferred', h[2]), dependent)
      waits_no_more(dependent)
      enqueue_waiting(dependent, h[2])
      reply[#reply + 1] = h[2]
      reply[#reply + 1] = dependent
    else
      waiting[#waiting + 1] = dependent
    end
  end
end
local life = redis.call('PTTL', job_key(id))
if #waiting > 0 and life ~= -2 then redis.call('SADD', dependents_key(id), unpack(waiting)) end
if life > 0 and status and (ENDS[status] or status == 'canceled') then redis.call('PEXPIRE', dependents_key(id), life) end
if redis.call('EXISTS', KEYS[1]) == 1 then
  reply[1] = 1
else
  redis.call('HDEL', ENDED, id)
  if limit ~= '' then free_place(id, limit) end
end
return reply
