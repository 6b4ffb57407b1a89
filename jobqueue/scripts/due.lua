-- Move scheduled jobs whose time has come to the end of their queue.
--
-- KEYS  1 RQ's scheduled registry of the queue
-- ARGV  1 queue  2 how many at most
-- returns  how many were moved; -1: an RQ scheduler holds this queue's lock and does it
--
-- The promise: out of the registry and into the queue in one step, so that any number of supervisors may ask and each
-- job is enqueued once. A job with a rate limit goes to those that wait for a place, as in RQ's scheduler, and from
-- there into its queue as far as there are free places.

local q = ARGV[1]
if redis.call('EXISTS', P .. ':scheduler-lock:' .. q) == 1 then return -1 end
local t = now()

-- RQ's _enqueue_rate_limited_job and its ACQUIRE_AND_ENQUEUE_SCRIPT.
local function enqueue_limited(id, limit, concurrency, front)
  local config = P .. ':rl:' .. limit
  local allowed, waiting = config .. ':allowed', config .. ':rate_limited'
  redis.call('SADD', P .. ':rl-keys', limit)
  redis.call('HSET', config, 'concurrency', concurrency)
  redis.call('HSET', job_key(id), 'status', 'rate_limited', 'origin', q)
  if front then redis.call('HSET', job_key(id), 'enqueue_at_front', 1) end
  redis.call('ZADD', waiting, math.floor(t), id)
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

local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', t, 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  redis.call('ZREM', KEYS[1], id)
  local job = job_key(id)
  local h = redis.call('HMGET', job, 'data', 'enqueue_at_front', 'enqueue_at_front_on_retry', 'ended_at', 'ttl',
    'rate_limit_key', 'rate_limit_concurrency')
  if h[1] then
    local front = h[2] == '1' or (h[3] == '1' and h[4] and h[4] ~= '')
    local concurrency = tonumber(h[7] or '') or 0
    if tonumber(h[5] or '') then redis.call('EXPIRE', job, h[5]) end
    redis.call('SADD', QUEUES, queue_key(q))
    if h[6] and h[6] ~= '' and concurrency > 0 then
      enqueue_limited(id, h[6], concurrency, front)
    else
      redis.call('HSET', job, 'status', 'queued', 'enqueued_at', iso(t))
      redis.call(front and 'LPUSH' or 'RPUSH', queue_key(q), id)
    end
  end
end
return #ids
