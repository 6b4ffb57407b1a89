-- CRON_KEEP: delete the cron entries that are in no file any more, with the keys from which RQ's readers show them.
--
-- KEYS  1 keys.CRON_ENTRIES  2 keys.SCHEDULES
-- ARGV  1 token: the cron leader's name, then the ids to keep
-- returns  how many were deleted; -1: the token is not the leader's

if redis.call('GET', CRON_LEADER) ~= ARGV[1] then return -1 end
local function name_of(id)
  local name = redis.pcall('HGET', schedule_key(id), 'name')
  return type(name) == 'string' and name or id
end

local keep, named, dropped = {}, {}, {}
for i = 2, #ARGV do keep[ARGV[i]] = true end
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if keep[id] then named[name_of(id)] = true else dropped[#dropped + 1] = id end
end
if #dropped == 0 then return 0 end
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do named[name_of(id)] = true end
for _, id in ipairs(dropped) do
  local name = name_of(id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('DEL', schedule_key(id), schedule_job_key(id))
  if not named[name] then -- else the history of its jobs would stay for a year
    redis.pcall('ZREM', CRON_NAMES, name)
    redis.call('DEL', cron_history_key(name))
  end
end
return #dropped
