-- GIVE BACK: return claimed jobs that the owner will not run to the head of their queues, in the order of their claims.
--
-- KEYS  1 the owners set
-- ARGV  1 worker, then for each job: owner, id, claim, queue
-- returns  how many were returned
--
-- The promise: nothing is counted, the old order is kept (also among the children of a tree), and a job whose token is
-- gone (settled, rescued) is not changed. So this may be repeated.

local w = ARGV[1]
local jobs = {}
for at = 2, #ARGV, 4 do
  jobs[#jobs + 1] = { owner = ARGV[at], id = ARGV[at + 1], claim = tonumber(ARGV[at + 2]), q = ARGV[at + 3] }
end
table.sort(jobs, function(a, b) return a.claim > b.claim end)
local count = 0
for _, j in ipairs(jobs) do
  if owns(j.owner, j.id, j.claim) then count = count + requeue(j.owner, w, j.q, j.id, j.claim) end
end
return count
