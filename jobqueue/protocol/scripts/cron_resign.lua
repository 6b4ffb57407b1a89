-- CRON_RESIGN: leave the lead to the next, if it is ours.
--
-- KEYS  1 keys.CRON_LEADER
-- ARGV  1 token
-- returns  1 it was ours, 0 not

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
