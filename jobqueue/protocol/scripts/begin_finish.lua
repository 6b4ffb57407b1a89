-- BEGIN FINISH: RQ's own finish of a job begins: the fence is set, if the job is still ours and somebody else has not
-- decided about it.
--
-- KEYS  1 the owner's zset
-- ARGV  1 owner  2 worker  3 id  4 claim  5 queue  6 for how many seconds the fence stands
-- returns  'lost': the token is gone, nothing was done; 'gone' and 'canceled': the hash is gone, or the job was canceled
--          while we had it: it is let go, with its place of a rate limit; else the job's hash
--
-- The promise: the fence stands only while the owner holds the job, so a rescue always finds and deletes it.

local owner, w, id, claim, q = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not owns(owner, id, claim) then
  return redis.call('HGET', job_key(id), 'status') == 'canceled' and 'canceled' or 'lost' -- START MARK let it go
end

-- RQ's transaction writes there. Who asks for their sizes moves aside what is of another type: see `call`.
local written = { [results_key(id)] = 'XLEN', [executions_key(id)] = 'ZCARD', [worker_executions_key(w)] = 'SCARD',
  [worker_key(w)] = 'HLEN', [dependents_key(id)] = 'SCARD', [queue_key(q)] = 'LLEN', [QUEUES] = 'SCARD',
  [intermediate_key(q)] = 'LLEN', [ENDED] = 'HLEN', [waiting_for_key(id)] = 'SCARD' }
for _, kind in ipairs({ 'finished', 'failed', 'wip', 'scheduled', 'canceled' }) do
  written[registry_key(kind, q)] = 'ZCARD'
end

local h = redis.call('HMGET', job_key(id), 'data', 'status', 'rate_limit_key')
local there = h[1] or h[2] -- else it is what its function wrote on itself after it was deleted
if there and h[2] ~= 'canceled' then
  redis.call('SET', fin_key(id), claim, 'EX', ARGV[6])
  for key, command in pairs(written) do redis.call(command, key) end
  return redis.call('HGETALL', job_key(id))
end
clean_execution(w, q, id, claim)
release(owner, q, id)
redis.call('DEL', fin_key(id))
if there then
  if h[3] and h[3] ~= '' then free_place(id, h[3]) end
  return 'canceled'
end
redis.call('DEL', job_key(id))
free_places_of(id)
return 'gone'
