-- ENQUEUE: put jobs into a queue, each at most once, however often this is repeated.
--
-- KEYS[1]  the queue's list
-- ARGV     queue name, "L" head | "R" tail, seconds that the jobs may wait or "",
--          then per job: id, number of strings that follow, field, value, field, value, ...
-- returns  per job 1, or 0 when a job with this id existed already
--
-- The promise: a job is new exactly if its hash does not exist. A producer that lost a reply sends the same jobs again,
-- and none of them is in the queue twice. None is in the queue without its hash, as both are written in one step.

local q, push, ttl = ARGV[1], ARGV[2] == 'L' and 'LPUSH' or 'RPUSH', tonumber(ARGV[3])
local answers, i = {}, 4

redis.call('SADD', QUEUES, queue_key(q))
while i <= #ARGV do
  local id, n = ARGV[i], tonumber(ARGV[i + 1])
  local job = job_key(id)
  if redis.call('EXISTS', job) == 1 then
    answers[#answers + 1] = 0
  else
    redis.call('HSET', job, unpack(ARGV, i + 2, i + 1 + n))
    if ttl then redis.call('EXPIRE', job, ttl) end
    redis.call(push, KEYS[1], id)
    answers[#answers + 1] = 1
  end
  i = i + 2 + n
end
return answers
