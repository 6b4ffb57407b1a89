-- CRON_LEAD: be the leader of the cron files, or stay it.
--
-- KEYS[1]  keys.CRON_LEADER
-- ARGV     1 token: the name of the supervisor that asks  2 for how many milliseconds
-- returns  1 it leads from now on, 2 it still leads, 0 somebody else does
--
-- The promise: one leader at a time. Who lost the lock without knowing writes nothing: SCHEDULE and TICK compare.

local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return leader and 2 or 1
