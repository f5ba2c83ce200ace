-- Shared by all scripts that can move or end a job. KEYS[1] is the partition's tag; every other key begins with it.
-- Before this stand announce.lua, and CANCELLED, EXPIRED and POISON: the Failed items, worded in Python.
-- A script's first write to a job is one that a full Redis refuses (HSET, HINCRBY, RPUSH), so it does all or nothing.
local CLASSES = {'interactive', 'normal', 'batch'}
local OBJECTS = {chat = 'chat.completion.', completion = 'completion.'}
-- What EMIT must know of a running job: its epoch, end_at and claimed; fe stands behind them. Between them is nothing:
-- a hash whose values have 64 bytes or less is searched from its beginning for each of up to 512 jobs.
local HELD, NOTHING, FE_AT = '>I4dc14', string.rep(' ', 39), 66
local TOLD = {done = 'completed', failed = 'failed', expired = 'failed', cancelled = 'cancelled'} -- to webhooks

-- Cut, never rounded up: what is written is not in the future.
local function stamp(at) return string.format('%.3f', math.floor(at * 1000) / 1000) end

local function fields(jid, ...)
  local names, out = {...}, {}
  local values = redis.call('HMGET', p .. 'j:' .. jid, ...)
  for i, name in ipairs(names) do out[name] = values[i] or nil end
  return out
end

local function held_key(wid) return p .. 'h:' .. wid end

local function log_length(jid) return redis.call('LLEN', p .. 't:' .. jid) end

-- How many tokens an open job has generated: its last item ends with it.
local function generated(jid)
  local last = redis.call('LINDEX', p .. 't:' .. jid, -1) or ''
  return tonumber(string.match(last, '"n":(%d+)}$') or 0)
end

-- It runs on this worker no more.
local function let_go(jid, wid)
  redis.call('HDEL', held_key(wid), jid)
  redis.call('SREM', p .. 'c:' .. wid, jid)
end

-- Who hears of a job from now on, of a running one also in EMIT.
local function set_listeners(jid, fes)
  redis.call('HSET', p .. 'j:' .. jid, 'fe', fes)
  local wid = redis.call('HGET', p .. 'j:' .. jid, 'worker')
  local held = wid and redis.call('HGET', held_key(wid), jid)
  if held then
    redis.call('HSET', held_key(wid), jid, string.sub(held, 1, FE_AT - 1) .. fes)
  end
end

-- One message per watching front end: records of jid, claim, number of the first item, ended, items.
local function record(jid, claimed, first, ended, items)
  return jid .. '\31' .. claimed .. '\31' .. string.format('%d', first) .. '\31' .. ended .. '\31' .. items
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

local function list_of(model, cls, share) return p .. 'l:' .. model .. ':' .. cls .. ':' .. share end

-- Into the waiting set; the state is the caller's. A worker full of the lowest class hears of others at once.
local function enqueue(jid, model, cls, share, at_head)
  redis.call('HINCRBY', p .. 'st:' .. model, 'ready:' .. cls, 1)
  redis.call(at_head and 'LPUSH' or 'RPUSH', list_of(model, cls, share), jid)
  local waiting = p .. 'u:' .. model .. ':' .. cls
  if not redis.call('ZSCORE', waiting, share) then
    local score = score_of(model, share)
    redis.call('ZADD', waiting, score, share)
    set_score(model, share, score)
  end
  if cls ~= 'batch' then redis.call('PUBLISH', 'wk:' .. model, record(jid, '', 0, 0, cls)) end
end

local function drop(jid, model, cls, share)
  local list = list_of(model, cls, share)
  redis.call('LREM', list, 1, jid)
  if redis.call('LLEN', list) == 0 then redis.call('ZREM', p .. 'u:' .. model .. ':' .. cls, share) end
end

-- Out of the waiting set.
local function leave(jid, job)
  redis.call('HINCRBY', p .. 'st:' .. job.model, 'ready:' .. job.cls, -1)
  drop(jid, job.model, job.cls, job.share)
end

-- A front end hears of a job from now on.
local function listen(jid, fid, at)
  redis.call('SADD', p .. 'fw:' .. fid, jid)
  redis.call('ZADD', p .. 'fes', 'NX', stamp(at), fid) -- whoever listens is judged by its beat
  redis.call('ZREM', p .. 'un', jid)
end

-- The same for one that is open already, where fewer than four front ends hear of it; 1: it hears.
local function hear(jid, fes, fid)
  local count, heard = 0, 0
  for fe in string.gmatch(fes or '', '[^,]+') do
    count = count + 1
    if fe == fid then heard = 1 end
  end
  if heard == 0 and count < 4 then
    set_listeners(jid, count == 0 and fid or (fes .. ',' .. fid))
    heard = 1
  end
  if heard == 1 then listen(jid, fid, clock()) end
  return heard
end

-- A running job is to end: its worker hears of it.
local function cancel(jid, job)
  redis.call('HSET', p .. 'j:' .. jid, 'cancel', 1)
  redis.call('SADD', p .. 'c:' .. job.worker, jid)
end

-- Everything that happens when a job is over, except its last item.
local function finish(jid, state, tokens, at)
  local job = fields(jid, 'state', 'model', 'cls', 'share', 'worker', 'charge', 'weight', 'prompt_tokens', 'cost', 'keep_s',
    'fe', 'nblobs', 'parent', 'owner', 'kind')
  local model = job.model
  if job.state == 'queued' then leave(jid, job) end
  if job.worker then let_go(jid, job.worker) end
  if job.charge then
    local used = (tonumber(job.prompt_tokens) + tokens) / tonumber(job.weight)
    local score = tonumber(redis.call('ZSCORE', p .. 'sc:' .. model, job.share) or '0')
    set_score(model, job.share, math.max(0, score + used - tonumber(job.charge)))
  end
  for fid in string.gmatch(job.fe or '', '[^,]+') do redis.call('SREM', p .. 'fw:' .. fid, jid) end
  redis.call('ZREM', p .. 'dl', jid)
  redis.call('ZREM', p .. 'un', jid)
  redis.call('HSET', p .. 'j:' .. jid, 'state', state, 'ended', stamp(at), 'ntok', tokens)
  if state == 'done' then
    local st = p .. 'st:' .. model
    redis.call('HINCRBY', st, 'jobs', 1)
    redis.call('HINCRBY', st, 'tokens', tokens)
    local lately = redis.call('HMGET', st, 'spent', 'allowed') -- by about the last hundred
    redis.call('HSET', st, 'spent', 0.99 * (lately[1] or 0) + tokens,
      'allowed', 0.99 * (lately[2] or 0) + job.cost - job.prompt_tokens)
  end
  redis.call('EXPIRE', p .. 'j:' .. jid, job.keep_s)
  redis.call('EXPIRE', p .. 't:' .. jid, job.keep_s)
  for n = 1, tonumber(job.nblobs or '0') do redis.call('EXPIRE', p .. 'b:' .. jid .. ':' .. n, job.keep_s) end
  if job.parent then redis.call('RPUSH', p .. 'ended:' .. job.parent, jid)
  elseif OBJECTS[job.kind] then announce(job.owner, OBJECTS[job.kind] .. TOLD[state], jid, at) end
end

-- The one way to end a job from outside its worker: last item, publish, and all the rest.
local function end_job(jid, state, item, at)
  local job, tokens = fields(jid, 'fe', 'claimed'), generated(jid)
  local seq = redis.call('RPUSH', p .. 't:' .. jid, item)
  tell(job.fe, record(jid, job.claimed or '', seq, 1, item))
  finish(jid, state, tokens, at)
end

-- What hand_back and its callers must know of a job.
local function held_by(wid, jid)
  local job = fields(jid, 'state', 'worker', 'epoch', 'model', 'cls', 'share', 'cancel', 'end_at', 'claimed',
    'claim_seq', 'attempts')
  if job.state == 'running' and job.worker == wid then return job end
end

-- A job that is handed back: to the head of its queue, unless it was cancelled or its time is over.
local function hand_back(jid, job, at)
  redis.call('HINCRBY', p .. 'j:' .. jid, 'epoch', 1)
  let_go(jid, job.worker)
  if job.cancel then return end_job(jid, 'cancelled', CANCELLED, at) end
  if at >= tonumber(job.end_at) then return end_job(jid, 'expired', EXPIRED, at) end
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

-- An estimate of how many jobs are claimed up to and with one that has ``own`` jobs of its share before it.
local function position(model, cls, share, own)
  local ahead = 0
  local counts = ready(model)
  for i, name in ipairs(CLASSES) do
    if name == cls then break end
    ahead = ahead + tonumber(counts[i] or '0')
  end
  local waiting = p .. 'u:' .. model .. ':' .. cls
  local mine = tonumber(redis.call('ZSCORE', waiting, share) or score_of(model, share))
  local others = redis.call('ZRANGE', waiting, 0, 199, 'WITHSCORES')
  for i = 1, #others, 2 do
    if others[i] ~= share then
      local turns = tonumber(others[i + 1]) <= mine and own + 1 or own
      ahead = ahead + math.min(redis.call('LLEN', list_of(model, cls, others[i])), turns)
    end
  end
  return ahead + own + 1
end

-- Seconds until a job at this position begins; empty where nothing was measured.
local function eta(model, place)
  local st = redis.call('HMGET', p .. 'st:' .. model, 'jobs', 'tokens')
  local jobs = tonumber(st[1] or '0')
  local rate, free = 0, 0
  for _, wid in ipairs(redis.call('ZRANGE', p .. 'workers', 0, -1)) do
    local info = redis.call('HMGET', p .. 'wi:' .. wid, 'model', 'state', 'tokens_per_s', 'free')
    if info[1] == model and info[2] == 'ready' then
      rate = rate + tonumber(info[3])
      free = free + tonumber(info[4])
    end
  end
  if place <= free then return '0' end
  if jobs < 5 or rate <= 0 then return '' end
  return string.format('%.1f', (place - free) * tonumber(st[2]) / jobs / rate)
end

-- When there may be room again, where no more may wait in this class or of this share; nothing where there is room.
local function full_until(model, cls, share, most_class, most_share)
  if cls == 'batch' then return end
  local waiting = tonumber(redis.call('HGET', p .. 'st:' .. model, 'ready:' .. cls) or '0')
  local own = redis.call('LLEN', list_of(model, cls, share))
  if waiting >= tonumber(most_class) or own >= tonumber(most_share) then return eta(model, waiting + 1) end
end
