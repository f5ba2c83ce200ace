-- Sweep: what is past its deadline or unwatched too long ends. At most 100 of each a call.
-- ARGV: seconds a job may stay unwatched, seconds a worker has to end a job
local unwatched_s, grace_s = tonumber(ARGV[1]), tonumber(ARGV[2])
local at = clock()
local done = 0
for _, jid in ipairs(redis.call('ZRANGEBYSCORE', p .. 'dl', '-inf', stamp(at), 'LIMIT', 0, 100)) do
  local job = fields(jid, 'state', 'worker', 'charge', 'end_at', 'wait_at')
  if job.state == 'queued' then
    if at >= tonumber(job.charge and job.end_at or job.wait_at) then end_job(jid, 'expired', EXPIRED, at)
    else redis.call('ZADD', p .. 'dl', job.end_at, jid) end
  elseif job.state == 'running' then
    local latest = tonumber(job.end_at) + grace_s
    if at >= latest then -- its worker knows nothing of it
      redis.call('HINCRBY', p .. 'j:' .. jid, 'epoch', 1)
      end_job(jid, 'expired', EXPIRED, at)
    else
      redis.call('ZADD', p .. 'dl', stamp(latest), jid)
      redis.call('SADD', p .. 'c:' .. job.worker, jid)
    end
  else redis.call('ZREM', p .. 'dl', jid) end
  done = done + 1
end
for _, jid in ipairs(redis.call('ZRANGEBYSCORE', p .. 'un', '-inf', stamp(at - unwatched_s), 'LIMIT', 0, 100)) do
  local job = fields(jid, 'state', 'worker')
  if job.state == 'queued' then end_job(jid, 'cancelled', CANCELLED, at)
  elseif job.state == 'running' then cancel(jid, job) end
  redis.call('ZREM', p .. 'un', jid)
  done = done + 1
end
return done
