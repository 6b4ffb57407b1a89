-- CRON_LEAD: become the leader that serves the cron files, or remain it.
--
-- KEYS[1]  keys.CRON_LEADER
-- ARGV     1 token: the name of the supervisor that asks  2 for how many milliseconds
-- returns  1 it leads from now on, 2 it still leads, 0 another supervisor leads
--
-- The promise: there is one leader at a time. A supervisor that lost the lead unnoticed writes nothing, as SCHEDULE and
-- TICK compare the token.

local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return leader and 2 or 1
