-- CANCEL: a waiting job ends at once, a running one with its worker's next EMIT or beat.
-- ARGV: owner, jid
local jid = ARGV[2]
local job = fields(jid, 'owner', 'state', 'worker')
if job.owner ~= ARGV[1] then return false end
if job.state == 'queued' then
  end_job(jid, 'cancelled', CANCELLED, clock())
  return 'cancelled'
end
if job.state == 'running' then cancel(jid, job) end
return job.state
