-- WATCH: register a front end and read the log after a number, in one step.
-- ARGV: owner, jid, front end or '' (only read), after, most
local jid, fid, after = ARGV[2], ARGV[3], tonumber(ARGV[4])
local job = fields(jid, 'owner', 'state', 'epoch', 'worker', 'fe', 'claimed', 'claim_seq')
if not job.owner or job.owner ~= ARGV[1] then return false end
local is_open = job.state == 'queued' or job.state == 'running'
local heard = fid ~= '' and is_open and hear(jid, job.fe, fid) or 0
return {job.state, tostring(log_length(jid)), job.epoch, job.worker or '', heard, job.claimed or '', job.claim_seq or 0,
  redis.call('LRANGE', p .. 't:' .. jid, after, after + tonumber(ARGV[5]) - 1)}
