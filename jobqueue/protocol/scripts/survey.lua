-- SURVEY: list some of the jobs whose hash says that they wait or run.
--
-- ARGV  1 the cursor, as it was returned  2 the pattern of job keys  3 how many keys to look at, about
-- returns  { the next cursor, '0' at the end; then the ids }
--
-- It only reads. It has no prelude: for a million jobs it is sent a thousand times, and takes a millisecond each.

local found = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3], 'TYPE', 'hash')
local reply, prefix = { found[1] }, #ARGV[2] -- the pattern is the prefix and an asterisk
for _, key in ipairs(found[2]) do
  local status = redis.call('HGET', key, 'status')
  if status == 'queued' or status == 'started' then reply[#reply + 1] = string.sub(key, prefix) end
end
return reply
