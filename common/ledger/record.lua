-- A job, where it stands, and the last item of its log where it has ended. ARGV: owner, jid
local jid = ARGV[2]
local job = fields(jid, 'owner', 'body', 'state', 'attempts', 'ntok', 'came', 'begun', 'ended')
if not job.owner or job.owner ~= ARGV[1] then return false end
local tokens, last = job.ntok or generated(jid), job.ended and redis.call('LINDEX', p .. 't:' .. jid, -1)
return {job.body, job.state, job.attempts, tostring(tokens), tostring(log_length(jid)), job.came, job.begun or false,
  job.ended or false, last or false}
