-- SUBMIT: put jobs into a queue, each at most once, however often and however late its requests arrive.
--
-- KEYS  1 the mark of this submit  2 the queue  3 the set of queues
-- ARGV  1 number of this request of the submit: 0, or 1, 2, ... when those before it were given up
--       2 created_at and enqueued_at
--       3 prefix of job keys  4 RPUSH | LPUSH  5 seconds that the jobs may wait or ''
--       6 1: the jobs may be deleted soon after they have run; else ''
--       7 number of strings that all jobs share, then these: field, value, ...
--       then per job: id, data, description
-- returns  'ok': the jobs are in the queue; 'given up': a later request of this submit was here before, nothing was done
--
-- The promise: this is one step, and an error is raised before the first write. A request that was given up and arrives
-- late, up to a day, does nothing, as a later one has left its number. A repeated request skips the jobs that exist.
-- This script has no prelude: it is the whole cost of an enqueue in the store.

local call, KEYS, ARGV = redis.call, KEYS, ARGV
local attempt, stamp, prefix, ttl = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[5]
local before = call('GET', KEYS[1])
if before == 'done' then
  call('EXPIRE', KEYS[1], 86400)
  return 'ok'
end
if before and tonumber(before) > attempt then return 'given up' end
if attempt > 0 then call('SET', KEYS[1], attempt, 'EX', 86400) end

local last = 7 + ARGV[7]
local first, ids, at = last + 1, {}, {}
for i = first, #ARGV, 3 do
  if attempt == 0 or call('EXISTS', prefix .. ARGV[i]) == 0 then
    ids[#ids + 1] = ARGV[i]
    at[#at + 1] = i
  end
end
if #ids == 0 then return 'ok' end

call('SADD', KEYS[3], KEYS[2])
call(ARGV[4], KEYS[2], unpack(ids))
for _, i in ipairs(at) do
  local job = prefix .. ARGV[i]
  call('HSET', job, 'created_at', stamp, 'enqueued_at', stamp, 'data', ARGV[i + 1], 'description', ARGV[i + 2],
    unpack(ARGV, 8, last))
  if ttl ~= '' then call('EXPIRE', job, ttl) end
end
if ARGV[6] == '1' then call('SET', KEYS[1], 'done', 'EX', attempt > 0 and 86400 or 60) end
return 'ok'
