-- RELEASE: a worker gives jobs back to the head of their queues; attempts stay. ARGV: wid, then per job: jid, epoch
local at = clock()
for i = 2, #ARGV, 2 do
  local job = held_by(ARGV[1], ARGV[i])
  if job and job.epoch == ARGV[i + 1] then hand_back(ARGV[i], job, at) end
end
return 1
