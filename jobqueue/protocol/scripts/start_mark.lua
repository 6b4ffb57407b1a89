-- START MARK: write that jobs are running: status, execution, started registry, as RQ's prepare_execution writes them.
--
-- KEYS  1 the owner's zset
-- ARGV  1 owner  2 worker  then for each job: id, claim, queue, started_at (RQ's text), ttl of the execution in seconds
-- returns  per job: 1 marked, 0 the token or the job is gone, or it was canceled: it must not be started any more
--
-- The promise: only the owner can mark a job, and a marked job does not expire while it runs.

local owner, w = ARGV[1], ARGV[2]
local marked = {}
for at = 3, #ARGV, 5 do
  local id, claim, q, started_at, ttl = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  local is_ours = owns(owner, id, claim)
  local status = is_ours and redis.call('HGET', job_key(id), 'status')
  if is_ours and (not status or status == 'canceled') then -- no status: deleted, or it waited for longer than its ttl
    clean_execution(w, q, id, claim)
    release(owner, q, id)
    if not status then free_places_of(id) end -- the place of a canceled job was freed by the cancel
    marked[#marked + 1] = 0
  elseif is_ours then
    mark_started(w, id, claim, q, started_at, ttl)
    marked[#marked + 1] = 1
  else
    marked[#marked + 1] = 0
  end
end
return marked
