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

-- Who waits stands in lines by score: owners in one, and each owner's shares in one of his. A line's name is '' or
-- ':<owner>'. A score is one number, wherever its holder waits; among a line's scores is its virtual time.
local OWNERS, VT = '', 'vt'

local function line_of(owner) return ':' .. owner end

local function waiting_in(model, cls, line) return p .. 'u:' .. model .. ':' .. cls .. line end

local function list_of(model, cls, share) return p .. 'l:' .. model .. ':' .. cls .. ':' .. share end

local function write_score(model, line, who, score)
  local key = p .. 'sc:' .. model .. line
  redis.call('ZADD', key, score, who)
  if line ~= OWNERS then redis.call('EXPIRE', key, 2592000) end -- no job waits for longer
end

local function set_score(model, line, who, score)
  write_score(model, line, who, score)
  for _, cls in ipairs(CLASSES) do
    local waiting = waiting_in(model, cls, line)
    if redis.call('ZSCORE', waiting, who) then redis.call('ZADD', waiting, score, who) end
  end
end

-- Of one who does not wait it is the virtual time at least.
local function score_of(model, line, who)
  for _, cls in ipairs(CLASSES) do
    local score = redis.call('ZSCORE', waiting_in(model, cls, line), who)
    if score then return tonumber(score) end
  end
  local known = redis.call('ZMSCORE', p .. 'sc:' .. model .. line, who, VT)
  return math.max(tonumber(known[1] or '0'), tonumber(known[2] or '0'))
end

local function stand_in(model, cls, line, who)
  local waiting = waiting_in(model, cls, line)
  if redis.call('ZSCORE', waiting, who) then return end
  local score = score_of(model, line, who)
  redis.call('ZADD', waiting, score, who)
  write_score(model, line, who, score)
end

-- Time goes on with what is used, slower the more there are who use and wait: somebody new each time, who begins where
-- time stands, does not hold up for ever those who were here before. So slow that what one used is not forgiven at once.
local function go_on(line, job, used)
  local running = job.worker and redis.call('HLEN', held_key(job.worker)) * redis.call('ZCARD', p .. 'workers') or 0
  local others = running + redis.call('ZCARD', waiting_in(job.model, job.cls, line))
  local vt = tonumber(redis.call('ZSCORE', p .. 'sc:' .. job.model .. line, VT) or '0')
  write_score(job.model, line, VT, vt + used / (8 + others))
end

-- Into the waiting set; the state is the caller's. A worker full of the lowest class hears of others at once.
local function enqueue(jid, job, at_head)
  local model, cls = job.model, job.cls
  redis.call('HINCRBY', p .. 'st:' .. model, 'ready:' .. cls, 1)
  redis.call('HINCRBY', p .. 'w:' .. model .. ':' .. cls, job.owner, 1)
  redis.call(at_head and 'LPUSH' or 'RPUSH', list_of(model, cls, job.share), jid)
  stand_in(model, cls, OWNERS, job.owner)
  stand_in(model, cls, line_of(job.owner), job.share)
  if cls ~= 'batch' then redis.call('PUBLISH', 'wk:' .. model, record(jid, '', 0, 0, cls)) end
end

local function drop(jid, model, cls, owner, share)
  local list, mine = list_of(model, cls, share), waiting_in(model, cls, line_of(owner))
  redis.call('LREM', list, 1, jid)
  if redis.call('LLEN', list) == 0 then redis.call('ZREM', mine, share) end
  if redis.call('ZCARD', mine) == 0 then
    redis.call('ZREM', waiting_in(model, cls, OWNERS), owner)
    redis.call('HDEL', p .. 'w:' .. model .. ':' .. cls, owner)
  end
end

-- Out of the waiting set.
local function leave(jid, job)
  redis.call('HINCRBY', p .. 'st:' .. job.model, 'ready:' .. job.cls, -1)
  redis.call('HINCRBY', p .. 'w:' .. job.model .. ':' .. job.cls, job.owner, -1)
  drop(jid, job.model, job.cls, job.owner, job.share)
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
    for line, who in pairs({[OWNERS] = job.owner, [line_of(job.owner)] = job.share}) do
      set_score(model, line, who, math.max(0, score_of(model, line, who) + used - tonumber(job.charge)))
      go_on(line, job, used)
    end
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
  local job = fields(jid, 'state', 'worker', 'epoch', 'model', 'cls', 'owner', 'share', 'cancel', 'end_at',
    'claimed', 'claim_seq', 'attempts')
  if job.state == 'running' and job.worker == wid then return job end
end

-- A job that is handed back: to the head of its queue, unless it was cancelled or its time is over.
local function hand_back(jid, job, at)
  redis.call('HINCRBY', p .. 'j:' .. jid, 'epoch', 1)
  let_go(jid, job.worker)
  if job.cancel then return end_job(jid, 'cancelled', CANCELLED, at) end
  if at >= tonumber(job.end_at) then return end_job(jid, 'expired', EXPIRED, at) end
  redis.call('HSET', p .. 'j:' .. jid, 'state', 'queued')
  enqueue(jid, job, true)
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

-- An estimate of how many of a line's ``total`` jobs, without ``who``'s, are claimed before the one that is ``turn``th of his.
local function before(model, cls, line, who, turn, total, count)
  local waiting, ahead, seen = waiting_in(model, cls, line), 0, 0
  local mine = score_of(model, line, who)
  local others = redis.call('ZRANGE', waiting, 0, 199, 'WITHSCORES')
  for i = 1, #others, 2 do
    if others[i] ~= who then
      local jobs = count(others[i])
      seen = seen + jobs
      ahead = ahead + math.min(jobs, tonumber(others[i + 1]) <= mine and turn or turn - 1)
    end
  end
  local rest = math.max(0, redis.call('ZCARD', waiting) - 200)
  if rest > 0 and tonumber(others[#others]) > mine then turn = turn - 1 end -- none of them has a smaller score
  return ahead + math.max(0, math.min(total - seen, rest * turn))
end

-- An estimate of how many jobs are claimed up to and with one that has ``own`` jobs of its share before it.
local function position(job, own)
  local model, cls, owner, share = job.model, job.cls, job.owner, job.share
  local higher, counts = 0, ready(model)
  local all = 0
  for i, name in ipairs(CLASSES) do
    all = tonumber(counts[i] or '0')
    if name == cls then break end
    higher = higher + all
  end
  local function of_owner(one) return tonumber(redis.call('HGET', p .. 'w:' .. model .. ':' .. cls, one) or '0') end
  local function of_share(one) return redis.call('LLEN', list_of(model, cls, one)) end
  local his = of_owner(owner)
  local turn = own + 1
  turn = turn + before(model, cls, line_of(owner), share, turn, his - of_share(share), of_share)
  return higher + turn + before(model, cls, OWNERS, owner, turn, all - his, of_owner)
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

-- When there may be room again, where no more may wait in this class or of this share; nothing where there is room. In a
-- full class there is room for an owner who has less than his part of it, up to twice as much.
local function full_until(model, cls, owner, share, most_class, most_share)
  if cls == 'batch' then return end
  local waiting = tonumber(redis.call('HGET', p .. 'st:' .. model, 'ready:' .. cls) or '0')
  local is_full = redis.call('LLEN', list_of(model, cls, share)) >= tonumber(most_share)
  if waiting >= tonumber(most_class) then
    local his = redis.call('HGET', p .. 'w:' .. model .. ':' .. cls, owner)
    local owners = redis.call('ZCARD', waiting_in(model, cls, OWNERS)) + (his and 0 or 1)
    is_full = is_full or tonumber(his or '0') >= tonumber(most_class) / owners or waiting >= 2 * tonumber(most_class)
  end
  if is_full then return eta(model, waiting + 1) end
end
