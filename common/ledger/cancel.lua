-- CANCEL: a waiting job ends at once, a running one with its worker's next EMIT or beat.
-- ARGV: owner ('*': housekeeping), jid, cancelled item
local jid = ARGV[2]
local job = fields(jid, 'owner', 'state', 'worker')
if not job.state or (ARGV[1] ~= '*' and job.owner ~= ARGV[1]) then return false end
if job.state == 'queued' then
  end_job(jid, 'cancelled', ARGV[3], clock())
  return 'cancelled'
end
if job.state == 'running' then
  redis.call('HSET', p .. 'j:' .. jid, 'cancel', 1)
  redis.call('SADD', p .. 'c:' .. job.worker, jid)
end
return job.state
