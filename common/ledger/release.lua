-- RELEASE: a worker gives jobs back to the head of their queues; attempts stay.
-- ARGV: wid, then per job: jid, epoch, seconds of generation in all
local at = clock()
for i = 2, #ARGV, 3 do
  local job = held_by(ARGV[1], ARGV[i])
  if job and job.epoch == ARGV[i + 1] then
    redis.call('HSET', p .. 'j:' .. ARGV[i], 'spent', ARGV[i + 2])
    hand_back(ARGV[i], job, at)
  end
end
return 1
