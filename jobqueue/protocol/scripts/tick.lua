-- TICK: enqueue one occurrence of a schedule, and move the schedule on.
--
-- KEYS[1]  the zset in which it stands
-- ARGV     1 token: the cron leader's name, '' for a stored schedule  2 id  3 the time that is due, as it was read
--          4 the next time  5 how many jobs RQ remembers of a cron entry  6 for how many seconds
-- returns  the job's id; or 'fenced': the token is not the leader's; 'moved': another process did it, or it was deleted;
--          'overlap': its last job has not ended and overlap is not wanted; 'there': the job exists already;
--          { text }: it cannot be enqueued, and why; nothing was written
--
-- The promise: an occurrence is enqueued once. A request with an older time than the one in the store does nothing. The
-- job and the new time are written in one step: a kill before it leaves the occurrence due, a kill after it changes
-- nothing.

local token, id = ARGV[1], ARGV[2]
if token ~= '' and redis.call('GET', CRON_LEADER) ~= token then return 'fenced' end
if tonumber(redis.call('ZSCORE', KEYS[1], id) or 'nan') ~= tonumber(ARGV[3]) then return 'moved' end

-- The schedule is checked before the first write: a wrong one is reported and not changed, so that its author sees it.
local function type_of(key)
  local found = raw('TYPE', key)
  return type(found) == 'table' and found.ok or found
end
local function bad(text) return { text } end

local schedule, template_key, t = schedule_key(id), schedule_job_key(id), now()
if type_of(schedule) == 'none' or type_of(template_key) == 'none' then -- its keys were deleted by hand
  redis.call('ZREM', KEYS[1], id)
  return 'moved'
end
for _, key in ipairs({ schedule, template_key }) do
  if type_of(key) ~= 'hash' then return bad(key .. ' is no hash.') end
end
local h = redis.call('HMGET', schedule, 'queue', 'name', 'overlap', 'last_job', 'front', 'ttl')
local q, name = h[1], h[2] or id
if not q then return bad(schedule .. ' names no queue.') end
if redis.call('HLEN', template_key) > 1000 then return bad(template_key .. ' has too many fields.') end
if redis.call('HEXISTS', template_key, 'data') == 0 then return bad(template_key .. ' has no data.') end
local template = redis.call('HGETALL', template_key)
redis.call('ZADD', KEYS[1], ARGV[4], id)

local UNDER_WAY = { queued = true, started = true, deferred = true, scheduled = true, rate_limited = true,
  ready_to_enqueue = true }
local status = h[3] == 'no' and h[4] and redis.pcall('HGET', job_key(h[4]), 'status')
if type(status) == 'string' and UNDER_WAY[status] then
  redis.pcall('HINCRBY', schedule, 'skipped', 1)
  return 'overlap'
end

local job_id = id .. '-' .. string.format('%.0f', math.floor(tonumber(ARGV[3]) * 1000 + 0.5))
local job = job_key(job_id)
if redis.call('EXISTS', job) == 1 then return 'there' end
redis.call('HSET', job, unpack(template))
redis.call('HSET', job, 'status', 'queued', 'created_at', iso(t), 'enqueued_at', iso(t))
wait_for(job_id, h[6])
redis.call('SADD', QUEUES, queue_key(q))
redis.call(h[5] == '1' and 'LPUSH' or 'RPUSH', queue_key(q), job_id)

-- The job is in its queue. Failures in the notes on it are ignored.
redis.call('HSET', schedule, 'last', ARGV[3], 'last_job', job_id)
redis.pcall('HINCRBY', schedule, 'runs', 1)
-- The notes that RQ's CronJob.enqueue makes.
redis.pcall('ZADD', cron_history_key(name), string.format('%.6f', t), job_id)
redis.pcall('ZREMRANGEBYRANK', cron_history_key(name), 0, -(tonumber(ARGV[5]) + 1))
redis.pcall('EXPIRE', cron_history_key(name), ARGV[6])
redis.pcall('ZADD', CRON_NAMES, string.format('%.6f', t), name)
return job_id
