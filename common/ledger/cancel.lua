-- CANCEL: a waiting job ends at once, a running one with its worker's next EMIT or beat.
-- ARGV: owner, jid; after a hang-up also the front end that saw it, '1' where others read the job there, and the job that
-- the request would have been, or '' where it was none
local jid, fid, asker = ARGV[2], ARGV[3], ARGV[5]
local job = fields(jid, 'owner', 'state', 'worker', 'fe', 'asker')
if job.owner ~= ARGV[1] then return false end
if fid then
  local newest, is_read = job.asker or jid, ARGV[4] == '1'
  if asker ~= '' and newest ~= '' and asker ~= newest then return job.state end -- its reader may not be heard of yet
  for fe in string.gmatch(job.fe or '', '[^,]+') do is_read = is_read or fe ~= fid end
  if is_read then
    if asker ~= '' then redis.call('HSET', p .. 'j:' .. jid, 'asker', '') end -- the last to leave decides, whoever it is
    return job.state
  end
end
if job.state == 'queued' then
  end_job(jid, 'cancelled', CANCELLED, clock())
  return 'cancelled'
end
if job.state == 'running' then cancel(jid, job) end
return job.state
