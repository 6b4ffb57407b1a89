-- Take everything out of a dead owner's hands: what never started goes back uncounted, what ran goes through the crash
-- policy (DESIGN 1.3), and the owner's name is struck off.
--
-- KEYS  1 the owner's zset
-- ARGV  1 owner  2 worker  3 the lease that the rescuer watched ('' when it reaped the child itself)
--       4 known: 1 the slot page was read, so what is not among the running claims never started; 0 nobody knows
--       5 on_crash: retry | fail (a job's own jobq_on_crash wins)  6 how many such deaths a job may have
--       7 the cause as RQ's exc_string payload  8 ended_at (RQ's text)  9 ended (seconds)
--       10 counted: 1 the death counts, 0 we did it ourselves (shutdown), so it does not
--       then the claim numbers that were running
-- returns  { given back, to run again, failed, of unknown start }, or false: somebody else was faster, or it lives
--
-- The promise: atomic per owner, so two rescuers never rescue the same job; a late request of the dead does nothing
-- (its name is gone), and RQ's own finish of it cannot commit (its fin keys are gone).

local own, owner, w, lease = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
if redis.call('SISMEMBER', OWNERS, owner) == 0 then return false end
if lease ~= '' and (redis.call('GET', lease_key(w)) or '0') ~= lease then return false end
local known, default_policy, most, cause = ARGV[4] == '1', ARGV[5], tonumber(ARGV[6]), ARGV[7]
local ended_at, ended_ts, counted = ARGV[8], ARGV[9], ARGV[10] == '1'
local running = {}
for at = 11, #ARGV do running[tonumber(ARGV[at])] = true end

local back, again, failed, unknown = 0, 0, 0, 0
local held = redis.call('ZREVRANGE', own, 0, -1, 'WITHSCORES')
for at = 1, #held, 2 do
  local id, claim = held[at], tonumber(held[at + 1])
  local job = job_key(id)
  local h = redis.call('HMGET', job, 'status', 'origin', 'jobq_on_crash', 'retries_left', 'failure_ttl')
  local status, q = h[1], h[2]
  redis.call('DEL', fin_key(id))
  if not status or not q then
    forget(owner, w, id, claim)
  elseif DECIDED[status] then
    requeue(owner, w, q, id, claim)
  elseif running[claim] or (not known and status == 'started') then
    local crashes = counted and redis.call('HINCRBY', job, 'jobq_crashes', 1) or 0
    local retries = tonumber(h[4] or 0) or 0
    if (h[3] or default_policy) == 'retry' and crashes < most then
      again = again + requeue(owner, w, q, id, claim)
    elseif (h[3] or default_policy) == 'fail' and retries > 0 then
      redis.call('HINCRBY', job, 'retries_left', -1)
      again = again + requeue(owner, w, q, id, claim)
    else
      clean_execution(w, q, id, claim)
      release(owner, q, id)
      local ttl = tonumber(h[5] or '') or 31536000 -- RQ keeps failed jobs for a year
      record_outcome(w, q, id, claim, 2, ttl, cause, ended_at, ended_at, ended_ts, ended_ts)
      redis.call('HINCRBY', worker_key(w), 'failed_job_count', 1)
      failed = failed + 1
    end
  else
    if not known then
      redis.call('HINCRBY', job, 'jobq_redelivered', 1)
      unknown = unknown + 1
    end
    back = back + requeue(owner, w, q, id, claim)
  end
end
redis.call('DEL', own)
redis.call('SREM', OWNERS, owner)
return { back, again, failed, unknown }
