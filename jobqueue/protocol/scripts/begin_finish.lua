-- BEGIN FINISH: begin RQ's own finish of a job: set its fence, if the owner still holds the job and it is not canceled.
--
-- KEYS  1 the owner's zset
-- ARGV  1 owner  2 worker  3 id  4 claim  5 queue  6 seconds until the fence expires
-- returns  'lost': the token is gone, nothing was done; 'gone': the job's hash is gone, 'canceled': the job was canceled
--          meanwhile: in both cases the owner holds it no more, and its place of a rate limit is free; else the hash
--
-- The promise: the fence stands only while the owner holds the job, so a rescue always finds and deletes it.

local owner, w, id, claim, q = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not owns(owner, id, claim) then
  return redis.call('HGET', job_key(id), 'status') == 'canceled' and 'canceled' or 'lost' -- released by START MARK
end

-- The keys that RQ's transaction writes. Asking for their sizes moves those of a wrong type aside: see `call`.
local written = { [results_key(id)] = 'XLEN', [executions_key(id)] = 'ZCARD', [worker_executions_key(w)] = 'SCARD',
  [worker_key(w)] = 'HLEN', [dependents_key(id)] = 'SCARD', [queue_key(q)] = 'LLEN', [QUEUES] = 'SCARD',
  [intermediate_key(q)] = 'LLEN', [ENDED] = 'HLEN', [waiting_for_key(id)] = 'SCARD' }
for _, kind in ipairs({ 'finished', 'failed', 'wip', 'scheduled', 'canceled' }) do
  written[registry_key(kind, q)] = 'ZCARD'
end

local h = redis.call('HMGET', job_key(id), 'data', 'status', 'rate_limit_key')
local there = h[1] or h[2] -- else the hash has only what the job's function wrote after the job was deleted
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
