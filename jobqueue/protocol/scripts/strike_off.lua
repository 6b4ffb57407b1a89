-- STRIKE OFF: remove a tree that died, and of which no owner name is left, from RQ's lists.
--
-- KEYS  1 its lease
-- ARGV  1 worker  2 the lease that stood still  3 when (RQ's text)
-- returns  1 removed, 0 it lives, or an owner name of it is left and has to be rescued first

if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[2] or has_names(ARGV[1]) then return 0 end
strike_off(ARGV[1], ARGV[3])
return 1
