-- RELEASE: a worker gives jobs back to the head of their queues; attempts stay.
-- ARGV: wid, cancelled item, expired item, then per job: jid, epoch
local wid = ARGV[1]
local at = clock()
for i = 4, #ARGV, 2 do
  local jid = ARGV[i]
  local job = fields(jid, 'state', 'epoch', 'worker', 'model', 'cls', 'share', 'cancel', 'end_at')
  if job.state == 'running' and job.worker == wid and job.epoch == ARGV[i + 1] then
    hand_back(jid, job, ARGV[2], ARGV[3], at)
  end
end
return 1
