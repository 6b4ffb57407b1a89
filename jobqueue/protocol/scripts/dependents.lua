-- ENQUEUE DEPENDENTS: of a job that has ended, enqueue those dependents that wait for nothing else, some at a time; then
-- free its place of a rate limit.
--
-- KEYS  1 those who wait for it, as they were put aside with its end
-- ARGV  1 the job's id  2 how many at most
-- returns  { left, queue, id, queue, id, ... }: left 1 when this must be asked again; then who was enqueued
--
-- The promise: an end is recorded together with a mark in ENDED, and the mark stands until every dependent is in its
-- queue or goes on waiting: whoever records the end may die at any moment, and anybody may do this in its place, as
-- often as they like. RQ's rules (Job.dependencies_are_met): a finished dependency is met, a failed one for who allows
-- it, and one that is gone.

local id = ARGV[1]
local how, limit = string.match(redis.call('HGET', ENDED, id) or '', '^(%S+) ?(.*)$')
if not how then return { 0 } end
local status = redis.call('HGET', job_key(id), 'status') -- it may have been requeued since, and run better
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

local reply, waiting = { 0 }, {}
for _, dependent in ipairs(redis.call('SPOP', KEYS[1], ARGV[2])) do
  local h = redis.call('HMGET', job_key(dependent), 'status', 'origin', 'allow_dependency_failures')
  if h[1] == 'deferred' and h[2] then -- else somebody has decided about it, or it is gone
    if is_ready(dependent, h[3] == '1') then
      redis.call('ZREM', registry_key('deferred', h[2]), dependent)
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
