-- STAND IN: for a child that does not react (C code holds the GIL): mark its running jobs as started, and give back the
-- jobs that wait behind them.
--
-- KEYS  1 the owner's zset
-- ARGV  1 owner  2 worker  3 ttl of an execution in seconds
--       4 the newest claim when the child's page was read: if it holds later ones, it has reacted since
--       5 number of running claims, then for each: claim, started_at (RQ's text)
--       then the claims that are finished and not settled yet
-- returns  { marked, given back }, or false: the owner's name is not in the owners set
--
-- The promise: only jobs that neither run nor are finished are given back, however late this request arrives. The child
-- asks Redis before it starts any other job that it held when its page was read.

local own, owner, w, ttl = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
if redis.call('SISMEMBER', OWNERS, owner) == 0 then return false end
local newest, running, finished, at = tonumber(ARGV[4]), {}, {}, 6
for _ = 1, tonumber(ARGV[5]) do
  running[tonumber(ARGV[at])] = ARGV[at + 1]
  at = at + 2
end
for i = at, #ARGV do finished[tonumber(ARGV[i])] = true end

local marked, back = 0, 0
local held = redis.call('ZREVRANGE', own, 0, -1, 'WITHSCORES')
for i = 1, #held, 2 do
  local id, claim = held[i], tonumber(held[i + 1])
  local h = redis.call('HMGET', job_key(id), 'status', 'origin')
  if running[claim] then
    if h[1] == 'queued' and h[2] then
      mark_started(w, id, claim, h[2], running[claim], tonumber(ttl))
      marked = marked + 1
    end
  elseif claim <= newest and not finished[claim] and h[1] ~= 'started' and h[2] then -- started: after its page was read
    back = back + requeue(owner, w, h[2], id, claim)
  end
end
return { marked, back }
