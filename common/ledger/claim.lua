-- CLAIM: the fairest waiting job of the first class that has one.
-- ARGV: wid, model, the request's name, '1' if a slot is free, '2' if it may be kept for a class' turn, classes...
local wid, model, request, free = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local st, asked = p .. 'st:' .. model, p .. 'cr:' .. wid
local at = clock()

local function answer(jid, kept)
  local job = fields(jid, 'epoch', 'attempts', 'body', 'spent')
  local items = redis.call('LRANGE', p .. 't:' .. jid, 0, -1)
  local told = (job.spent or '0') .. ' ' .. (kept or '0')
  return {'job', job.epoch, job.attempts, tostring(#items), told, job.body, items}
end

-- The same request again: its reply was lost.
local last = redis.call('HMGET', asked, 'request', 'jid', 'epoch', 'claims', 'kept')
if last[1] == request then
  local job = fields(last[2], 'state', 'worker', 'epoch')
  if job.state == 'running' and job.worker == wid and job.epoch == last[3] then
    return answer(last[2], last[5])
  end
end

-- Virtual time: the score of the last served, but no more than the smallest that waits for a turn before his. Who is
-- idle and below it has no score to be kept.
local function pass(line, score, served)
  for _, cls in ipairs(CLASSES) do
    local first = redis.call('ZRANGE', waiting_in(model, cls, line), 0, 0, 'WITHSCORES')
    if first[2] then score = math.min(score, tonumber(first[2])) end
    if cls == served then break end
  end
  local key = p .. 'sc:' .. model .. line
  local vt = math.max(score, tonumber(redis.call('ZSCORE', key, VT) or '0'))
  write_score(model, line, VT, vt)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('(%.17g', vt))
end

-- Every tenth claim with a free slot, or the first behind it for which one may be kept, goes to the lowest class that
-- waits, every other of these to the one above it.
local order, claims = {unpack(ARGV, 5)}, tonumber(last[4] or '0')
local is_due = claims % 10 == 9
local is_floor = is_due and free == '2'
if is_floor then
  for i = 1, #order do order[i] = ARGV[#ARGV + 1 - i] end
  if claims % 20 == 19 and order[3] then order[1], order[2] = order[2], order[1] end
end

-- '1': a higher class waits, and this job keeps its slot all the same.
local function is_kept(cls)
  for _, higher in ipairs(CLASSES) do
    if higher == cls then break end
    if redis.call('EXISTS', waiting_in(model, higher, OWNERS)) == 1 then return '1' end
  end
  return '0'
end

local function take(jid, job, kept)
  local epoch = redis.call('HINCRBY', p .. 'j:' .. jid, 'epoch', 1)
  redis.call('HSET', p .. 'j:' .. jid, 'state', 'running', 'worker', wid, 'claimed', stamp(at),
    'claim_seq', log_length(jid))
  redis.call('HSETNX', p .. 'j:' .. jid, 'begun', stamp(at))
  local lines = {[OWNERS] = job.owner, [line_of(job.owner)] = job.share}
  for line, who in pairs(lines) do
    local score = score_of(model, line, who)
    pass(line, score, job.cls)
    if not job.charge then set_score(model, line, who, score + tonumber(job.cost) / tonumber(job.weight)) end
  end
  if not job.charge then redis.call('HSET', p .. 'j:' .. jid, 'charge', tonumber(job.cost) / tonumber(job.weight)) end
  leave(jid, job)
  redis.call('ZADD', p .. 'dl', job.end_at, jid)
  local held = struct.pack(HELD, epoch, tonumber(job.end_at), stamp(at)) .. NOTHING .. job.fe
  redis.call('HSET', held_key(wid), jid, held)
  redis.call('ZADD', p .. 'workers', 'NX', stamp(at), wid) -- a claim that arrives after REAP must be found again
  redis.call('HSET', asked, 'request', request, 'jid', jid, 'epoch', epoch, 'kept', kept)
  if free ~= '0' and (is_floor or not is_due) then redis.call('HINCRBY', asked, 'claims', 1) end
  redis.call('EXPIRE', asked, 86400)
  return answer(jid, kept)
end

local skipped = 0
for _, cls in ipairs(order) do
  local owners = waiting_in(model, cls, OWNERS)
  local owner = redis.call('ZRANGE', owners, 0, 0)[1]
  while owner do
    local share = redis.call('ZRANGE', waiting_in(model, cls, line_of(owner)), 0, 0)[1] or ''
    local jid = redis.call('LINDEX', list_of(model, cls, share), 0) or ''
    local job = fields(jid, 'state', 'model', 'cls', 'owner', 'share', 'cost', 'weight', 'charge', 'cancel', 'end_at',
      'wait_at', 'fe')
    if job.state ~= 'queued' then drop(jid, model, cls, owner, share)
    elseif job.cancel then end_job(jid, 'cancelled', CANCELLED, at)
    elseif at >= tonumber(job.charge and job.end_at or job.wait_at) then end_job(jid, 'expired', EXPIRED, at)
    else return take(jid, job, is_floor and is_kept(cls) or '0') end
    skipped = skipped + 1
    if skipped >= 100 then return {'again'} end
    owner = redis.call('ZRANGE', owners, 0, 0)[1]
  end
end
return {'none'}
