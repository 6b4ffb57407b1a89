-- The head of every script: the keys of jobqueue/protocol/keys.py, and the moves that several scripts share.
-- lua.py puts RQ's key prefix in the place of @PREFIX@ and each script's own text behind this one.

local P = '@PREFIX@'
local QUEUES, SUSPENDED, OWNERS, SEQ, PAUSED, USAGE =
  P .. ':queues', P .. ':suspended', P .. ':jobq:owners', P .. ':jobq:seq', P .. ':jobq:paused', P .. ':jobq:usage'
local CRON_LEADER, CRON_NAMES = P .. ':jobq:cron_leader', P .. ':cron_jobs'
local ENDED, DEATHS = P .. ':jobq:ended', P .. ':jobq:deaths'

local function queue_key(q) return P .. ':queue:' .. q end
local function intermediate_key(q) return P .. ':queue:' .. q .. ':intermediate' end
local function first_seen_key(q, id) return P .. ':queue:' .. q .. ':intermediate:first_seen:' .. id end
local function job_key(id) return P .. ':job:' .. id end
local function dependents_key(id) return P .. ':job:' .. id .. ':dependents' end
local function dependencies_key(id) return P .. ':job::' .. id .. ':dependencies' end
local function results_key(id) return P .. ':results:' .. id end
local function executions_key(id) return P .. ':executions:' .. id end
local function execution_key(id, x) return P .. ':execution:' .. id .. ':' .. x end
local function registry_key(kind, q) return P .. ':' .. kind .. ':' .. q end
local function worker_key(w) return P .. ':worker:' .. w end
local function worker_executions_key(w) return P .. ':worker:' .. w .. ':executions' end
local function own_key(owner) return P .. ':jobq:own:' .. owner end
local function lease_key(w) return P .. ':jobq:lease:' .. w end
local function back_key(q) return P .. ':jobq:back:' .. q end
local function usage_key(task) return P .. ':jobq:usage:' .. task end
local function fin_key(id) return P .. ':jobq:fin:' .. id end
local function output_key(id) return P .. ':jobq:output:' .. id end
local function waiting_for_key(id) return P .. ':jobq:waiting_for:' .. id end
local function limit_key(limit) return P .. ':rl:' .. limit end
local function schedule_key(id) return P .. ':jobq:schedule:' .. id end
local function schedule_job_key(id) return P .. ':jobq:schedule_job:' .. id end
local function cron_history_key(name) return P .. ':cron_job:' .. name .. ':jobs' end

-- Each command of each script goes through `redis.call` below. A wrong key or value in the store must not stop a script
-- in its middle, where a job would stand in no place or in two. So a key of another type than it should have is moved
-- aside unchanged, and a counter that is no number is deleted. Then the command is sent a second time; an error of that
-- one is raised.
local store, ASIDE, KEPT_ASIDE = redis, P .. ':jobq:aside', 604800
local function aside_key(key) return P .. ':jobq:aside:' .. key end

local function set_aside(key)
  local t = store.call('TIME')[1]
  store.call('RENAME', key, aside_key(key))
  store.call('EXPIRE', aside_key(key), KEPT_ASIDE)
  store.call('ZREMRANGEBYSCORE', ASIDE, '-inf', t - KEPT_ASIDE)
  store.call('ZADD', ASIDE, t, key)
  store.call('EXPIRE', ASIDE, KEPT_ASIDE)
  local is_job = string.sub(key, 1, #job_key('')) == job_key('') and not string.find(key, ':depend[a-z]+$')
  if is_job then store.call('HSET', key, 'status', 'queued', 'data', '') end -- its id is in a queue: it runs and fails
  if key == SEQ then store.call('SET', SEQ, t .. '000') end -- claim numbers only grow: begin above all earlier ones
end

local function mend(err, command, key, field, ...)
  if command == 'SUNIONSTORE' then -- the wrong key is one of those that it reads
    for _, read in ipairs({ field, ... }) do
      if store.call('TYPE', read).ok ~= 'set' and store.call('EXISTS', read) == 1 then set_aside(read) end
    end
    return
  end
  local counts = string.find(err, 'integer', 1, true) or string.find(err, 'float', 1, true)
    or string.find(err, 'overflow', 1, true) or string.find(err, 'NaN', 1, true)
  if string.find(err, 'WRONGTYPE', 1, true) or (counts and command == 'INCRBY') then
    set_aside(key)
  elseif counts and string.sub(command, 1, 4) == 'HINC' then
    store.call('HDEL', key, field)
  end
end

-- raw: without these checks, as it is faster; for commands on keys of any type, or whose type was checked just before.
local raw, guarded, type = store.call, store.pcall, type
local function call(...)
  local reply = guarded(...)
  if type(reply) == 'table' and reply.err then
    mend(reply.err, ...)
    return raw(...)
  end
  return reply
end
local redis = { call = call, pcall = guarded }

-- Returns the text of a hash field as whole seconds, within what the store accepts; nil if it is no number. -1 means
-- for ever.
local LONGEST = @LONGEST@
local function seconds(text)
  local n = tonumber(text or '')
  if not n or n ~= n then return nil end
  return math.floor(math.max(-1, math.min(LONGEST, n)))
end

-- Lets a waiting job expire after its ttl.
local function wait_for(id, ttl)
  local n = seconds(ttl)
  if n and n > 0 then redis.call('EXPIRE', job_key(id), n) end
end

-- The requests of one submit are numbered. Returns true if a later one was here before this one. Else notes this number,
-- so that earlier requests do nothing whenever they arrive.
local function given_up(mark, attempt)
  local before = redis.call('GET', mark)
  if before and (tonumber(before) or 0) > attempt then return true end
  if attempt > 0 then redis.call('SET', mark, attempt, 'EX', 86400) end
  return false
end

-- Returns the time of the server's clock in seconds. Scores are never taken from a client's clock.
local function now()
  local t = raw('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- Returns the id of a claim's execution: the claim number. So any process that knows the token can clean up after a
-- crash.
local function execution_id(claim) return string.format('%032x', claim) end

-- Removes the execution from RQ's registries and from what `rq info` shows of worker w.
local function clean_execution(w, q, id, claim)
  local x = execution_id(claim)
  redis.call('ZREM', registry_key('wip', q), id .. ':' .. x)
  redis.call('DEL', execution_key(id, x))
  redis.call('ZREM', executions_key(id), x)
  redis.call('SREM', worker_executions_key(w), id .. ':' .. x)
end

-- Checks the token: whether the owner holds the job under this claim number.
local function owns(owner, id, claim)
  return tonumber(redis.call('ZSCORE', own_key(owner), id) or -1) == tonumber(claim)
end

-- Takes the job from the owner. `first_seen` is RQ's note on an id that looks stuck: if it stayed, RQ's maintenance
-- would fail the job later.
local function release(owner, q, id)
  redis.call('ZREM', own_key(owner), id)
  redis.call('LREM', intermediate_key(q), 1, id)
  redis.call('DEL', first_seen_key(q, id))
end

-- Takes a job whose hash is gone from the owner. Its queue is not known any more, so its entries are removed from all.
local function forget(owner, w, id, claim)
  redis.call('ZREM', own_key(owner), id)
  for _, key in ipairs(redis.call('SMEMBERS', QUEUES)) do
    local q = string.sub(key, #queue_key('') + 1)
    release(owner, q, id)
    clean_execution(w, q, id, claim)
  end
end

-- Puts the job at the head of its queue, in the old order. Children give jobs back at any time, the later claims perhaps
-- first: the zset `back` has the jobs that were returned to the head, by the number of their first claim.
local function push_back(q, id, claim)
  local back = back_key(q)
  redis.call('HSETNX', job_key(id), 'jobq_order', claim)
  local order = tonumber(redis.call('HGET', job_key(id), 'jobq_order'))
  if not (order and math.abs(order) < 9e15) then
    order = claim
    redis.call('HSET', job_key(id), 'jobq_order', order)
  end
  local below = string.format('(%.0f', order)
  local before = redis.call('ZREVRANGEBYSCORE', back, below, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  while before[1] do
    -- that job may have been taken out of the queue meanwhile, or deleted and enqueued anew under the same id
    local still = tonumber(redis.call('HGET', job_key(before[1]), 'jobq_order') or -1) == tonumber(before[2])
    if still and redis.call('LINSERT', queue_key(q), 'AFTER', before[1], id) > 0 then break end
    redis.call('ZREM', back, before[1])
    before = redis.call('ZREVRANGEBYSCORE', back, below, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  end
  if not before[1] then redis.call('LPUSH', queue_key(q), id) end
  redis.call('ZADD', back, order, id)
  redis.call('EXPIRE', back, 3600) -- it is used only while these jobs wait; an id that is removed by hand stays in it
end

-- The statuses of a job that was moved meanwhile by RQ's cancel or maintenance, into the registry of that name.
local DECIDED = { finished = true, failed = true, stopped = true, canceled = true, scheduled = true, deferred = true }

-- The statuses of a job that has ended, and the registry of RQ's in which it stands.
local ENDS = { finished = 'finished', failed = 'failed', stopped = 'failed' }

-- Returns a claimed job to the head of its queue. A job whose hash is gone, or that was moved meanwhile (DECIDED), is
-- only taken from the owner.
local function requeue(owner, w, q, id, claim)
  release(owner, q, id)
  local h = redis.call('HMGET', job_key(id), 'status', 'ttl')
  local status = h[1]
  if status ~= 'queued' then clean_execution(w, q, id, claim) end
  if not status or DECIDED[status] then return 0 end
  if status == 'started' then
    redis.call('HSET', job_key(id), 'status', 'queued')
    wait_for(id, h[2]) -- it waits again; the start mark had removed its expiry
  end
  push_back(q, id, claim)
  return 1
end

-- Writes what RQ's prepare_execution writes, for RQ's readers.
local function mark_started(w, id, claim, q, started_at, ttl)
  local job, x, t = job_key(id), execution_id(claim), now()
  redis.call('HSET', job, 'status', 'started', 'started_at', started_at, 'last_heartbeat', started_at, 'worker_name', w)
  redis.call('PERSIST', job)
  redis.call('HSET', execution_key(id, x), 'id', x, 'job_id', id, 'created_at', t, 'last_heartbeat', t, 'worker_name', w)
  redis.call('EXPIRE', execution_key(id, x), ttl)
  redis.call('ZADD', executions_key(id), t + ttl + 60, x)
  redis.call('EXPIRE', executions_key(id), ttl + 60)
  redis.call('ZADD', registry_key('wip', q), math.floor(t) + ttl, id .. ':' .. x)
  redis.call('SADD', worker_executions_key(w), id .. ':' .. x)
  redis.call('EXPIRE', worker_executions_key(w), ttl + 60)
  redis.call('HSET', worker_key(w), 'state', 'busy')
  redis.call('LREM', intermediate_key(q), 1, id)
  redis.call('DEL', first_seen_key(q, id))
end

-- Returns the score in RQ's registry. A job that is kept for ever has +inf in the finished registry, -1 in the failed.
local function expiry(kind, ttl, t)
  if ttl < 0 then return kind == 1 and '+inf' or ttl end
  return math.floor(t) + ttl
end

-- Records the outcome of a job: status, times, an entry in its result stream; the caller adds it to RQ's registry.
-- kind is RQ's result type (1 returned, 2 raised); payload is what RQ's Result.restore reads, '' for None;
-- dependencies: whether the job once waited for other jobs.
local function write_outcome(w, id, claim, kind, ttl, payload, started_at, ended_at, started_ts, ended_ts, dependencies)
  local job, results, x = job_key(id), results_key(id), execution_id(claim)
  raw('HSET', job, 'status', kind == 1 and 'finished' or 'failed', 'started_at', started_at,
    'ended_at', ended_at, 'last_heartbeat', ended_at, 'worker_name', w)
  if payload == '' then
    redis.call('XADD', results, 'MAXLEN', '~', 10, '*', 'type', kind, 'worker_name', w, 'execution_id', x,
      'execution_started_at', started_ts, 'execution_ended_at', ended_ts)
  else
    redis.call('XADD', results, 'MAXLEN', '~', 10, '*', 'type', kind, 'worker_name', w, 'execution_id', x,
      'execution_started_at', started_ts, 'execution_ended_at', ended_ts,
      kind == 1 and 'return_value' or 'exc_string', payload)
  end
  if ttl > 0 then -- as in RQ, -1 keeps the job for ever
    raw('EXPIRE', results, ttl)
    raw('EXPIRE', job, ttl)
    if dependencies then raw('EXPIRE', dependencies_key(id), ttl) end
  else
    raw('PERSIST', results)
    raw('PERSIST', job)
  end
end

-- Deletes a job that is not kept after its end, as RQ's Job.cleanup does.
local function forget_outcome(q, id)
  if redis.call('HGET', job_key(id), 'status') == 'canceled' then redis.call('ZREM', registry_key('canceled', q), id) end
  redis.call('DEL', job_key(id), results_key(id), dependents_key(id), dependencies_key(id))
end

local function iso(seconds)
  local whole = math.floor(seconds)
  local days, rest = math.floor(whole / 86400), whole % 86400
  -- civil-from-days, Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', year, month, day, math.floor(rest / 3600),
    math.floor(rest % 3600 / 60), rest % 60, math.floor((seconds - whole) * 1000000))
end

-- Does what RQ's ACQUIRE_AND_ENQUEUE_SCRIPT does: gives each free place of the rate limit to a job that waits for one.
local function fill_places(limit, concurrency)
  local t, allowed, waiting = now(), limit_key(limit) .. ':allowed', limit_key(limit) .. ':rate_limited'
  while redis.call('ZCARD', allowed) < concurrency do
    local first = redis.call('ZPOPMIN', waiting)[1]
    if not first then return end
    local h = redis.call('HMGET', job_key(first), 'origin', 'status', 'enqueue_at_front')
    if h[1] and h[2] == 'rate_limited' then
      redis.call('ZADD', allowed, math.floor(t), first)
      redis.call(h[3] == '1' and 'LPUSH' or 'RPUSH', queue_key(h[1]), first)
      redis.call('HSET', job_key(first), 'status', 'queued', 'enqueued_at', iso(t))
    end
  end
end

-- Does what RQ's _enqueue_rate_limited_job does.
local function enqueue_limited(id, q, limit, concurrency, front)
  redis.call('SADD', P .. ':rl-keys', limit)
  redis.call('HSET', limit_key(limit), 'concurrency', concurrency)
  redis.call('HSET', job_key(id), 'status', 'rate_limited', 'origin', q)
  if front then redis.call('HSET', job_key(id), 'enqueue_at_front', 1) end
  redis.call('ZADD', limit_key(limit) .. ':rate_limited', math.floor(now()), id)
  fill_places(limit, concurrency)
end

-- Frees the job's place of the rate limit for the next job, unless it still needs it.
local function free_place(id, limit)
  local status = redis.call('HGET', job_key(id), 'status')
  if status == 'queued' or status == 'started' then return end
  redis.call('ZREM', limit_key(limit) .. ':allowed', id)
  fill_places(limit, tonumber(redis.call('HGET', limit_key(limit), 'concurrency') or '') or 0)
end

-- Does the same for a job whose hash is gone, so that its rate limit is not known: it is looked for in all.
local function free_places_of(id)
  for _, limit in ipairs(redis.call('SMEMBERS', P .. ':rl-keys')) do
    if redis.call('ZSCORE', limit_key(limit) .. ':allowed', id) then free_place(id, limit) end
  end
end

-- Moves a job that has waited for a time or for other jobs into its queue; if it has a rate limit, to the jobs that wait
-- for a place of it.
local function enqueue_waiting(id, q)
  local job, t = job_key(id), now()
  local h = redis.call('HMGET', job, 'data', 'enqueue_at_front', 'enqueue_at_front_on_retry', 'ended_at', 'ttl',
    'rate_limit_key', 'rate_limit_concurrency', 'status')
  if not h[1] or h[8] == 'canceled' then return end -- RQ's cancel may leave it in a registry it moved to meanwhile
  local front = h[2] == '1' or (h[3] == '1' and h[4] and h[4] ~= '')
  local concurrency = seconds(h[7]) or 0
  wait_for(id, h[5])
  redis.call('SADD', QUEUES, queue_key(q))
  if h[6] and h[6] ~= '' and concurrency > 0 then
    enqueue_limited(id, q, h[6], concurrency, front)
  else
    redis.call('HSET', job, 'status', 'queued', 'enqueued_at', iso(t))
    redis.call(front and 'LPUSH' or 'RPUSH', queue_key(q), id)
  end
end

-- Puts the dependents of a job that ends aside for ENQUEUE DEPENDENTS, and notes this in ENDED until they are enqueued.
-- how: finished | failed | stopped | skipped (canceled, and its dependents may run without it).
local function hand_over(id, how)
  if redis.call('EXISTS', dependents_key(id)) == 0 then return end
  redis.call('SUNIONSTORE', waiting_for_key(id), waiting_for_key(id), dependents_key(id))
  redis.call('DEL', dependents_key(id))
  redis.call('HSET', ENDED, id, how)
end

-- Removes an earlier job of this id from all places, with its hash and results. Jobs that depend on the id then wait for
-- the new one. Returns false, and does nothing, if a worker has the earlier job.
local function make_way(id)
  local h = redis.call('HMGET', job_key(id), 'status', 'origin', 'rate_limit_key')
  local status, q, limit = h[1], h[2], h[3]
  if status == 'started' then return false end
  for _, owner in ipairs(redis.call('SMEMBERS', OWNERS)) do
    if redis.call('ZSCORE', own_key(owner), id) then return false end
  end
  for _, dependency in ipairs(redis.call('SMEMBERS', dependencies_key(id))) do
    redis.call('SREM', dependents_key(dependency), id)
  end
  redis.call('DEL', job_key(id), results_key(id), dependencies_key(id), executions_key(id))
  if not q then return true end
  redis.call('LREM', queue_key(q), 0, id)
  redis.call('ZREM', back_key(q), id)
  for _, kind in ipairs({ 'finished', 'failed', 'canceled', 'scheduled', 'deferred', 'ready' }) do
    redis.call('ZREM', registry_key(kind, q), id)
  end
  if limit and limit ~= '' then
    redis.call('ZREM', limit_key(limit) .. ':rate_limited', id)
    free_place(id, limit)
  end
  return true
end

-- Returns whether an owner name of the tree w is in the owners set.
local function has_names(w)
  for _, owner in ipairs(redis.call('SMEMBERS', OWNERS)) do
    if string.match(owner, '^(.*):[^:]*$') == w then return true end
  end
  return false
end

-- Removes a dead tree that owns nothing from RQ's lists, as RQ's register_death does. Its registration stays for one
-- minute, for RQ's code that still reads it.
local function strike_off(w, death)
  local registration = worker_key(w)
  for q in string.gmatch(redis.call('HGET', registration, 'queues') or '', '[^,]+') do
    redis.call('SREM', P .. ':workers:' .. q, registration)
  end
  redis.call('SREM', P .. ':workers', registration)
  redis.call('DEL', lease_key(w), worker_executions_key(w))
  if redis.call('EXISTS', registration) == 1 then
    redis.call('HSET', registration, 'death', death)
    redis.call('EXPIRE', registration, 60)
  end
end
