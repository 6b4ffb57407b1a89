-- Jobs that were claimed and will not be run here go back to the head of their queues, in the order of their claims.
--
-- KEYS  1 the owners set
-- ARGV  1 worker, then for each job: owner, id, claim, queue
-- returns  how many went back
--
-- The promise: nothing is counted, the old order stays (also over the children of a whole tree), and a job whose token
-- is gone (settled, rescued) is left alone: giving back twice is giving back once.

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
