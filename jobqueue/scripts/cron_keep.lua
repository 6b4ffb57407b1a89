-- CRON_KEEP: drop the cron entries that stand in no file any more.
--
-- KEYS  1 keys.CRON_ENTRIES
-- ARGV  1 token: the cron leader's name, then the ids to keep
-- returns  how many were dropped; -1: the token is not the leader's

if redis.call('GET', CRON_LEADER) ~= ARGV[1] then return -1 end
local keep, dropped = {}, 0
for i = 2, #ARGV do keep[ARGV[i]] = true end
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if not keep[id] then
    redis.call('ZREM', KEYS[1], id)
    redis.call('DEL', schedule_key(id), schedule_job_key(id))
    dropped = dropped + 1
  end
end
return dropped
