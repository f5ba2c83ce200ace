-- CANCEL: a waiting job ends at once, a running one with its worker's next EMIT or beat.
-- ARGV: owner, jid, the only front end that may watch it, or '': whoever watches; the job that the last of the equal
-- requests would have been, or '': whoever asked last
local jid, fid, asker = ARGV[2], ARGV[3], ARGV[4]
local job = fields(jid, 'owner', 'state', 'worker', 'fe', 'asker')
if job.owner ~= ARGV[1] then return false end
if asker ~= '' and asker ~= (job.asker or jid) then return job.state end
if fid ~= '' then
  for fe in string.gmatch(job.fe or '', '[^,]+') do if fe ~= fid then return job.state end end
end
if job.state == 'queued' then
  end_job(jid, 'cancelled', CANCELLED, clock())
  return 'cancelled'
end
if job.state == 'running' then cancel(jid, job) end
return job.state
