-- WATCH: register a front end and read the log after a number, in one step.
-- ARGV: owner, jid, front end or '' (only read), after, most
local jid, fid, after = ARGV[2], ARGV[3], tonumber(ARGV[4])
local job = fields(jid, 'owner', 'state', 'seq', 'epoch', 'worker', 'fe', 'claimed', 'claim_seq')
if not job.owner or job.owner ~= ARGV[1] then return false end
local heard = 0
if fid ~= '' and (job.state == 'queued' or job.state == 'running') then
  local count = 0
  for fe in string.gmatch(job.fe or '', '[^,]+') do
    count = count + 1
    if fe == fid then heard = 1 end
  end
  if heard == 0 and count < 4 then
    redis.call('HSET', p .. 'j:' .. jid, 'fe', count == 0 and fid or (job.fe .. ',' .. fid))
    heard = 1
  end
  if heard == 1 then listen(jid, fid, clock()) end
end
return {job.state, job.seq, job.epoch, job.worker or '', heard, job.claimed or '', job.claim_seq or 0,
  redis.call('LRANGE', p .. 't:' .. jid, after, after + tonumber(ARGV[5]) - 1)}
