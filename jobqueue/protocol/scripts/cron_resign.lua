-- CRON_RESIGN: give up the lead, so that another supervisor can take it.
--
-- KEYS  1 keys.CRON_LEADER
-- ARGV  1 token
-- returns  1 done, 0 the token is not the leader's

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
