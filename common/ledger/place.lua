-- Where a waiting job stands: an estimate of how many are claimed before it, and the seconds until it begins.
-- ARGV: owner, jid
local job = fields(ARGV[2], 'owner', 'state', 'model', 'cls', 'share')
if job.owner ~= ARGV[1] or job.state ~= 'queued' then return false end
local ahead = 0
local counts = ready(job.model)
for i, cls in ipairs(CLASSES) do
  if cls == job.cls then break end
  ahead = ahead + tonumber(counts[i] or '0')
end
local base = p .. 'l:' .. job.model .. ':' .. job.cls .. ':'
local own = redis.call('LPOS', base .. job.share, ARGV[2])
if not own then return false end
local mine = tonumber(redis.call('ZSCORE', p .. 'u:' .. job.model .. ':' .. job.cls, job.share) or '0')
local shares = redis.call('ZRANGE', p .. 'u:' .. job.model .. ':' .. job.cls, 0, 199, 'WITHSCORES')
for i = 1, #shares, 2 do
  if shares[i] ~= job.share then
    local turns = tonumber(shares[i + 1]) <= mine and own + 1 or own
    ahead = ahead + math.min(redis.call('LLEN', base .. shares[i]), turns)
  end
end
local position = ahead + own + 1
return {tostring(position), eta(job.model, position)}
