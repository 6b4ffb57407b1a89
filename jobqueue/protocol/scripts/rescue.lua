-- RESCUE: take all jobs from a dead owner: those that never started go back uncounted, those that ran by their ruling;
-- then strike the owner's name off.
--
-- KEYS  1 the owner's zset
-- ARGV  1 owner  2 worker  3 the lease that the rescuer watched ('' when it reaped the child itself)
--       4 known: 1 the shared page was read, so a job that is not among the running claims never started; 0 it was not
--       5 on_crash: retry | fail (a job's own jobq_on_crash wins)  6 how many deaths a job may have
--       7 final: 1 fail here the jobs that RQ's own finish should have failed, as that died too; 0 leave them for it; 2 leave
--       all jobs that fail for it
--       8 ended_at (RQ's text)  9 ended (seconds)  10 the cause for jobs of unknown start, as RQ's exc_string payload
--       11 the lease of a dead tree: if it is still this one when the tree's last name is struck off, the tree is
--       removed from RQ's lists; '' the tree lives
--       12 how the process died, which is counted ('' it is counted already, or was no death)
--       13 number of claims to keep (finished jobs whose outcome RQ's own finish has to record), then these
--       then for each running claim: claim, ruling, cause (payload)
--       rulings   crash      it may have killed its process: counted, and the last one fails it
--                 suspect    one of several that may have killed it: uncounted, the next time it runs alone
--                 interrupt  we ended its process, or another job did: uncounted
--                 fail       we ended it because of its time limit
--                 stop       we ended it on request
-- returns  { given back, to run again, failed, of unknown start, for RQ }, or false: another rescuer was faster, or the
--       owner lives. for RQ: per job id, claim, queue, what (fail | dead: RQ's retries do not apply | stop), cause; these
--       stay in the owner's zset, and the owner's name in the owners set, until a second, final call.
--
-- The promise: this is one step per owner, so two rescuers never rescue the same job. A late request of the dead owner
-- does nothing (its name is gone), and RQ's own finish in it cannot commit (its fin keys are gone).

local own, owner, w, lease = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
if redis.call('SISMEMBER', OWNERS, owner) == 0 then return false end
if lease ~= '' and (redis.call('GET', lease_key(w)) or '0') ~= lease then return false end
local known, default_policy, most, final = ARGV[4] == '1', ARGV[5], tonumber(ARGV[6]), ARGV[7] == '1'
local leave_all = ARGV[7] == '2'
local ended_at, ended_ts, unknown_cause = ARGV[8], ARGV[9], ARGV[10]
local dead, rulings, causes, kept, keeps = ARGV[11], {}, {}, {}, tonumber(ARGV[13])
for at = 14, 13 + keeps do kept[tonumber(ARGV[at])] = true end
for at = 14 + keeps, #ARGV, 3 do
  local claim = tonumber(ARGV[at])
  rulings[claim], causes[claim] = ARGV[at + 1], ARGV[at + 2]
end

local back, again, failed, unknown, for_rq = 0, 0, 0, 0, {}
local later = { run_again = 0, failed = 0 } -- what becomes of those for RQ, for the metrics
local ends = {} -- how the runs ended that the death of their process ended, for the metrics

-- Returns whether RQ's own code runs the job again.
local function retries_apply(h, ruling) return ruling == 'fail' and (tonumber(h[4] or '') or 0) > 0 end

-- Returns whether RQ's own code has to end the job: it has retries, callbacks, webhooks, a rate limit or dependents.
local function needs_rq(id, h, ruling)
  local function set(n) return h[n] and h[n] ~= '' end
  return leave_all or ruling == 'stop' or retries_apply(h, ruling) or set(6) or set(7) or set(8)
    or redis.call('EXISTS', dependents_key(id)) == 1
end

local function fail(id, q, claim, h, ruling, cause)
  if not final and needs_rq(id, h, ruling) then
    for _, v in ipairs({ id, claim, q, ruling, cause }) do for_rq[#for_rq + 1] = v end
    local ending = retries_apply(h, ruling) and 'run_again' or 'failed'
    later[ending] = later[ending] + 1
    return
  end
  clean_execution(w, q, id, claim)
  release(owner, q, id)
  if final then hand_over(id, ruling == 'stop' and 'stopped' or 'failed') end
  local ttl = seconds(h[5]) or 31536000 -- RQ keeps failed jobs for a year
  local started_at = h[1] == 'started' and h[9] or ended_at -- not started: the hash has an earlier run's start, or none
  if ttl == 0 then
    forget_outcome(q, id)
  else
    local dependencies = redis.call('HEXISTS', job_key(id), 'dependency_ids') == 1
    write_outcome(w, id, claim, 2, ttl, cause, started_at, ended_at, ended_ts, ended_ts, dependencies)
    redis.call('ZADD', registry_key('failed', q), expiry(2, ttl, now()), id)
  end
  if ruling == 'stop' and ttl ~= 0 then redis.call('HSET', job_key(id), 'status', 'stopped') end
  if h[8] and h[8] ~= '' then free_place(id, h[8]) end
  redis.call('HINCRBY', worker_key(w), 'failed_job_count', 1)
  failed = failed + 1
end

-- Returns whether the job waits or runs elsewhere. RQ's maintenance may have failed it, as its owner died long ago (then
-- nothing of this claim is left), and it may have been requeued since.
local function is_elsewhere(id, q, claim, status)
  local mine = execution_id(claim)
  if redis.call('ZSCORE', registry_key('wip', q), id .. ':' .. mine) then return false end
  if redis.call('LPOS', intermediate_key(q), id) then return false end
  for _, other in ipairs(redis.call('SMEMBERS', OWNERS)) do
    if other ~= owner and redis.call('ZSCORE', own_key(other), id) then return true end
  end
  for _, x in ipairs(redis.call('ZRANGE', executions_key(id), 0, -1)) do
    if x ~= mine and redis.call('ZSCORE', registry_key('wip', q), id .. ':' .. x) then return true end
  end
  return status == 'queued' and redis.call('LPOS', queue_key(q), id) ~= false
end

local held = redis.call('ZREVRANGE', own, 0, -1, 'WITHSCORES')
for at = 1, #held, 2 do
  local id, claim = held[at], tonumber(held[at + 1])
  local job = job_key(id)
  local h = redis.call('HMGET', job, 'status', 'origin', 'jobq_on_crash', 'retries_left', 'failure_ttl',
    'failure_callback_name', 'webhooks', 'rate_limit_key', 'started_at')
  local status, q = h[1], h[2]
  local ruling, cause = rulings[claim], causes[claim] or unknown_cause
  if not ruling and not known and status == 'started' then ruling = 'crash' end
  local may_repeat = (h[3] or default_policy) == 'retry'
  redis.call('DEL', fin_key(id))
  if kept[claim] and status then
    -- it stays with the owner
  elseif not status or not q then
    forget(owner, w, id, claim)
    free_places_of(id)
  elseif DECIDED[status] then -- it was moved meanwhile
    requeue(owner, w, q, id, claim)
    if h[8] and h[8] ~= '' then free_place(id, h[8]) end
  elseif not known and is_elsewhere(id, q, claim, status) then
    redis.call('ZREM', own, id)
    clean_execution(w, q, id, claim)
  elseif not ruling then
    if not known then
      redis.call('HINCRBY', job, 'jobq_redelivered', 1)
      unknown = unknown + 1
    end
    back = back + requeue(owner, w, q, id, claim)
  else
    local how = ({ fail = 'failed:time_limit', stop = 'stopped:stopped' })[ruling] or 'died:' .. ARGV[12]
    if ruling ~= 'interrupt' then ends[how] = (ends[how] or 0) + 1 end
    local crashes = ruling == 'crash' and redis.call('HINCRBY', job, 'jobq_crashes', 1) or 0
    if ruling == 'stop' or ruling == 'dead' then
      fail(id, q, claim, h, ruling, cause)
    elseif ruling == 'fail' or not may_repeat then
      fail(id, q, claim, h, 'fail', cause)
    elseif crashes >= most then
      fail(id, q, claim, h, 'dead', cause)
    else
      if ruling == 'suspect' then redis.call('HSET', job, 'jobq_suspect', 1) end
      again = again + requeue(owner, w, q, id, claim)
    end
  end
end
if #for_rq == 0 and keeps == 0 then
  redis.call('DEL', own)
  redis.call('SREM', OWNERS, owner)
end
local function note(field, count)
  if count > 0 then redis.call('HINCRBY', DEATHS, field, count) end
end
note('process:' .. ARGV[12], ARGV[12] ~= '' and 1 or 0)
note('job:given_back', back)
note('job:run_again', again + later.run_again)
note('job:failed', (final and ARGV[12] == '') and 0 or failed + later.failed) -- the final rescue's were counted before
if ARGV[12] ~= '' then
  for how, count in pairs(ends) do note('run:' .. how, count) end
end
if final and redis.call('TTL', worker_key(w)) == -1 then -- its registration was gone: our HINCRBY above made this key
  redis.call('EXPIRE', worker_key(w), 480)
end
-- This is done in the same step: a rescuer that is killed before a second one would leave the tree in RQ's lists.
if dead ~= '' and (redis.call('GET', lease_key(w)) or '0') == dead and not has_names(w) then strike_off(w, ended_at) end
return { back, again, failed, unknown, for_rq }
