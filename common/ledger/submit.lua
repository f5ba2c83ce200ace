-- SUBMIT: keep the job, queue it, watch it; once or not at all.
-- ARGV: jid, front end or '', limit of the class, limit of the share, end_s, max_wait_s or '', then what may name
-- another job that is the same request (idempotency key and digest of the body, orphan; each or ''), the job's fields
local jid, fid = ARGV[1], ARGV[2]
local idem, digest, orphan = ARGV[7], ARGV[8], ARGV[9]
local job = {}
for i = 10, #ARGV, 2 do job[ARGV[i]] = ARGV[i + 1] end
local key, model, cls, share = p .. 'j:' .. jid, job.model, job.cls, job.share
local owner = redis.call('HGET', key, 'owner')
if owner then return {owner == job.owner and 'again' or 'taken'} end

-- Another job that is there, and neither ended badly nor is about to.
local function is_good(other)
  local told = fields(other, 'owner', 'state', 'cancel')
  if told.owner ~= job.owner then return false end
  return told.state == 'done' or (told.state == 'queued' or told.state == 'running') and not told.cancel
end

-- It is this request's from here on: the hang-up of whoever asked before cancels nothing.
local function join(other)
  local told = fields(other, 'state', 'fe')
  if told.state ~= 'done' then
    redis.call('HSET', p .. 'j:' .. other, 'asker', jid)
    if fid ~= '' then hear(other, told.fe, fid) end
  end
  return {'known', other}
end

local same = known(idem, digest, is_good)
if same == 'conflict' then return {same} end
if same then return join(same) end
if orphan ~= '' then
  local name = p .. 'orphan:' .. orphan
  local other, taker = string.match(redis.call('GET', name) or '', '^(%x+)(.*)$')
  if other and (taker == '' or taker == ' ' .. jid) and is_good(other) then
    redis.call('SET', name, other .. ' ' .. jid, 'KEEPTTL') -- each once, also when this reply is lost
    return join(other)
  end
end

local at = clock()
local own = redis.call('LLEN', list_of(model, cls, share))
local full = full_until(model, cls, job.owner, share, ARGV[3], ARGV[4])
if full then return {'full', full} end
if job.priority == '1' then own = 0 end
local place = position(job, own)
local wait = eta(model, place)
local end_at = at + tonumber(ARGV[5])
local wait_at = end_at
if ARGV[6] ~= '' then
  if wait ~= '' and tonumber(wait) > tonumber(ARGV[6]) then return {'late', wait} end
  wait_at = math.min(end_at, at + tonumber(ARGV[6]))
end
redis.call('HSET', key, 'state', 'queued', 'epoch', 0, 'attempts', 0, 'fe', fid, 'came', stamp(at),
  'end_at', stamp(end_at), 'wait_at', stamp(wait_at), unpack(ARGV, 10))
redis.call('ZADD', p .. 'dl', stamp(wait_at), jid)
enqueue(jid, job, job.priority == '1')
keep(idem, jid, digest)
if cls ~= 'batch' then
  local mine = p .. 'o:' .. job.owner
  redis.call('ZADD', mine, stamp(at), jid)
  redis.call('ZREMRANGEBYRANK', mine, 0, -10001)
  redis.call('EXPIRE', mine, 2592000)
end
if fid ~= '' then listen(jid, fid, at)
elseif job.on_disconnect == 'cancel' then redis.call('ZADD', p .. 'un', stamp(at), jid) end
return {'ok', tostring(place), wait}
