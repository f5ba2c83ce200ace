-- Where a waiting job stands, and the seconds until it begins. ARGV: owner, jid
local jid = ARGV[2]
local job = fields(jid, 'owner', 'state', 'model', 'cls', 'share')
if job.owner ~= ARGV[1] or job.state ~= 'queued' then return false end
local own = redis.call('LPOS', list_of(job.model, job.cls, job.share), jid)
if not own then return false end
local place = position(job, own)
return {tostring(place), eta(job.model, place)}
