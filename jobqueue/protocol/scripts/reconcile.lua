-- RECONCILE: after a connection broke, return the jobs that the owner holds without knowing it to the head of their
-- queues: they were claimed by a request whose reply was lost.
--
-- KEYS  1 the owner's zset
-- ARGV  1 owner  2 worker, then for each job that the owner knows: claim
-- returns  how many were returned, or -1: the owner's name is not in the owners set (fenced)
--
-- The promise: no claim stays unknown after a reconnect; jobs that the owner knows are not changed.

local own, owner, w = KEYS[1], ARGV[1], ARGV[2]
if redis.call('SISMEMBER', OWNERS, owner) == 0 then return -1 end
local known = {}
for at = 3, #ARGV do known[tonumber(ARGV[at])] = true end
local held = redis.call('ZREVRANGE', own, 0, -1, 'WITHSCORES')
local count = 0
for at = 1, #held, 2 do
  local id, claim = held[at], tonumber(held[at + 1])
  if not known[claim] then
    local q = redis.call('HGET', job_key(id), 'origin')
    if q then
      count = count + requeue(owner, w, q, id, claim)
    else
      forget(owner, w, id, claim)
    end
  end
end
return count
