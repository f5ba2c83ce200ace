-- Sweep: what is past its deadline or unwatched too long ends; idle scores are forgotten. At most 100 of each a call.
-- ARGV: seconds a job may stay unwatched, cancelled item, expired item
local at = clock()
local again = 0
for _, jid in ipairs(redis.call('ZRANGEBYSCORE', p .. 'dl', '-inf', stamp(at), 'LIMIT', 0, 100)) do
  local job = fields(jid, 'state', 'worker', 'charge', 'end_at', 'wait_at')
  if job.state == 'queued' then
    if at > tonumber(job.charge and job.end_at or job.wait_at) then end_job(jid, 'expired', ARGV[3], at)
    else redis.call('ZADD', p .. 'dl', job.end_at, jid) end
  elseif job.state == 'running' then
    redis.call('SADD', p .. 'c:' .. job.worker, jid)
    redis.call('ZADD', p .. 'dl', stamp(at + 5), jid)
  else redis.call('ZREM', p .. 'dl', jid) end
  again = again + 1
end
for _, jid in ipairs(redis.call('ZRANGEBYSCORE', p .. 'un', '-inf', stamp(at - tonumber(ARGV[1])), 'LIMIT', 0, 100)) do
  redis.call('ZREM', p .. 'un', jid)
  local job = fields(jid, 'state', 'worker')
  if job.state == 'queued' then end_job(jid, 'cancelled', ARGV[2], at)
  elseif job.state == 'running' then
    redis.call('HSET', p .. 'j:' .. jid, 'cancel', 1)
    redis.call('SADD', p .. 'c:' .. job.worker, jid)
  end
  again = again + 1
end
for _, model in ipairs(redis.call('SMEMBERS', p .. 'models')) do
  local vt = redis.call('HGET', p .. 'st:' .. model, 'vt') or '0'
  for _, share in ipairs(redis.call('ZRANGEBYSCORE', p .. 'sc:' .. model, '-inf', vt, 'LIMIT', 0, 100)) do
    local waits = false
    for _, cls in ipairs(CLASSES) do
      waits = waits or redis.call('ZSCORE', p .. 'u:' .. model .. ':' .. cls, share)
    end
    if not waits then redis.call('ZREM', p .. 'sc:' .. model, share) end
  end
end
return again
