-- SCHEDULE: store a schedule, or change one that exists.
--
-- KEYS     1 the zset in which it stands: keys.SCHEDULES or keys.CRON_ENTRIES  2 the mark of this submit
-- ARGV     1 token: the cron leader's name, '' for a stored schedule  2 id  3 the first time
--          4 'unique' refuses an id that exists  'keep' keeps the next time if every, cron and tz are not changed
--            'first' begins with the first time
--          5 number of this request of the submit: see SUBMIT
--          6 number of strings that follow: field, value, ... of the schedule; the rest: field, value, ... of its jobs
-- returns  the next time as text; '' refused: the id exists; 'fenced': the token is not the leader's
--
-- The promise: storing the same schedule again, with each deploy, neither delays nor repeats an occurrence.

local token, id, first, mode, n = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[6])
if token ~= '' and redis.call('GET', CRON_LEADER) ~= token then return 'fenced' end
if given_up(KEYS[2], tonumber(ARGV[5])) then return 'fenced' end
local key = schedule_key(id)
local due = redis.call('ZSCORE', KEYS[1], id)
if due and redis.call('HGET', key, 'submit') == KEYS[2] then return due end -- stored by a request whose reply was lost
if due and mode == 'unique' then return '' end

local function timing()
  local values = redis.call('HMGET', key, 'every', 'cron', 'tz')
  return (values[1] or '') .. ' ' .. (values[2] or '') .. ' ' .. (values[3] or '')
end

local before = timing()
redis.call('HSET', key, 'submit', KEYS[2], unpack(ARGV, 7, 6 + n))
if not (due and mode == 'keep' and timing() == before) then due = first end
redis.call('DEL', schedule_job_key(id))
redis.call('HSET', schedule_job_key(id), unpack(ARGV, 7 + n))
redis.call('ZADD', KEYS[1], due, id)
return due
