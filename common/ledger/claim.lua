-- CLAIM: the fairest waiting job of the first class that has one.
-- ARGV: wid, model, request number, '1' if a slot is free, cancelled item, expired item, classes...
local wid, model, request = ARGV[1], ARGV[2], ARGV[3]
local st = p .. 'st:' .. model
local at = clock()

local function answer(jid)
  local job = fields(jid, 'epoch', 'attempts', 'seq', 'body')
  return {'job', jid, job.epoch, job.attempts, job.seq, job.body, redis.call('LRANGE', p .. 't:' .. jid, 0, -1)}
end

-- The same request again: its reply was lost.
local last = redis.call('HMGET', p .. 'cr:' .. wid, 'request', 'jid', 'epoch')
if last[1] == request then
  local job = fields(last[2], 'state', 'worker', 'epoch')
  if job.state == 'running' and job.worker == wid and job.epoch == last[3] then return answer(last[2]) end
end

local function take(jid, job, score)
  local charge = tonumber(job.cost) / tonumber(job.weight)
  redis.call('HINCRBY', st, 'ready:' .. job.cls, -1)
  redis.call('HSET', st, 'vt', math.max(score, tonumber(redis.call('HGET', st, 'vt') or '0')))
  local epoch = redis.call('HINCRBY', p .. 'j:' .. jid, 'epoch', 1)
  redis.call('HSET', p .. 'j:' .. jid, 'state', 'running', 'worker', wid, 'claim_seq', job.seq)
  if not job.charge then
    redis.call('HSET', p .. 'j:' .. jid, 'charge', charge, 'started', stamp(at))
    set_score(model, job.share, score + charge)
  end
  redis.call('ZADD', p .. 'dl', job.end_at, jid)
  redis.call('SADD', p .. 'w:' .. wid, jid)
  redis.call('HSET', p .. 'cr:' .. wid, 'request', request, 'jid', jid, 'epoch', epoch)
  redis.call('EXPIRE', p .. 'cr:' .. wid, 86400)
  return answer(jid)
end

-- Every tenth claim with a free slot goes to the lowest class that waits.
local from, to, step = 7, #ARGV, 1
if ARGV[4] == '1' and tonumber(redis.call('HGET', p .. 'wi:' .. wid, 'claims') or '0') % 10 == 9 then
  from, to, step = #ARGV, 7, -1
end

local skipped = 0
for i = from, to, step do
  local cls = ARGV[i]
  local waiting = p .. 'u:' .. model .. ':' .. cls
  while true do
    local first = redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES')
    if #first == 0 then break end
    local share, score = first[1], tonumber(first[2])
    local list = p .. 'l:' .. model .. ':' .. cls .. ':' .. share
    local jid = redis.call('LPOP', list)
    if redis.call('LLEN', list) == 0 then redis.call('ZREM', waiting, share) end
    if jid then
      local job = fields(jid, 'state', 'cls', 'share', 'cost', 'weight', 'charge', 'cancel', 'end_at', 'wait_at', 'seq')
      if job.state == 'queued' then
        if job.cancel then end_job(jid, 'cancelled', ARGV[5], at)
        elseif at > tonumber(job.charge and job.end_at or job.wait_at) then end_job(jid, 'expired', ARGV[6], at)
        else
          if ARGV[4] == '1' then redis.call('HINCRBY', p .. 'wi:' .. wid, 'claims', 1) end
          return take(jid, job, score)
        end
      end
      skipped = skipped + 1
      if skipped >= 100 then return {'again'} end
    end
  end
end
return {'none'}
