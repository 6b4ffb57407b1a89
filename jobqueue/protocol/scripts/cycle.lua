-- CYCLE: settle the jobs that the owner has finished, and claim the next ones: one round trip, one atomic step.
--
-- KEYS  1 the owner's zset
-- ARGV  1 owner  2 worker  3 want: how many jobs at most  4 idle: slots with nothing to do
--       5 number of queues, then their names in the order in which they are served
--       then number of outcomes, then for each: id, claim, queue, kind (1 returned, 2 raised), ttl, payload,
--       started_at, ended_at (RQ's text), started, ended (seconds)
--       then number of usage entries (may be left out), then for each: task, slots of the process, greatest extra
--       memory of a run in kB or '', number of sums, then for each sum: field, amount (whole numbers)
--       then how many kinds of failed runs there are (may be left out), then for each: outcome:cause, how many runs
-- returns  { state, acks, jobs }
--       state     claimed | empty | suspended | paused | fenced
--       acks      per outcome: 1 recorded, 0 the token is gone (nothing written), 2 the job is gone or was canceled
--                 while it ran (the owner holds it no more),
--                 3 it has dependents: RQ's own finish has to record it (nothing written)
--       jobs      per job 10 values: id, claim, queue, data, timeout, result_ttl, failure_ttl, retries_left, features,
--                 enqueued_at ('' if there is none)
--                 features: m mark the start before running, s RQ finishes a success, f RQ finishes a failure,
--                 a run it alone: it is one of several that ran when their process was killed,
--                 x / r its own --on-crash is fail / retry; behind the letters, from the second run of the job on, the
--                 number of this run
--
-- The promise: an outcome is recorded at most once, and only by the owner that holds the token. A job that leaves its
-- queue is put into the owner's zset and RQ's intermediate list in the same step. For an owner name that is not in the
-- owners set nothing is done.

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

-- settle: requests are made for all outcomes together where possible. Outcome i has 10 arguments from `first + 10 * i`.
local settled = tonumber(next_arg())
local acks, first, time = {}, at - 10, now()
at = at + 10 * settled

-- Returns whether any job that the owner still holds has dependents.
local function some_have_dependents(scores)
  local keys = {}
  for i = 1, settled do
    if scores[i] then keys[#keys + 1] = dependents_key(ARGV[first + 10 * i]) end
  end
  return #keys > 0 and raw('EXISTS', unpack(keys)) > 0
end

-- Removes the ids from RQ's intermediate list. Mostly jobs end in the order of their claims: then they are at its head.
local function leave_intermediate(q, ids)
  local key = intermediate_key(q)
  local head = redis.call('LRANGE', key, 0, #ids - 1)
  for i, id in ipairs(ids) do
    if head[i] ~= id then
      for at = 1, #ids do redis.call('LREM', key, 1, ids[at]) end
      return
    end
  end
  raw('LTRIM', key, #ids, -1)
end

local released, seen, queues_of, returned, raised, busy = {}, {}, {}, 0, 0, 0

-- What is done at the end for all jobs of one queue: their ids, and what is added to RQ's registries, by kind.
local function of_queue(q)
  local found = queues_of[q]
  if not found then
    found = { ids = {}, places = { {}, {} }, first_seen = first_seen_key(q, '') }
    queues_of[q] = found
  end
  return found
end

-- Most outcomes have the same ttl as the one before.
local ttl_text, ttl_known
local function ttl_of(text)
  if text ~= ttl_text then ttl_text, ttl_known = text, seconds(text) or LONGEST end
  return ttl_known
end

-- Records the outcome that follows `arg`, except for what is written for all outcomes together.
local function record(arg, id, claim, status, dependencies)
  local q, kind, ttl = ARGV[arg + 2], tonumber(ARGV[arg + 3]), ttl_of(ARGV[arg + 4])
  local found = of_queue(q)
  if status ~= 'queued' then
    clean_execution(w, q, id, claim)
    if ENDS[status] then redis.call('ZREM', registry_key(ENDS[status], q), id) end -- of an earlier run: the last counts
  end
  released[#released + 1] = id
  seen[#seen + 1] = found.first_seen .. id
  found.ids[#found.ids + 1] = id
  if ttl == 0 then
    forget_outcome(q, id)
  else
    write_outcome(w, id, claim, kind, ttl, ARGV[arg + 5], ARGV[arg + 6], ARGV[arg + 7], ARGV[arg + 8], ARGV[arg + 9],
      dependencies)
    local place = found.places[kind]
    place[#place + 1] = expiry(kind, ttl, time)
    place[#place + 1] = id
  end
  busy = busy + math.max(0, tonumber(ARGV[arg + 9]) - tonumber(ARGV[arg + 8]))
  if kind == 1 then returned = returned + 1 else raised = raised + 1 end
end

local function settle()
  local ids, done = {}, {}
  for i = 1, settled do ids[i] = ARGV[first + 10 * i] end
  local scores = redis.call('ZMSCORE', own, unpack(ids))
  -- A full store refuses a script's first write if that may take memory; what follows a write that cannot, it takes. So
  -- outcomes are recorded there too, and their expiry frees memory.
  raw('ZREM', own, '')
  local dependents = some_have_dependents(scores)
  for i, id in ipairs(ids) do
    local arg = first + 10 * i
    local claim, job = ARGV[arg + 1], job_key(id)
    if done[id] or (scores[i] ~= claim and tonumber(scores[i] or -1) ~= tonumber(claim)) then -- owns() is false
      acks[i] = redis.call('HGET', job, 'status') == 'canceled' and 2 or 0 -- it was released by START MARK
    else
      local h = redis.call('HMGET', job, 'status', 'dependency_ids')
      local status = h[1]
      if not status or status == 'canceled' then
        acks[i] = 2
        if not status then redis.call('DEL', job) end -- its function may have written it after it was deleted
        clean_execution(w, ARGV[arg + 2], id, claim)
        release(owner, ARGV[arg + 2], id)
      elseif dependents and raw('EXISTS', dependents_key(id)) == 1 then
        acks[i] = 3
      else
        acks[i] = 1
        record(arg, id, claim, status, h[2])
      end
      done[id] = acks[i] ~= 3
    end
  end
  if #released == 0 then return end
  raw('ZREM', own, unpack(released))
  raw('DEL', unpack(seen))
  for q, found in pairs(queues_of) do
    leave_intermediate(q, found.ids)
    for kind, place in ipairs(found.places) do
      if #place > 0 then redis.call('ZADD', registry_key(kind == 1 and 'finished' or 'failed', q), unpack(place)) end
    end
  end
  if returned > 0 then redis.call('HINCRBY', worker_key(w), 'successful_job_count', returned) end
  if raised > 0 then redis.call('HINCRBY', worker_key(w), 'failed_job_count', raised) end
  redis.call('HINCRBYFLOAT', worker_key(w), 'total_working_time', busy)
end
if settled > 0 then settle() end

-- usage: added to the records of the tasks, under fields that begin with the width. pcall, because a wrong value at
-- these keys must not keep jobs from being settled or claimed. MOST_TASKS, because users can make any number of names.
local MOST_TASKS, OTHERS = 500, '(other tasks)'

local function record_of(task)
  if redis.pcall('SISMEMBER', USAGE, task) == 1 then return task end
  local known = redis.pcall('SCARD', USAGE)
  if type(known) ~= 'number' then return nil end
  if known >= MOST_TASKS then task = OTHERS end
  redis.pcall('SADD', USAGE, task)
  return task
end

local function add_usage(key, width, peak, sums, at_time)
  local fields, changes = { width .. 'first', width .. 'peak_kb' }, { width .. 'last', at_time }
  for i = 1, #sums, 2 do fields[#fields + 1] = width .. sums[i] end
  local old = redis.pcall('HMGET', key, unpack(fields))
  if old.err then return end
  local function set(field, value)
    changes[#changes + 1] = field
    changes[#changes + 1] = value
  end
  if not old[1] then set(fields[1], at_time) end
  if peak ~= '' and (tonumber(peak) or 0) >= (tonumber(old[2] or 0) or 0) then set(fields[2], peak) end
  for i = 3, #fields do
    local sum = (tonumber(old[i] or 0) or 0) + (tonumber(sums[2 * (i - 2)]) or 0)
    set(fields[i], string.format('%.0f', sum))
  end
  redis.pcall('HSET', key, unpack(changes))
end

local entries = tonumber(next_arg() or 0)
local recorded_at = entries > 0 and string.format('%.3f', now())
for _ = 1, entries do
  local task, width, peak, sums = next_arg(), next_arg() .. ':', next_arg(), {}
  for i = 1, 2 * tonumber(next_arg()) do sums[i] = next_arg() end
  task = record_of(task)
  if task then add_usage(usage_key(task), width, peak, sums, recorded_at) end
end

-- failed runs: counted by cause, likewise. MOST_CAUSES, because users can make any number of classes of exceptions.
local MOST_CAUSES = 300
for _ = 1, tonumber(next_arg() or 0) do
  local field, count = 'run:' .. next_arg(), next_arg()
  if redis.pcall('HEXISTS', DEATHS, field) == 0 and raw('HLEN', DEATHS) >= MOST_CAUSES then field = 'run:failed:other' end
  redis.pcall('HINCRBY', DEATHS, field, count)
end

-- claim
local want, idle = tonumber(ARGV[3]), tonumber(ARGV[4])
if want == 0 then return { 'empty', acks, {} } end
if redis.call('EXISTS', SUSPENDED) == 1 then return { 'suspended', acks, {} } end

local owners = math.max(1, redis.call('SCARD', OWNERS))
local some_paused = redis.call('EXISTS', PAUSED) == 1
local jobs, taken, open = {}, 0, 0

-- UTF-8 without zero bytes, by the table of well-formed byte sequences in the Unicode standard (3.9, D92).
local SEQUENCES = { '[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]',
  '\237[\128-\159][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]',
  '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]' }
local function is_text(id)
  for _, sequence in ipairs(SEQUENCES) do id = string.gsub(id, sequence, '.') end
  return not string.find(id, '[%z\128-\255]')
end

-- Returns what the worker needs to know of a job, as HMGET gives it; nil when its hash is gone (deleted, expired). If
-- the hash has no data, the job runs and fails.
local function hash_of(id, q)
  local h = redis.call('HMGET', job_key(id), 'data', 'timeout', 'result_ttl', 'failure_ttl', 'retries_left', 'ttl',
    'jobq_redelivered', 'rate_limit_key', 'webhooks', 'repeats_left', 'success_callback_name', 'failure_callback_name',
    'jobq_suspect', 'jobq_on_crash', 'origin', 'jobq_crashes', 'number_of_retries', 'enqueued_at')
  if not h[1] and redis.call('EXISTS', job_key(id)) == 0 then return nil end
  if h[15] ~= q then -- a rescue returns it to the queue that the hash names
    redis.call('HSET', job_key(id), 'origin', q)
    redis.call('HSETNX', job_key(id), 'status', 'queued')
  end
  return h
end

local function set(value) return value and value ~= '' end

local MOST_ATTEMPTS = 99 -- workers remember each combination
local function count(text)
  local digits = string.match(text or '', '^%d+$')
  return digits and math.min(tonumber(digits), MOST_ATTEMPTS) or 0
end

local function features_of(id, h)
  if not (h[5] or h[6] or h[7] or h[8] or h[9] or h[10] or h[11] or h[12] or h[13] or h[14] or h[16] or h[17] or
    h[3] == '0') then
    return '' -- most jobs of jobq
  end
  local by_rq, features = set(h[8]) or set(h[9]), ''
  if set(h[6]) or set(h[7]) or set(h[8]) then features = features .. 'm' end
  if by_rq or (tonumber(h[10] or 0) or 0) > 0 or set(h[11]) or h[3] == '0' then features = features .. 's' end
  if by_rq or (tonumber(h[5] or 0) or 0) > 0 or set(h[12]) then features = features .. 'f' end
  if set(h[13]) then features = features .. 'a' end
  if h[14] == 'fail' then features = features .. 'x' elseif h[14] == 'retry' then features = features .. 'r' end
  local runs = count(h[16]) + count(h[17]) + (h[5] and count(redis.call('HGET', job_key(id), 'jobq_retries')) or 0)
  if runs > 0 then features = features .. math.min(runs + 1, MOST_ATTEMPTS) end
  return features
end

-- Returns the id, or a new one for an id that is no text or does not fit into an environment variable: code that reads
-- such an id would fail.
local function readable(id)
  if not string.find(id, '[%z\128-\255]') or is_text(id) then return id end
  local new = 'renamed-' .. store.sha1hex(id)
  if redis.call('EXISTS', job_key(id)) == 1 then
    redis.call('RENAME', job_key(id), job_key(new))
    redis.call('ZADD', ASIDE, math.floor(now()), job_key(id))
    redis.call('EXPIRE', ASIDE, KEPT_ASIDE)
  end
  return new
end

-- Gives the ids to the owner, under the claim numbers up to `last`. An id without a hash is dropped, as in RQ. So is one
-- that the owner holds already: an id that was pushed twice runs once, under its first number.
local function claim_all(q, ids, last)
  local hashes, tokens, kept, n = {}, {}, {}, #jobs
  for i, id in ipairs(ids) do
    id = readable(id)
    local h = hash_of(id, q)
    if not h then
      redis.call('EXPIRE', dependents_key(id), 3600) -- the next job of this id may still start them
    else
      hashes[#hashes + 1] = h
      tokens[#tokens + 1] = last - #ids + i
      tokens[#tokens + 1] = id
    end
  end
  local some_held = #hashes > 0 and redis.call('ZADD', own, 'NX', unpack(tokens)) < #hashes
  for i, h in ipairs(hashes) do
    local claim, id = tokens[2 * i - 1], tokens[2 * i]
    if not some_held or owns(owner, id, claim) then
      kept[#kept + 1] = id
      jobs[n + 1], jobs[n + 2], jobs[n + 3], jobs[n + 4], jobs[n + 5] = id, claim, q, h[1] or '', h[2] or ''
      jobs[n + 6], jobs[n + 7], jobs[n + 8], jobs[n + 9], jobs[n + 10] = h[3] or '', h[4] or '', h[5] or '', features_of(id, h), h[18] or ''
      n = n + 10
    end
  end
  if #kept > 0 then redis.call('RPUSH', intermediate_key(q), unpack(kept)) end
  return #kept
end

local function take_from(q)
  for _ = 1, 100 do -- again only if all ids that were taken had to be dropped; at most 100 times
    local waiting = taken < want and redis.call('LLEN', queue_key(q)) or 0
    -- at most this owner's share of a short queue, but a job for each slot that has none
    local take = math.min(want - taken, math.max(idle - taken, math.ceil(waiting / owners)))
    if waiting == 0 or take <= 0 then return end
    local ids = redis.call('LPOP', queue_key(q), take)
    if waiting <= take then -- the queue is empty now: no job at its head was given back
      redis.call('DEL', back_key(q))
    elseif redis.call('EXISTS', back_key(q)) == 1 then
      redis.call('ZREM', back_key(q), unpack(ids))
    end
    local count = claim_all(q, ids, redis.call('INCRBY', SEQ, #ids))
    taken = taken + count
    if count > 0 then return end
  end
end

for _, q in ipairs(queues) do
  if not (some_paused and redis.call('SISMEMBER', PAUSED, q) == 1) then
    open = open + 1
    take_from(q)
  end
end
if taken > 0 then return { 'claimed', acks, jobs } end
return { open > 0 and 'empty' or 'paused', acks, {} }
