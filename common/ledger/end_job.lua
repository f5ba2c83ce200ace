-- Shared by all scripts that can move or end a job. KEYS[1] is the partition's tag; every other key begins with it.
local p = KEYS[1] .. ':'
local CLASSES = {'interactive', 'normal', 'batch'}

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

local function stamp(at) return string.format('%.3f', at) end

local function fields(jid, ...)
  local names, out = {...}, {}
  local values = redis.call('HMGET', p .. 'j:' .. jid, ...)
  for i, name in ipairs(names) do out[name] = values[i] or nil end
  return out
end

-- One message per watching front end: records of jid, number of the first item, ended, items.
local function record(jid, first, ended, items, from, to)
  return jid .. '\31' .. first .. '\31' .. ended .. '\31' .. table.concat(items, '\31', from, to)
end

local function tell(fes, message)
  for fe in string.gmatch(fes or '', '[^,]+') do redis.call('PUBLISH', 'fe:' .. fe, message) end
end

-- The share's score is one number, wherever it waits.
local function set_score(model, share, score)
  redis.call('ZADD', p .. 'sc:' .. model, score, share)
  for _, cls in ipairs(CLASSES) do
    local key = p .. 'u:' .. model .. ':' .. cls
    if redis.call('ZSCORE', key, share) then redis.call('ZADD', key, score, share) end
  end
end

local function score_of(model, share)
  local vt = tonumber(redis.call('HGET', p .. 'st:' .. model, 'vt') or '0')
  local score = tonumber(redis.call('ZSCORE', p .. 'sc:' .. model, share) or '0')
  return math.max(score, vt)
end

-- Into the waiting set; the state is the caller's.
local function enqueue(jid, model, cls, share, at_head)
  local list = p .. 'l:' .. model .. ':' .. cls .. ':' .. share
  redis.call(at_head and 'LPUSH' or 'RPUSH', list, jid)
  local score = score_of(model, share)
  redis.call('ZADD', p .. 'u:' .. model .. ':' .. cls, score, share)
  set_score(model, share, score)
  redis.call('HINCRBY', p .. 'st:' .. model, 'ready:' .. cls, 1)
end

local function unwatch(jid, fid)
  redis.call('SREM', p .. 'fw:' .. fid, jid)
end

-- Everything that happens when a job is over, except its last item.
local function finish(jid, state, at)
  local job = fields(jid, 'state', 'model', 'cls', 'share', 'worker', 'charge', 'weight', 'prompt_tokens', 'ntok',
    'keep_s', 'fe', 'nblobs', 'parent')
  local model = job.model
  if job.state == 'queued' then redis.call('HINCRBY', p .. 'st:' .. model, 'ready:' .. job.cls, -1) end
  if job.charge then
    local used = (tonumber(job.prompt_tokens) + tonumber(job.ntok)) / tonumber(job.weight)
    local score = tonumber(redis.call('ZSCORE', p .. 'sc:' .. model, job.share) or '0')
    set_score(model, job.share, math.max(0, score + used - tonumber(job.charge)))
  end
  if job.worker then
    redis.call('SREM', p .. 'w:' .. job.worker, jid)
    redis.call('SREM', p .. 'c:' .. job.worker, jid)
  end
  for fid in string.gmatch(job.fe or '', '[^,]+') do unwatch(jid, fid) end
  redis.call('ZREM', p .. 'dl', jid)
  redis.call('ZREM', p .. 'un', jid)
  redis.call('HSET', p .. 'j:' .. jid, 'state', state, 'ended', stamp(at))
  if state == 'done' then
    redis.call('HINCRBY', p .. 'st:' .. model, 'jobs', 1)
    redis.call('HINCRBY', p .. 'st:' .. model, 'tokens', job.ntok)
  end
  redis.call('EXPIRE', p .. 'j:' .. jid, job.keep_s)
  redis.call('EXPIRE', p .. 't:' .. jid, job.keep_s)
  for n = 1, tonumber(job.nblobs or '0') do redis.call('EXPIRE', p .. 'b:' .. jid .. ':' .. n, job.keep_s) end
  if job.parent then redis.call('RPUSH', p .. 'ended:' .. job.parent, jid) end
end

-- The one way to end a job from outside its worker: last item, publish, and all the rest.
local function end_job(jid, state, item, at)
  local job = fields(jid, 'fe')
  local seq = redis.call('RPUSH', p .. 't:' .. jid, item)
  redis.call('HSET', p .. 'j:' .. jid, 'seq', seq)
  tell(job.fe, record(jid, seq, 1, {item}, 1, 1))
  finish(jid, state, at)
end

-- A job that is handed back: to the head of its queue, unless it was cancelled or its time is over.
local function hand_back(jid, job, cancelled_item, expired_item, at)
  redis.call('HINCRBY', p .. 'j:' .. jid, 'epoch', 1)
  redis.call('SREM', p .. 'w:' .. job.worker, jid)
  redis.call('SREM', p .. 'c:' .. job.worker, jid)
  if job.cancel then return end_job(jid, 'cancelled', cancelled_item, at) end
  if at > tonumber(job.end_at) then return end_job(jid, 'expired', expired_item, at) end
  redis.call('HSET', p .. 'j:' .. jid, 'state', 'queued')
  enqueue(jid, job.model, job.cls, job.share, true)
end

-- Which of this worker's jobs are to end: cancelled ones, and those past their end.
local function ending(wid)
  local cancelled, expired = {}, {}
  for _, jid in ipairs(redis.call('SMEMBERS', p .. 'c:' .. wid)) do
    local job = fields(jid, 'state', 'worker', 'cancel')
    if job.state ~= 'running' or job.worker ~= wid then redis.call('SREM', p .. 'c:' .. wid, jid)
    elseif job.cancel then cancelled[#cancelled + 1] = jid
    else expired[#expired + 1] = jid end
  end
  return cancelled, expired
end

local function ready(model)
  return redis.call('HMGET', p .. 'st:' .. model, 'ready:interactive', 'ready:normal', 'ready:batch')
end

-- Seconds until a job at this position begins; empty where nothing was measured.
local function eta(model, position)
  local st = redis.call('HMGET', p .. 'st:' .. model, 'jobs', 'tokens')
  local jobs = tonumber(st[1] or '0')
  if jobs < 5 then return '' end
  local rate = 0
  for _, wid in ipairs(redis.call('ZRANGE', p .. 'workers', 0, -1)) do
    local info = redis.call('HMGET', p .. 'wi:' .. wid, 'model', 'tokens_per_s', 'free')
    if info[1] == model then
      if tonumber(info[3] or '0') > 0 then return '0' end
      rate = rate + tonumber(info[2] or '0')
    end
  end
  if rate <= 0 then return '' end
  return string.format('%.1f', position * tonumber(st[2]) / jobs / rate)
end
