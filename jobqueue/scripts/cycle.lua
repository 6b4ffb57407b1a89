-- Settle what the owner finished and claim what comes next: one round trip, atomic.
--
-- KEYS  1 the owner's zset
-- ARGV  1 owner  2 worker  3 want: how many jobs at most  4 idle: slots with nothing to do
--       5 number of queues, then their names in the order in which they are served
--       then number of outcomes, then for each: id, claim, queue, kind (1 returned, 2 raised), ttl, payload,
--       started_at, ended_at (RQ's text), started, ended (seconds)
-- returns  { state, verdicts, jobs }
--       state     claimed | empty | suspended | paused | fenced
--       verdicts  per outcome: 1 recorded, 0 the token is gone (nothing written), 2 the job is gone (let go),
--                 3 it has dependents: RQ's own finish must do it (nothing written)
--       jobs      per job 9 values: id, claim, queue, data, timeout, result_ttl, failure_ttl, retries_left, features
--                 features: m mark the start before running, s RQ finishes a success, f RQ finishes a failure
--
-- The promise: an outcome is recorded by the owner that holds the token and by nobody else, and at most once; a job
-- leaves its queue only into the owner's zset (and RQ's intermediate list), never into nothing. A name that is not in
-- the owners set does nothing at all.

local own, owner, w = KEYS[1], ARGV[1], ARGV[2]
if redis.call('SISMEMBER', OWNERS, owner) == 0 then return { 'fenced', {}, {} } end

local at = 5
local function next_arg()
  local value = ARGV[at]
  at = at + 1
  return value
end

local queues = {}
for i = 1, tonumber(next_arg()) do queues[i] = next_arg() end

-- settle
local verdicts, returned, raised, busy = {}, 0, 0, 0
for i = 1, tonumber(next_arg()) do
  local id, claim, q, kind, ttl, payload = next_arg(), next_arg(), next_arg(), tonumber(next_arg()), tonumber(next_arg()), next_arg()
  local started_at, ended_at, started_ts, ended_ts = next_arg(), next_arg(), next_arg(), next_arg()
  if not owns(owner, id, claim) then
    verdicts[i] = 0
  else
    local status = redis.call('HGET', job_key(id), 'status')
    if not status then
      verdicts[i] = 2
      release(owner, q, id)
    elseif redis.call('EXISTS', dependents_key(id)) == 1 then
      verdicts[i] = 3
    else
      verdicts[i] = 1
      if status ~= 'queued' then clean_execution(w, q, id, claim) end
      redis.call('ZREM', own, id)
      redis.call('LREM', intermediate_key(q), 1, id)
      record_outcome(w, q, id, claim, kind, ttl, payload, started_at, ended_at, started_ts, ended_ts)
      busy = busy + math.max(0, tonumber(ended_ts) - tonumber(started_ts))
      if kind == 1 then returned = returned + 1 else raised = raised + 1 end
    end
  end
end
if returned > 0 then redis.call('HINCRBY', worker_key(w), 'successful_job_count', returned) end
if raised > 0 then redis.call('HINCRBY', worker_key(w), 'failed_job_count', raised) end
if returned + raised > 0 then redis.call('HINCRBYFLOAT', worker_key(w), 'total_working_time', busy) end

-- claim
local want, idle = tonumber(ARGV[3]), tonumber(ARGV[4])
if want == 0 then return { 'empty', verdicts, {} } end
if redis.call('EXISTS', SUSPENDED) == 1 then return { 'suspended', verdicts, {} } end

local owners = math.max(1, redis.call('SCARD', OWNERS))
local some_paused = redis.call('EXISTS', PAUSED) == 1
local jobs, taken, open = {}, 0, 0
for _, q in ipairs(queues) do
  if not (some_paused and redis.call('SISMEMBER', PAUSED, q) == 1) then
    open = open + 1
    local waiting = taken < want and redis.call('LLEN', queue_key(q)) or 0
    -- not more than its share of a short queue, but something for every slot that has nothing to do
    local take = math.min(want - taken, math.max(idle - taken, math.ceil(waiting / owners)))
    if waiting > 0 and take > 0 then
      local ids = redis.call('LPOP', queue_key(q), take)
      if waiting <= take then -- nobody stands returned in an empty queue
        redis.call('DEL', back_key(q))
      elseif redis.call('EXISTS', back_key(q)) == 1 then
        redis.call('ZREM', back_key(q), unpack(ids))
      end
      local last = redis.call('INCRBY', SEQ, #ids)
      local kept, tokens = {}, {}
      for i, id in ipairs(ids) do
        local h = redis.call('HMGET', job_key(id), 'data', 'timeout', 'result_ttl', 'failure_ttl', 'retries_left', 'ttl',
          'jobq_redelivered', 'rate_limit_key', 'webhooks', 'repeats_left', 'success_callback_name', 'failure_callback_name')
        if h[1] then -- an id whose hash is gone (deleted, expired) leaves the queue for good, as in RQ
          local function set(n) return h[n] and h[n] ~= '' end
          local repeats, retries = tonumber(h[10] or 0) or 0, tonumber(h[5] or 0) or 0
          local features = ''
          if set(6) or set(7) or set(8) then features = features .. 'm' end
          if set(8) or set(9) or repeats > 0 or set(11) or h[3] == '0' then features = features .. 's' end
          if set(8) or set(9) or retries > 0 or set(12) then features = features .. 'f' end
          local claim = last - #ids + i
          kept[#kept + 1] = id
          tokens[#tokens + 1] = claim
          tokens[#tokens + 1] = id
          for _, v in ipairs({ id, claim, q, h[1], h[2] or '', h[3] or '', h[4] or '', h[5] or '', features }) do
            jobs[#jobs + 1] = v
          end
        end
      end
      if #kept > 0 then
        redis.call('RPUSH', intermediate_key(q), unpack(kept))
        redis.call('ZADD', own, unpack(tokens))
        taken = taken + #kept
      end
    end
  end
end
if taken > 0 then return { 'claimed', verdicts, jobs } end
return { open > 0 and 'empty' or 'paused', verdicts, {} }
