-- PUT: store one job with an option that SUBMIT does not have: a time, dependencies, uniqueness, a rate limit.
--
-- KEYS  1 the mark of this submit  2 the job
-- ARGV  1 number of this request of the submit  2 queue  3 id
--       4 R | L: at which end of the queue, else the time when it is due, in seconds
--       5 what to do if the id exists: refuse | replace | ''
--       6 seconds that it may wait or ''  7 1: it may run although a dependency has failed
--       8 number of jobs on which it depends, then their ids; then field, value, ... of its hash
-- returns  its status: queued | scheduled | deferred | rate_limited; 'there': refused; 'held': a worker has the job of
--          this id; 'given up': see SUBMIT
--
-- The promise: that of SUBMIT; and its dependencies are checked in the step that registers it with them.

local mark, job, attempt, q, id, how = KEYS[1], KEYS[2], tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local answer, before = nil, redis.call('HMGET', job, 'jobq_submit', 'status')
local done = string.match(redis.call('GET', mark) or '', '^done (.*)$')
if done then
  redis.call('EXPIRE', mark, 86400)
  return done
end
if given_up(mark, attempt) then return 'given up' end
if before[1] == mark then return before[2] end -- an earlier request of this submit stored it, and its reply was lost
if ARGV[5] == 'refuse' and redis.call('EXISTS', job) == 1 then return 'there' end
if ARGV[5] == 'replace' and not make_way(id) then return 'held' end

local waits, last = false, 8 + ARGV[8]
for i = 9, last do
  local other = redis.call('HGET', job_key(ARGV[i]), 'status')
  waits = waits or not (not other or other == 'finished' or (other == 'failed' and ARGV[7] == '1'))
end
redis.call('HSET', job, 'jobq_submit', mark, unpack(ARGV, last + 1))
local limit = redis.call('HMGET', job, 'rate_limit_key', 'rate_limit_concurrency', 'enqueue_at_front')
local concurrency = limit[1] and limit[1] ~= '' and seconds(limit[2]) or 0
redis.call('SADD', QUEUES, queue_key(q))
if waits then
  answer = 'deferred'
  redis.call('ZADD', registry_key('deferred', q), math.floor(now()), id)
  for i = 9, last do
    redis.call('SADD', dependents_key(ARGV[i]), id)
    redis.call('SADD', dependencies_key(id), ARGV[i])
    local status, life = redis.call('HGET', job_key(ARGV[i]), 'status'), redis.call('PTTL', job_key(ARGV[i]))
    if life > 0 and (ENDS[status] or status == 'canceled') then -- they wait as long as it is kept
      redis.call('PEXPIRE', dependents_key(ARGV[i]), life)
    end
  end
elseif how ~= 'L' and how ~= 'R' then
  answer = 'scheduled'
  redis.call('ZADD', registry_key('scheduled', q), how, id)
elseif concurrency > 0 then
  enqueue_limited(id, q, limit[1], concurrency, how == 'L')
  answer = redis.call('HGET', job, 'status')
else
  answer = 'queued'
  redis.call('ZREM', registry_key('deferred', q), id) -- a job that exists already may have been deferred
  redis.call(how == 'L' and 'LPUSH' or 'RPUSH', queue_key(q), id)
end
if answer ~= 'rate_limited' then redis.call('HSET', job, 'status', answer) end
local n = seconds(ARGV[6])
if n and n > 0 then
  for _, key in ipairs({ job, dependents_key(id), dependencies_key(id) }) do redis.call('EXPIRE', key, n) end
end
for _, kept in ipairs({ redis.call('HGET', job, 'result_ttl') or '', redis.call('HGET', job, 'failure_ttl') or '' }) do
  local n = seconds(kept)
  if n and n >= 0 and n <= 60 then -- the job may have run and be deleted when a repeated request arrives
    redis.call('SET', mark, 'done ' .. answer, 'EX', attempt > 0 and 86400 or 60)
  end
end
return answer
