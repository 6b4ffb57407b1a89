-- The head of every script: the keys of jobqueue/protocol/keys.py, and the moves that several scripts share.
-- lua.py puts RQ's key prefix in the place of @PREFIX@ and each script's own text behind this one.

local P = '@PREFIX@'
local QUEUES, SUSPENDED, OWNERS, SEQ, PAUSED, USAGE =
  P .. ':queues', P .. ':suspended', P .. ':jobq:owners', P .. ':jobq:seq', P .. ':jobq:paused', P .. ':jobq:usage'
local CRON_LEADER, CRON_NAMES = P .. ':jobq:cron_leader', P .. ':cron_jobs'
local ENDED = P .. ':jobq:ended'

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
local function waiting_for_key(id) return P .. ':jobq:waiting_for:' .. id end
local function limit_key(limit) return P .. ':rl:' .. limit end
local function schedule_key(id) return P .. ':jobq:schedule:' .. id end
local function schedule_job_key(id) return P .. ':jobq:schedule_job:' .. id end
local function cron_history_key(name) return P .. ':cron_job:' .. name .. ':jobs' end

-- Each command of each script goes through `redis.call` below. What somebody put into the store by mistake must not
-- stop a script in its middle, where a job would stand in no place or in two: a key of another type than it should have
-- is moved out of the way as it is, and what is no number where one is counted begins anew. Then the command is sent
-- again, and raises what it raises.
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
  if is_job then store.call('HSET', key, 'status', 'queued', 'data', '') end -- where its id stands, it fails as a job
  if key == SEQ then store.call('SET', SEQ, t .. '000') end -- claim numbers only grow: past all that were ever given
end

local function mend(err, command, key, field, ...)
  if command == 'SUNIONSTORE' then -- one of those that are read
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

-- raw: for commands that take keys of any type, and on keys whose type was seen just before; it is faster.
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

-- A number of seconds in a hash, as whole seconds that the store takes; nil for what is none. -1 is for ever.
local LONGEST = @LONGEST@
local function seconds(text)
  local n = tonumber(text or '')
  if not n or n ~= n then return nil end
  return math.floor(math.max(-1, math.min(LONGEST, n)))
end

-- A job that waits does so no longer than its ttl.
local function wait_for(id, ttl)
  local n = seconds(ttl)
  if n and n > 0 then redis.call('EXPIRE', job_key(id), n) end
end

-- The requests of one submit are numbered: true if a later one was here before this; else those before it do nothing
-- any more, whenever they arrive.
local function given_up(mark, attempt)
  local before = redis.call('GET', mark)
  if before and (tonumber(before) or 0) > attempt then return true end
  if attempt > 0 then redis.call('SET', mark, attempt, 'EX', 86400) end
  return false
end

-- Seconds of the server's clock: scores never come from a client's.
local function now()
  local t = raw('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- A claim's execution has the claim number as its id: whoever knows the token can clean up, also after a crash.
local function execution_id(claim) return string.format('%032x', claim) end

-- RQ's registries and `rq info` forget that worker w was running the job.
local function clean_execution(w, q, id, claim)
  local x = execution_id(claim)
  redis.call('ZREM', registry_key('wip', q), id .. ':' .. x)
  redis.call('DEL', execution_key(id, x))
  redis.call('ZREM', executions_key(id), x)
  redis.call('SREM', worker_executions_key(w), id .. ':' .. x)
end

-- The token: the owner holds the job under this very claim number, and nobody has taken it away.
local function owns(owner, id, claim)
  return tonumber(redis.call('ZSCORE', own_key(owner), id) or -1) == tonumber(claim)
end

-- Out of the owner's hands. `first_seen` is RQ's memory of ids that look stuck: left behind, it fails the job later.
local function release(owner, q, id)
  redis.call('ZREM', own_key(owner), id)
  redis.call('LREM', intermediate_key(q), 1, id)
  redis.call('DEL', first_seen_key(q, id))
end

-- A job whose hash is gone does not say any more which queue it was in: its traces are looked for in all of them.
local function forget(owner, w, id, claim)
  redis.call('ZREM', own_key(owner), id)
  for _, key in ipairs(redis.call('SMEMBERS', QUEUES)) do
    local q = string.sub(key, #queue_key('') + 1)
    release(owner, q, id)
    clean_execution(w, q, id, claim)
  end
end

-- To its old place at the head of its queue. Children give back when it suits them, the younger claims perhaps first:
-- `back` remembers who stands returned at the head, by the claim under which each was taken first.
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
    -- somebody else may have taken it out of the queue, or deleted it and enqueued another of the same name
    local still = tonumber(redis.call('HGET', job_key(before[1]), 'jobq_order') or -1) == tonumber(before[2])
    if still and redis.call('LINSERT', queue_key(q), 'AFTER', before[1], id) > 0 then break end
    redis.call('ZREM', back, before[1])
    before = redis.call('ZREVRANGEBYSCORE', back, below, '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  end
  if not before[1] then redis.call('LPUSH', queue_key(q), id) end
  redis.call('ZADD', back, order, id)
  redis.call('EXPIRE', back, 3600) -- it matters while the id stands there; who takes it by hand does not clean up
end

-- Who gave a job one of these meanwhile (RQ's cancel, its maintenance) has put it into the registry of that name.
local DECIDED = { finished = true, failed = true, stopped = true, canceled = true, scheduled = true, deferred = true }

-- A job that has ended, and in which of RQ's registries it stands.
local ENDS = { finished = 'finished', failed = 'failed', stopped = 'failed' }

-- Back to the head of its queue, as if it had never been claimed. A job whose hash is gone, or of which somebody else
-- has decided, is only let go.
local function requeue(owner, w, q, id, claim)
  release(owner, q, id)
  local h = redis.call('HMGET', job_key(id), 'status', 'ttl')
  local status = h[1]
  if status ~= 'queued' then clean_execution(w, q, id, claim) end
  if not status or DECIDED[status] then return 0 end
  if status == 'started' then
    redis.call('HSET', job_key(id), 'status', 'queued')
    wait_for(id, h[2]) -- it waits again: its start had ended the wait
  end
  push_back(q, id, claim)
  return 1
end

-- What RQ's prepare_execution writes, for its readers.
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

-- The score in RQ's registry; what is kept for ever has +inf among the finished and -1 among the failed.
local function expiry(kind, ttl, t)
  if ttl < 0 then return kind == 1 and '+inf' or ttl end
  return math.floor(t) + ttl
end

-- The truth about a job that ended: status, times, one entry in its result stream. Its place in RQ's registry is left
-- to the caller. kind is RQ's result type (1 returned, 2 raised); payload is what RQ's Result.restore reads, '' for
-- None; dependencies: whether it waited for others once.
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
  if ttl > 0 then -- RQ's keep-for-ttl: -1 keeps for ever
    raw('EXPIRE', results, ttl)
    raw('EXPIRE', job, ttl)
    if dependencies then raw('EXPIRE', dependencies_key(id), ttl) end
  else
    raw('PERSIST', results)
    raw('PERSIST', job)
  end
end

-- A job that is not kept at all goes, as by RQ's Job.cleanup.
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

-- RQ's ACQUIRE_AND_ENQUEUE_SCRIPT: as many of those that wait for a place of the limit as there are free ones.
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

-- RQ's _enqueue_rate_limited_job.
local function enqueue_limited(id, q, limit, concurrency, front)
  redis.call('SADD', P .. ':rl-keys', limit)
  redis.call('HSET', limit_key(limit), 'concurrency', concurrency)
  redis.call('HSET', job_key(id), 'status', 'rate_limited', 'origin', q)
  if front then redis.call('HSET', job_key(id), 'enqueue_at_front', 1) end
  redis.call('ZADD', limit_key(limit) .. ':rate_limited', math.floor(now()), id)
  fill_places(limit, concurrency)
end

-- The place that the job had, if it is not about to need it, is free for the next.
local function free_place(id, limit)
  local status = redis.call('HGET', job_key(id), 'status')
  if status == 'queued' or status == 'started' then return end
  redis.call('ZREM', limit_key(limit) .. ':allowed', id)
  fill_places(limit, tonumber(redis.call('HGET', limit_key(limit), 'concurrency') or '') or 0)
end

-- The same for a job whose hash is gone, and with it which limit that was.
local function free_places_of(id)
  for _, limit in ipairs(redis.call('SMEMBERS', P .. ':rl-keys')) do
    if redis.call('ZSCORE', limit_key(limit) .. ':allowed', id) then free_place(id, limit) end
  end
end

-- What waited for a time or for other jobs goes into its queue; with a rate limit, to those that wait for a place.
local function enqueue_waiting(id, q)
  local job, t = job_key(id), now()
  local h = redis.call('HMGET', job, 'data', 'enqueue_at_front', 'enqueue_at_front_on_retry', 'ended_at', 'ttl',
    'rate_limit_key', 'rate_limit_concurrency', 'status')
  if not h[1] or h[8] == 'canceled' then return end -- RQ's cancel may miss the registry that it has just gone to
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

-- The job ends here: its dependents, who may be many, are put aside for ENQUEUE DEPENDENTS, and a mark says so until
-- it is done. how: finished | failed | stopped | skipped (canceled, and its dependents may run without it).
local function hand_over(id, how)
  if redis.call('EXISTS', dependents_key(id)) == 0 then return end
  redis.call('SUNIONSTORE', waiting_for_key(id), waiting_for_key(id), dependents_key(id))
  redis.call('DEL', dependents_key(id))
  redis.call('HSET', ENDED, id, how)
end

-- An earlier job of this id leaves every place, and its hash and results go; who depends on the id now waits for the new
-- one. false: a worker has it, and nothing was done.
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

-- Does a name of the tree stand among the owners?
local function has_names(w)
  for _, owner in ipairs(redis.call('SMEMBERS', OWNERS)) do
    if string.match(owner, '^(.*):[^:]*$') == w then return true end
  end
  return false
end

-- A dead tree without a name leaves RQ's lists, as by RQ's register_death. Its registration stays for a minute, for who counts
-- on it meanwhile.
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
