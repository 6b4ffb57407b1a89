-- STRIKE OFF: a tree that died while none of its names stood among the owners leaves RQ's lists.
--
-- KEYS  1 its lease
-- ARGV  1 worker  2 the lease that stood still  3 when (RQ's text)
-- returns  1 it is off, 0 it lives, or a name of it stands there: that is rescued first

if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[2] or has_names(ARGV[1]) then return 0 end
strike_off(ARGV[1], ARGV[3])
return 1
