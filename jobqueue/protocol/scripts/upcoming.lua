-- UPCOMING: list the schedules that are due, by the store's clock.
--
-- KEYS[1]  the zset of schedules
-- ARGV     1 how many at most  2 how many of the due ones to skip: those that cannot be enqueued
-- returns  { now, the next time after now or '', then for each that is due: id, due, every, cron, tz, problem }
--
-- It only reads. Times are texts and never rounded, as TICK compares them. An entry that is no schedule has a problem
-- ('gone': its keys do not exist, and TICK removes it), else '': a wrong entry does not hide the others.

local t = now()
local reply = { string.format('%.6f', t), '' }
local later = redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.6f', t), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if later[2] then reply[2] = later[2] end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', t), 'WITHSCORES', 'LIMIT', ARGV[2], ARGV[1])
for i = 1, #due, 2 do
  local h = redis.pcall('HMGET', schedule_key(due[i]), 'every', 'cron', 'tz')
  local problem = ''
  if h.err then
    problem = schedule_key(due[i]) .. ' is no hash.'
  elseif redis.call('EXISTS', schedule_key(due[i])) == 0 then
    problem = 'gone'
  end
  for _, value in ipairs({ due[i], due[i + 1], h[1] or '', h[2] or '', h[3] or '', problem }) do
    reply[#reply + 1] = value
  end
end
return reply
